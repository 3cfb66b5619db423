"""Images as PNG files."""

import io

import numpy as np
from PIL import Image

from mnemonics_jax.report.figures import images as grids
from mnemonics_jax.report.figures import style


def as_png(pixels: np.ndarray) -> bytes:
    """An image uint8[H, W, C] as a PNG file; C is 1 for grey, 3 for RGB."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, 'PNG'
    )
    return file.getvalue()


def exemplar_grid(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Exemplars uint8[h, w, 3], a row for each class, best first.

    Of many classes those shown are evenly spaced in the order of arrival.

    Args:
        images: uint8 or float in [0, 1], [S, m, H, W, C].
        mask: bool[S, m].
    """
    rows = style.spread(len(images), grids.MAX_CLASSES)
    slots = slice(min(grids.MAX_PER_CLASS, mask.sum(1).max()))
    mosaic = grids.mosaic(images[rows, slots], mask[rows, slots])
    return np.rint(mosaic * 255).astype(np.uint8)
