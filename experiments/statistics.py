"""Means, spreads and paired differences for the tables of studies."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats
from sweep_table import summary

LEVEL = 0.95
# A claim survives if its p, corrected for all that it was compared with, is
# below this.
ALPHA = 0.05


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """`summary` of paired differences with the interval of their mean.

    Returns:
        The summary with 'low' and 'high', the 95 % interval of the mean by
        Student's t with n - 1 degrees of freedom, and its 'p', see `p_value`;
        None with fewer than two.
    """
    found = summary(differences)
    if found['std'] is None:
        return {**found, 'low': None, 'high': None, 'p': None}
    quantile = stats.t.ppf((1 + LEVEL) / 2, found['n'] - 1)
    half = float(quantile) * found['std'] / math.sqrt(found['n'])
    mean = found['mean']
    bounds = {'low': mean - half, 'high': mean + half}
    return {**found, **bounds, 'p': p_value(found)}


def p_value(found: Mapping[str, Any]) -> float | None:
    """Two-sided p of the paired t-test, from a `summary` of differences.

    Returns:
        1 if all differences are zero, 0 if all are equal and not zero; None
        with fewer than two.
    """
    if found['std'] is None:
        return None
    if not found['std']:
        return float(not found['mean'])
    t = abs(found['mean']) / found['std'] * math.sqrt(found['n'])
    return float(2 * stats.t.sf(t, found['n'] - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's corrected p values of a family, in the order given.

    The chance that one or more below `ALPHA` are so by chance is at most
    `ALPHA`, however the tests depend on each other.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, highest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = highest
    return corrected


def corrected(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Intervals of one family, each with 'holm', its corrected p.

    Intervals without a p, of one seed, are not counted; theirs is None.
    """
    p = [found.get('p', p_value(found)) for found in cells]
    left = iter(holm([value for value in p if value is not None]))
    return [
        {**found, 'holm': None if value is None else next(left)}
        for found, value in zip(cells, p, strict=True)
    ]


def survives(values: Mapping[str, Any]) -> bool:
    """Whether a difference is not zero after Holm's correction."""
    return values.get('holm') is not None and values['holm'] < ALPHA


def spread(values: dict[str, Any], digits: int = 1, factor: float = 100) -> str:
    """A `summary` as '61.2 ± 0.8', by default in percent; '' if empty."""
    if values['mean'] is None:
        return ''
    text = f'{factor * values["mean"]:.{digits}f}'
    if values['std'] is None:
        return text
    return f'{text} ± {factor * values["std"]:.{digits}f}'


def signed(values: dict[str, Any]) -> str:
    """An `interval` in points as '+1.2 [+0.3, +2.1]'; '' if empty."""
    if values['mean'] is None:
        return ''
    text = f'{100 * values["mean"]:+.1f}'
    if values['low'] is None:
        return text
    return f'{text} [{100 * values["low"]:+.1f}, {100 * values["high"]:+.1f}]'


def marked(values: dict[str, Any]) -> str:
    """`signed`, bold if the difference survives Holm's correction."""
    text = signed(values)
    return f'**{text}**' if survives(values) else text


def tested(values: dict[str, Any]) -> str:
    """`marked` with the corrected p, as '+1.2 [+0.3, +2.1], p 0.012'."""
    text = marked(values)
    p = values.get('holm')
    if p is None:
        return text
    return f'{text}, p <0.001' if p < 0.001 else f'{text}, p {p:.3f}'
