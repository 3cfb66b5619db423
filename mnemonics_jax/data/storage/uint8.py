"""Pixels rounded to 8 bits, as they are."""

import io

import numpy as np
from PIL import Image

from mnemonics_jax.data import storage


def make(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> storage.Storage:
    """See `storage.make`; the quality and the subsampling are not used."""
    del quality, subsampling

    return storage.arrays(image_shape, np.uint8, storage.to_uint8, '.png', _png)


def _png(pixels: np.ndarray) -> bytes:
    grey = pixels.shape[-1] == 1
    written = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(written, 'PNG')
    return written.getvalue()
