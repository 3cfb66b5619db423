"""Pictures of exemplars and of their changes."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from PIL import Image

from mnemonics_jax.report.figures import style

MAX_CLASSES = 24
MAX_PER_CLASS = 6
TILE = 64  # Approximate size of an exemplar in pixels of the figure.
_GAP = 3
# Size of labels in points: the page shows a grid much smaller than it is.
_LABEL_SIZE = 13
_LETTERS = 12


def grid(images: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> Figure:
    """Exemplars, one row for each class, best first.

    The layout is in whole pixels, so that all pixels of exemplars are squares
    of equal size.

    Args:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        mask: bool[n, m].
        names: names of the n classes.
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
    """Width of a label in pixels."""
    path = TextPath((0, 0), label, size=_LABEL_SIZE)
    return path.get_extents().x1 * style.DPI / 72 if label.strip() else 0


def mosaic(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Exemplars side by side at about `TILE` pixels each.

    Args:
        images: uint8 or float in [0, 1], [r, s, H, W, C]; unless C is 3, their
            mean over channels is shown in grey.
        mask: bool[r, s]; other slots stay white.

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
    """Differences around mid-grey, amplified until the large ones show.

    Args:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        earlier: the same exemplars before.
        mask: bool[n, m], slots that both use.

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
    """Mean absolute change in grey levels of 255; None without exemplars.

    Args:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        earlier: the same exemplars before.
        mask: bool[n, m], slots that both use.
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


def pixel_grid(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Exemplars uint8[h, w, 3] without labels, one row for each class.

    Of many classes, those shown are evenly spaced in class order.

    Args:
        images: uint8 or float in [0, 1], [S, m, H, W, C].
        mask: bool[S, m].
    """
    rows = style.spread(len(images), MAX_CLASSES)
    slots = slice(min(MAX_PER_CLASS, mask.sum(1).max()))
    shown = mosaic(images[rows, slots], mask[rows, slots])
    return np.rint(shown * 255).astype(np.uint8)


def as_png(pixels: np.ndarray) -> bytes:
    """An image uint8[H, W, C] as a PNG file; C is 1 for grey, 3 for RGB."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, 'PNG'
    )
    return file.getvalue()
