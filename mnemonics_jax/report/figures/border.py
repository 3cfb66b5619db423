"""Distances of exemplars and test images from the border of their class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    MaxNLocator,
    NullLocator,
)

from mnemonics_jax.report.figures import style

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantiles(values: np.ndarray) -> list[float]:
    """The quantiles that `border` draws: 5, 25, 50, 75 and 95 %."""
    return np.quantile(values, _QUANTILES).tolist()


def border(
    panels: Mapping[str, Mapping[int, Sequence[Sequence[float]]]],
) -> Figure:
    """Distributions of `border_ratios`, exemplars beside images, by phase.

    Args:
        panels: by run and phase, `quantiles` of exemplars and of images.
    """
    drawn, axes = style.panels(len(panels), 3.1)
    for ax, (name, phases) in zip(axes, panels.items(), strict=False):
        style.tidy(ax, 'after phase', 'nearest other / own')
        if len(panels) > 1:
            style.title(ax, name)
        ax.axhline(1, color=style.INK, lw=1, ls=(0, (4, 3)), zorder=1)
        for i, words in enumerate(('exemplars', 'test images')):
            x = np.array(sorted(phases)) + (i - 0.5) * 0.34
            low, lower, middle, upper, high = np.transpose(
                [phases[phase][i] for phase in sorted(phases)]
            )
            color = ('#D55E00', '#0072B2')[i]
            ax.vlines(x, low, high, color=color, lw=1)
            thick = max(2, min(7, 60 / len(x)))
            ax.vlines(x, lower, upper, color=color, lw=thick, alpha=0.45)
            ax.plot(x, middle, style.marker(i), color=color, ms=5, label=words)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _logarithmic(axes[0])
    style.legend_below(drawn, axes)
    return drawn


def _logarithmic(ax: Axes) -> None:
    """A logarithmic axis with its numbers written out."""
    ax.set_yscale('log')
    low, high = ax.get_ylim()
    places = [0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 50, 100]
    ax.yaxis.set_major_locator(FixedLocator(places))
    ax.yaxis.set_major_formatter(FormatStrFormatter('%g'))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(min(low, 0.8), max(high, 1.6))
