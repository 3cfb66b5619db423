"""Confusion matrices: as figures, as small images, and their largest errors."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image

from mnemonics_jax.report.figures import style

MAX_NAMED = 25
_MAX_LINES = 10
_MAX_PIXELS = 500

# The square root makes rare confusions visible beside the diagonal.
NORM = PowerNorm(0.5, 0, 100)


def shares(counts: np.ndarray) -> np.ndarray:
    """Counts as percent of the images of the true class, f64[n, n]."""
    counts = np.asarray(counts, float)
    return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)


def confusion(
    counts: np.ndarray, names: Sequence[str], bounds: Sequence[int]
) -> Figure:
    """Confusion matrix.

    Args:
        counts: int[n, n], rows are true classes.
        names: names of the classes.
        bounds: first class of each phase but phase 0.
    """
    share = shares(counts)
    drawn = style.figure(5, 4.3)
    ax = drawn.subplots()
    shown = ax.imshow(share, cmap='Blues', norm=NORM, interpolation='nearest')
    style.tidy(ax, 'predicted class', 'true class', grid=False)
    if len(names) <= MAX_NAMED:
        labels = [style.label(name) for name in names]
        ax.set_xticks(range(len(names)), labels)
        ax.set_yticks(range(len(names)), labels)
        if max(map(len, labels)) > 2:
            ax.tick_params(axis='x', rotation=90)
    for bound in lines_between(bounds):
        for line in (ax.axhline, ax.axvline):
            line(bound - 0.5, color='#999999', linewidth=0.7)
    if len(names) <= 12:
        _write_numbers(ax, share)
    bar = drawn.colorbar(shown, ax=ax, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label('share of the true class (%)', fontsize=10, color=style.INK)
    bar.ax.tick_params(labelsize=9, colors=style.INK)
    bar.outline.set_visible(False)
    return drawn


def lines_between(bounds: Sequence[int]) -> list[int]:
    """Bounds at which lines are drawn: all, or the first of many.

    Lines between many phases would hide the cells.
    """
    return list(bounds) if len(bounds) <= _MAX_LINES else list(bounds[:1])


def _write_numbers(ax: Axes, share: np.ndarray) -> None:
    """Writes each share that does not round to 0 into its cell."""
    for row, column in np.argwhere(share.round() > 0):
        value = share[row, column]
        color = 'white' if NORM(value) > 0.6 else style.INK
        text = ax.text(column, row, f'{value:.0f}', color=color, fontsize=8)
        text.set(ha='center', va='center')


def as_image(counts: np.ndarray) -> bytes:
    """The matrix of many classes as a PNG of at most 500 pixels a side.

    A pixel is a class or the mean of a few neighbours.
    """
    share = shares(counts)
    by = -(-len(share) // _MAX_PIXELS)
    if by > 1:
        size = -(-len(share) // by) * by
        padded = np.zeros((size, size))
        padded[: len(share), : len(share)] = share
        share = padded.reshape(size // by, by, size // by, by).sum(3).mean(1)
    levels = np.uint8(255 * np.clip(NORM(share), 0, 1))
    image = Image.fromarray(levels).convert('P')
    ramp = matplotlib.colormaps['Blues'](np.linspace(0, 1, 256))[:, :3]
    image.putpalette(np.uint8(255 * ramp).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format='PNG', optimize=True)
    return buffer.getvalue()


def confused(
    counts: np.ndarray, names: Sequence[str], most: int
) -> list[tuple[str, str, int, float]]:
    """The most confused pairs: true class, predicted class, images, share.

    Ordered by the share of the true class's images, in [0, 1], then by class.
    """
    counts = np.asarray(counts)
    share = shares(counts) / 100
    np.fill_diagonal(share, 0)
    order = np.argsort(-share, axis=None, kind='stable')[:most]
    pairs = [divmod(int(i), len(share)) for i in order]
    return [
        (names[t], names[p], int(counts[t, p]), float(share[t, p]))
        for t, p in pairs
        if share[t, p] > 0
    ]
