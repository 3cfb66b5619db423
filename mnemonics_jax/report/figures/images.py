"""Pictures of exemplars: as they are, and by how much they changed."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from mnemonics_jax.report.figures import style

MAX_CLASSES = 24
MAX_PER_CLASS = 6
TILE = 64  # Pixels of the figure that an exemplar takes, about.
_GAP = 3
# Of labels, in points: the page shows a grid much smaller than it is.
_LABEL_SIZE = 13
_LETTERS = 12


def grid(images: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> Figure:
    """Exemplars, a row for each class, best first.

    The layout is in whole pixels, so that each pixel of an exemplar is a square
    of equal size.

    Args:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        mask: bool[n, m].
        names: of the n classes.
    """
    shown = mosaic(images, mask)
    labels = [style.plain(name, _LETTERS) for name in names]
    indent = 20 + math.ceil(max(map(_width, labels)))
    height, width = shown.shape[:2]
    size = np.array([indent + width + 4, height + 8])
    wide, high = size / style.DPI
    drawn = Figure(figsize=(wide, high), dpi=style.DPI)
    box = np.array([indent, 4, width, height])
    ax = drawn.add_axes(box / np.tile(size, 2))
    ax.imshow(shown, interpolation='nearest', aspect='auto')
    step = height / len(labels)
    ax.set_yticks((np.arange(len(labels)) + 0.5) * step - 0.5, labels)
    ax.set_xticks([])
    style.tidy(ax, '', '', grid=False)
    ax.tick_params(labelsize=_LABEL_SIZE)
    return drawn


def _width(label: str) -> float:
    """Pixels that a label takes."""
    path = TextPath((0, 0), label, size=_LABEL_SIZE)
    return path.get_extents().x1 * style.DPI / 72 if label.strip() else 0


def mosaic(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Exemplars side by side at about `TILE` pixels each.

    Args:
        images: uint8 or float in [0, 1], [r, s, H, W, C]; other than 3 channels
            are shown as grey levels.
        mask: bool[r, s]; slots not masked in stay white.

    Returns:
        f32[r * h, s * w, 3] in [0, 1].
    """
    images = np.clip(as_float(images), 0, 1)
    if images.shape[-1] != 3:
        images = images.mean(-1, keepdims=True).repeat(3, -1)
    images = _resized(images)
    images = np.where(mask[..., None, None, None], images, 1)
    gap = ((0, 0), (0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0))
    images = np.pad(images, gap, constant_values=1)
    r, s, h, w, _ = images.shape
    return images.transpose(0, 2, 1, 3, 4).reshape(r * h, s * w, 3)


def as_float(images: np.ndarray) -> np.ndarray:
    """Stored images, uint8 or float, as f32 in [0, 1]."""
    scale = 255 if images.dtype == np.uint8 else 1
    return images.astype(np.float32) / scale


def difference(
    images: np.ndarray, earlier: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, int]:
    """Differences around mid-grey, amplified until the strong ones show.

    Args:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        earlier: the same exemplars before.
        mask: bool[n, m], those that both hold.

    Returns:
        f32 in [0, 1], [n, m, H, W, C]; and the factor, a power of two such that
        at most one value in twenty is clipped.
    """
    change = as_float(images) - as_float(earlier)
    strong = np.quantile(np.abs(change[mask]), 0.95) if mask.any() else 0
    factor = 1
    while strong and 2 * factor * strong <= 0.5 and factor < 64:
        factor *= 2
    return np.clip(0.5 + factor * change, 0, 1), factor


def drift(
    images: np.ndarray, earlier: np.ndarray, mask: np.ndarray
) -> float | None:
    """Mean change of a value in grey levels of 255; None without exemplars.

    Args:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        earlier: the same exemplars before.
        mask: bool[n, m], those that both hold.
    """
    if not mask.any():
        return None
    change = np.abs(as_float(images) - as_float(earlier))
    return float(255 * change[mask].mean())


def _resized(images: np.ndarray) -> np.ndarray:
    """[r, s, H, W, C] shrunk by block means or enlarged, by a whole factor."""
    r, s, h, w, c = images.shape
    longest = max(h, w)
    if longest > TILE:
        by = -(-longest // TILE)
        images = images[:, :, : h // by * by, : w // by * by]
        return images.reshape(r, s, h // by, by, w // by, by, c).mean((3, 5))
    by = round(TILE / longest)
    return images.repeat(by, 2).repeat(by, 3)
