"""Fields of the configuration and the rules of their values."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """A rule.

    Attributes:
        holds: whether a value keeps the rule.
        words: what follows 'must be', as in 'an integer >= 1'.
        kind: type of the values, which a flag is read as.
        names: lists the names to choose from, if they are looked up late.
    """

    holds: Callable[[Any], bool]
    words: str
    kind: type
    names: Callable[[], Iterable[str]] | None = None

    def must_be(self) -> str:
        """What a message says after 'must be', with the names there are."""
        return one_of(self.names()).words if self.names else self.words


class Field(NamedTuple):
    """A field.

    Attributes:
        default: its value where nothing sets it.
        rule: what it may be.
        text: what it is, in one line.
    """

    default: Any
    rule: Rule
    text: str


def at_least(least: int, most: int | None = None) -> Rule:
    """An integer >= `least` and, if given, <= `most`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.at_least(1).holds(0), rules.at_least(0, 9).words
        (False, 'an integer >= 0 and <= 9')
    """
    end = '' if most is None else f' and <= {most}'
    top = float('inf') if most is None else most
    return Rule(
        lambda v: type(v) is int and least <= v <= top,
        f'an integer >= {least}{end}',
        int,
    )


def integer(low: int, high: int) -> Rule:
    """An integer from `low` to `high`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.integer(1, 100).words
        'an integer from 1 to 100'
    """
    return Rule(
        lambda v: type(v) is int and low <= v <= high,
        f'an integer from {low} to {high}',
        int,
    )


def one_of(names: Iterable[str]) -> Rule:
    """One of `names`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.one_of(('sgd', 'adam')).words
        'one of sgd, adam'
    """
    names = tuple(names)
    start = 'one of ' if len(names) > 1 else ''
    return Rule(lambda v: v in names, f'{start}{", ".join(names)}', str)


def name_in(place: str, names: Callable[[], Iterable[str]]) -> Rule:
    """One of the names that a part of the package has.

    Args:
        place: the file or folder, for texts that cannot wait for the names.
        names: lists them; it is called at each check, so that plug-ins are
            seen, and what it imports is not loaded before.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.name_in('my/networks', lambda: ['big', 'small']).must_be()
        'one of big, small'
    """
    return Rule(lambda v: v in tuple(names()), f'a name in {place}', str, names)


def or_none(rule: Rule) -> Rule:
    """What `rule` allows, or None.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.or_none(rules.at_least(1)).words
        'an integer >= 1 or None'
    """
    return Rule(
        lambda v: v is None or rule.holds(v), f'{rule.words} or None', rule.kind
    )


def number(low: float, high: float, *, above: bool = False) -> Rule:
    """A number in [`low`, `high`), or in (`low`, `high`) with `above`.

    Example:
        >>> from mnemonics_jax import rules
        >>> rules.number(0, 1).words
        'a number >= 0 and < 1'
    """

    def holds(value):
        is_number = isinstance(value, int | float) and value is not True
        return is_number and low <= value < high and (value > low or not above)

    sign = '>' if above else '>='
    end = '' if high == float('inf') else f' and < {high:g}'
    return Rule(holds, f'a number {sign} {low:g}{end}', float)


def _positive_integers(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        type(v) is int and 0 < v <= 10**6 for v in value
    )


# Rates, weights and temperatures. Beyond, float32 would soon overflow.
POSITIVE = number(0, 1e9, above=True)
NOT_NEGATIVE = number(0, 1e9)
BOOLEAN = Rule(lambda v: type(v) is bool, 'true or false', bool)
TEXT = Rule(lambda v: type(v) is str, 'a string', str)
FOLDER = Rule(lambda v: type(v) is str and v != '', 'a work directory', str)
FILES = Rule(lambda v: type(v) is str, 'Python files separated by commas', str)
SEED = Rule(
    lambda v: type(v) is int and 0 <= v < 2**32,
    'an integer in 0..2**32 - 1',
    int,
)
SIZES = Rule(
    lambda v: _positive_integers(v) and len(v) > 0,
    'integers >= 1 and <= 1000000 separated by commas',
    tuple,
)
INTEGERS = Rule(
    _positive_integers,
    'integers >= 1 and <= 1000000 separated by commas',
    tuple,
)
