"""Heat maps of the accuracy on each phase's classes after each phase."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from mnemonics_jax.report.figures import style

_MAX_NUMBERED = 8


def heat_maps(panels: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy by phase of the model (down) and of the classes (right).

    Args:
        panels: by title percent f64[N, N], NaN for cells to leave empty; a
            single panel has no title.
    """
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    drawn = style.figure({1: 5, 2: 7.4, 3: 9.2}[columns], 3.2 * rows)
    axes = drawn.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, percent) in zip(axes, panels.items(), strict=False):
        style.tidy(ax, 'classes of phase', 'after phase', grid=False)
        if len(panels) > 1:
            style.title(ax, name)
        shown = _draw(ax, percent)
    bar = drawn.colorbar(shown, ax=list(axes), shrink=0.9)
    bar.set_label('accuracy (%)', fontsize=10, color=style.INK)
    bar.ax.tick_params(labelsize=9, colors=style.INK)
    bar.outline.set_visible(False)
    return drawn


def _draw(ax: Axes, percent: np.ndarray) -> AxesImage:
    shown = ax.imshow(
        percent, cmap='Blues', vmin=0, vmax=100, interpolation='nearest'
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    if len(percent) <= _MAX_NUMBERED:
        for row, column in np.argwhere(np.isfinite(percent)):
            value = percent[row, column]
            color = 'white' if value > 60 else style.INK
            text = ax.text(column, row, f'{value:.0f}', color=color, fontsize=8)
            text.set(ha='center', va='center')
    return shown
