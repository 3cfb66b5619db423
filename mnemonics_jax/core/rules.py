"""What the value of a field may be, as a test and in words."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """A rule.

    Attributes:
        holds: whether a value keeps the rule.
        allowed: what is allowed, in words that follow 'allowed: '.
    """

    holds: Callable[[Any], bool]
    allowed: str


def at_least(least: int) -> Rule:
    """An integer >= `least`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.at_least(1).holds(0)
        False
    """
    return Rule(
        lambda v: type(v) is int and v >= least, f'a whole number >= {least}'
    )


def one_of(names: Iterable[str]) -> Rule:
    """One of `names`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.one_of(('sgd', 'adam')).allowed
        'sgd, adam'
    """
    return Rule(lambda v: v in names, ', '.join(names))


def or_none(rule: Rule) -> Rule:
    """What `rule` allows, or None.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.or_none(rules.at_least(1)).holds(None)
        True
    """
    return Rule(lambda v: v is None or rule.holds(v), rule.allowed)


def number(low: float, high: float, *, above: bool = False) -> Rule:
    """A number in [`low`, `high`), or in (`low`, `high`) with `above`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.number(0, 1).allowed
        'a number >= 0 and < 1'
    """

    def holds(value):
        is_number = isinstance(value, int | float) and value is not True
        return is_number and low <= value < high and (value > low or not above)

    sign = '>' if above else '>='
    end = '' if high == float('inf') else f' and < {high:g}'
    return Rule(holds, f'a number {sign} {low:g}{end}')


POSITIVE = number(0, float('inf'), above=True)
NOT_NEGATIVE = number(0, float('inf'))
BOOLEAN = Rule(lambda v: type(v) is bool, 'true, false')
FOLDER = Rule(lambda v: type(v) is str and v != '', 'a work directory')
FILES = Rule(lambda v: type(v) is str, 'files, separated by commas')
SEED = Rule(
    lambda v: type(v) is int and 0 <= v < 2**32,
    'a whole number in 0..2**32 - 1',
)
