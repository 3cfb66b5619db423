"""Pixels as 32-bit numbers, not rounded."""

import io
from collections.abc import Sequence

import numpy as np

from mnemonics_jax.data import storage

# The same bytes on every machine.
_DTYPE = np.dtype('<f4')


def make(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> storage.Storage:
    """See `storage.make`; the quality and the subsampling are not used."""
    del quality, subsampling

    def encode(images, kept=None):
        del kept
        images = storage.check_images(images, image_shape)
        if images.dtype == np.uint8:
            images = images.astype(_DTYPE) / np.float32(255)
        clipped = np.clip(images, 0, 1).astype(_DTYPE)
        return [image.tobytes() for image in clipped]

    def decode(encoded: Sequence[bytes]) -> np.ndarray:
        return storage.decode_raw(encoded, _DTYPE, image_shape)

    def file(encoded):
        written = io.BytesIO()
        np.save(written, decode([encoded])[0])
        return written.getvalue()

    return storage.Storage(
        dtype='float32',
        suffix='.npy',
        header=b'',
        encode=encode,
        decode=decode,
        num_bytes=len,
        file=file,
        learnable=True,
        compresses=False,
    )
