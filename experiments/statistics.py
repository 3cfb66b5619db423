"""Means, spreads and paired differences for the tables of studies."""

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats
from sweep_table import summary

LEVEL = 0.95


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """`summary` of paired differences with the interval of their mean.

    Returns:
        The summary with 'low' and 'high', the 95 % interval of the mean by
        Student's t with n - 1 degrees of freedom; None with fewer than two.
    """
    found = summary(differences)
    if found['std'] is None:
        return {**found, 'low': None, 'high': None}
    quantile = stats.t.ppf((1 + LEVEL) / 2, found['n'] - 1)
    half = float(quantile) * found['std'] / math.sqrt(found['n'])
    mean = found['mean']
    return {**found, 'low': mean - half, 'high': mean + half}


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
