"""Lossy WebP by Pillow: whole files, which have no header to share.

Images are not learned through it: it predicts blocks from their neighbours as
they were decoded, so that its loss is not that of one rounding.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, features

from mnemonics_jax.data import storage

# The slowest of 0 to 6, with the fewest bytes.
_METHOD = 6


def make(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> storage.Storage:
    """See `storage.make`; WebP always has the subsampling 4:2:0.

    Grey images are stored with three equal colours, as WebP has no others, and
    are decoded to the grey of what comes back; some of its greens are one grey
    level off.

    Raises:
        ValueError: images have other than 1 or 3 channels, or this Pillow
            cannot write WebP.
    """
    del subsampling
    storage.check_channels('webp', image_shape)
    if not features.check('webp'):
        raise ValueError(
            "exemplars.storage='webp': must have a Pillow that was built with "
            'WebP, which this one was not'
        )
    return storage.Storage(
        dtype='uint8',
        suffix='.webp',
        header=b'',
        encode=lambda images, kept=None: _encode(
            storage.check_images(images, image_shape), quality
        ),
        decode=lambda encoded: _decode(encoded, image_shape),
        num_bytes=len,
        file=bytes,
        learnable=False,
    )


def _encode(images: np.ndarray, quality: int) -> list[bytes]:
    pixels = storage.to_uint8(images)
    files = []
    for image in np.broadcast_to(pixels, (*pixels.shape[:3], 3)):
        written = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(
            written, 'WEBP', quality=quality, method=_METHOD
        )
        files.append(written.getvalue())
    return files


def _decode(
    files: Sequence[bytes], image_shape: tuple[int, int, int]
) -> np.ndarray:
    return storage.decode_files(files, 'WEBP', image_shape)
