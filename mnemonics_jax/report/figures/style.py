"""What all figures share: colours, sizes, axes, legends and files.

Figures use Matplotlib's objects and never pyplot, so that drawing needs no
display and leaves no global state.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnemonics_jax.core.text import shortened

# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLORS = (
    '#0072B2',
    '#D55E00',
    '#009E73',
    '#CC79A7',
    '#E69F00',
    '#56B4E9',
    '#666666',
)
MARKERS = 'os^DvPX'
INK = '#333333'
GRID = '#e4e4e4'
LEGEND: dict[str, Any] = {'frameon': False, 'fontsize': 9, 'labelcolor': INK}
DPI = 160


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; a phone shows 5 inches at 70 pixels each."""
    return Figure(figsize=(width, height), dpi=DPI, layout='constrained')


def panels(num: int, height: float) -> tuple[Figure, list[Axes]]:
    """Charts side by side that share the vertical axis.

    Args:
        num: number of charts.
        height: height of each, in inches.
    """
    columns = 2 if num == 4 else min(3, num)
    rows = -(-num // columns)
    drawn = figure({1: 5, 2: 7.4, 3: 9.2}[columns], height * rows)
    axes = drawn.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax in axes[num:]:
        ax.set_axis_off()
    for ax in axes[:num]:
        ax.tick_params(labelleft=True)
    return drawn, list(axes[:num])


def color(i: int) -> str:
    """Colour of the i-th item."""
    return COLORS[i % len(COLORS)]


def marker(i: int) -> str:
    """Marker of the i-th item."""
    return MARKERS[i % len(MARKERS)]


def shades(num: int) -> np.ndarray:
    """RGBA [n, 4] of ordered items, legible on white and on black."""
    return matplotlib.colormaps['viridis'](np.linspace(0.1, 0.68, max(2, num)))


def tidy(ax: Axes, xlabel: str, ylabel: str, *, grid: bool = True) -> None:
    """Sets labels, and removes the frame and ticks."""
    ax.set_xlabel(xlabel, fontsize=10, color=INK)
    ax.set_ylabel(ylabel, fontsize=10, color=INK)
    ax.tick_params(length=0, labelsize=9, colors=INK)
    ax.spines[:].set_visible(False)
    if grid:
        ax.spines['bottom'].set(visible=True, color='#999999')
        ax.grid(axis='y', color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)


def title(ax: Axes, text: str) -> None:
    """A title over the left end of the axes."""
    ax.set_title(plain(text, 40), fontsize=10, color=INK, loc='left')


def legend_below(drawn: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all axes, each name once, in rows as long as fit."""
    found: dict[str, Artist] = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        found |= dict(zip(names, handles, strict=True))
    longest = max(map(len, found), default=1) + 6
    drawn.legend(
        list(found.values()),
        list(found),
        loc='outside lower center',
        ncols=max(1, min(len(found), int(14 * drawn.get_figwidth() / longest))),
        **LEGEND,
    )


def thinned(values: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the values, at even steps from the first."""
    return list(values[:: math.ceil(len(values) / most)]) if values else []


def spread(num: int, most: int) -> np.ndarray:
    """At most `most` positions of 0..num-1, including first and last."""
    if num <= most:
        return np.arange(num)
    return np.linspace(0, num - 1, most).round().astype(int)


def plain(text: str, most: int = 60) -> str:
    """Text as a label: short, without mathematics."""
    return shortened(text, most).replace('$', r'\$')


def label(name: str) -> str:
    """A class name as a label."""
    return plain(name, 18)


def encoded(drawn: Figure, kind: str) -> bytes:
    """A figure as a file; the same figure gives the same bytes.

    The first call fixes the layout: computing it takes as long as drawing.

    Args:
        drawn: the figure.
        kind: 'png' or 'svg'.
    """
    if drawn.get_layout_engine() is not None:
        drawn.draw_without_rendering()
        drawn.set_layout_engine(None)
    buffer = io.BytesIO()
    # Otherwise an SVG has random names, and both kinds have the time of day.
    metadata = {'Software': None} if kind == 'png' else {'Date': None}
    with matplotlib.rc_context({'svg.hashsalt': 'mnemonics_jax'}):
        drawn.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
