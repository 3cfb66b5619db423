"""Pixels as 32-bit numbers, not rounded."""

import io

import numpy as np

from mnemonics_jax.data import storage

# The same bytes on every machine.
_DTYPE = np.dtype('<f4')


def make(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> storage.Storage:
    """See `storage.make`; the quality and the subsampling are not used."""
    del quality, subsampling

    return storage.arrays(image_shape, _DTYPE, _to_float32, '.npy', _npy)


def _to_float32(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        images = images.astype(_DTYPE) / np.float32(255)
    return np.clip(images, 0, 1).astype(_DTYPE)


def _npy(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, pixels)
    return written.getvalue()
