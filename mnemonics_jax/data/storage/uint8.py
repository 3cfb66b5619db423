"""Pixels rounded to 8 bits, as they are."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mnemonics_jax.data import storage


def make(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> storage.Storage:
    """See `storage.make`; the quality and the subsampling are not used."""
    del quality, subsampling

    def encode(images, kept=None):
        del kept
        images = storage.check_images(images, image_shape)
        return [image.tobytes() for image in storage.to_uint8(images)]

    def decode(encoded: Sequence[bytes]) -> np.ndarray:
        return storage.decode_raw(encoded, np.uint8, image_shape)

    def file(encoded):
        pixels = decode([encoded])[0]
        written = io.BytesIO()
        grey = image_shape[2] == 1
        Image.fromarray(pixels[..., 0] if grey else pixels).save(written, 'PNG')
        return written.getvalue()

    return storage.Storage(
        dtype='uint8',
        suffix='.png',
        header=b'',
        encode=encode,
        decode=decode,
        num_bytes=len,
        file=file,
        learnable=True,
        compresses=False,
    )
