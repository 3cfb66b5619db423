"""Groups of runs that differ in their seed alone, and statistics over seeds."""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core.text import flatten, percent
from mnemonics_jax.report.runs import Run, without_common_fields

LEVEL = 0.95


class Group(NamedTuple):
    """Runs that differ in `seed` alone; a run without another is one, too.

    Attributes:
        name: name on the page; that of the run if it is one.
        runs: runs in the order given, each with a seed of its own.
    """

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run that stands for the group where one must."""
        return self.runs[0]

    @property
    def seeds(self) -> list[int | None]:
        """Seeds of the runs; None if unknown."""
        return [run.config.get('seed') for run in self.runs]


class Interval(NamedTuple):
    """The mean of paired differences with its 95 % interval.

    Attributes:
        mean: mean of the differences.
        low: lower bound.
        high: upper bound.
        num: number of pairs.
    """

    mean: float
    low: float
    high: float
    num: int


def collect(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs, in the order of their first runs.

    Runs of a group have the same configuration but for the seed, the same
    classes and the same finished phases. A seed that comes again begins another
    group: an equal run is no further sample.
    """
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = _key(run)
        again = 0
        while run.config.get('seed') in [
            other.config.get('seed') for other in found.get((*key, again), ())
        ]:
            again += 1
        found.setdefault((*key, again), []).append(run)
    groups = list(found.values())
    return [
        Group(name, members)
        for name, members in zip(_names(groups), groups, strict=True)
    ]


def averaged(groups: Sequence[Group]) -> bool:
    """Whether any group has more than one run."""
    return any(len(group.runs) > 1 for group in groups)


def alone(runs: Sequence[Run]) -> list[Group]:
    """Each run as a group of its own."""
    return [Group(run.name, [run]) for run in runs]


def _key(run: Run) -> tuple[str, ...]:
    """What runs of a group have in common."""
    if not run.phases or 'seed' not in run.config:
        return ('unknown', run.name)
    fields = {n: v for n, v in flatten(run.config).items() if n != 'seed'}
    common = fields, run.names, [phase['num_seen'] for phase in run.phases]
    return ('known', json.dumps(common, sort_keys=True))


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Names that tell groups apart, from the names of their runs."""
    names = [_common_name([run.name for run in runs]) for runs in groups]
    found = [
        name
        if name and names.count(name) == 1
        else f'{runs[0].name} and {len(runs) - 1} more'
        if len(runs) > 1
        else runs[0].name
        for name, runs in zip(names, groups, strict=True)
    ]
    return without_common_fields(found) if len(found) > 1 else found


def _common_name(names: Sequence[str]) -> str:
    """What names have in common: fields but the seed, or how they begin."""
    if len(names) == 1:
        return names[0]
    without = {
        ','.join(cell for cell in name.split(',') if not _is_seed(cell))
        for name in names
    }
    if len(without) == 1:
        return without.pop()
    same = itertools.takewhile(
        lambda letters: len(set(letters)) == 1, zip(*names, strict=False)
    )
    start = ''.join(letters[0] for letters in same)
    return re.sub(r'[-_., =/]*(seed)?[-_., =/]*\d*$', '', start)


def _is_seed(cell: str) -> bool:
    return cell.startswith('seed=')


def summary(values: Sequence[float | None]) -> tuple[float | None, float]:
    """Mean and sample standard deviation.

    Args:
        values: fractions.

    Returns:
        The mean, None if there is no value or any is unknown or NaN; and the
        standard deviation with n - 1 in the denominator, NaN of one value.
    """
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known or len(known) < len(values):
        return None, float('nan')
    spread = np.std(known, ddof=1) if len(known) > 1 else float('nan')
    return float(np.mean(known)), float(spread)


def spread_text(
    values: Sequence[float | None], form: Callable[[float], str] = percent
) -> str:
    """Values as '61.2 ± 0.8' in percent, or '61.2' if there is one."""
    mean, spread = summary(values)
    if mean is None or len(values) == 1:
        return percent(None) if mean is None else form(mean)
    return f'{form(mean)} \u00b1 {form(spread)}'


def paired(pairs: Sequence[tuple[float, float]]) -> Interval | None:
    """The mean of second - first over pairs, and its interval by Student's t.

    Args:
        pairs: values of two groups for the same seed.

    Returns:
        The 95 % interval of n - 1 degrees of freedom; None with fewer than two
        pairs, or if a value is NaN.
    """
    # Imported late, because it takes its time and most pages do without.
    from scipy.special import stdtrit

    num = len(pairs)
    mean, spread = summary([second - first for first, second in pairs])
    if num < 2 or mean is None:
        return None
    half = stdtrit(num - 1, (1 + LEVEL) / 2) * spread / math.sqrt(num)
    return Interval(mean, float(mean - half), float(mean + half), num)


def compared(
    groups: Sequence[Group], value: Callable[[Run], float | None]
) -> dict[tuple[str, str], Interval]:
    """Intervals of each pair of groups with two common seeds or more.

    Args:
        groups: groups with results.
        value: the number of a run that is compared; None if unknown.

    Returns:
        By name of the second and the first group, the interval of second minus
        first over the seeds that both have.
    """
    found = {}
    for first, second in itertools.combinations(groups, 2):
        theirs = {run.config.get('seed'): value(run) for run in second.runs}
        pairs = [
            (value(run), theirs.get(run.config.get('seed')))
            for run in first.runs
            if 'seed' in run.config
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if (interval := paired(known)) is not None:
            found[second.name, first.name] = interval
    return found
