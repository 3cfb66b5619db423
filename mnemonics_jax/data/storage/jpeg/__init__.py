"""Baseline JPEG with one header for all images, through which can be learned.

Encoder and straight-through decoder are this package's own: the stored image
must have the very coefficients that were learned, and encoding decoded pixels
once more changes them. (jpeglib, which reads and writes coefficients, is 23 MB
of C++ that works on files.) Stored images are decoded by Pillow.

`transform` has pixels to coefficients and back, in integers, so that NumPy and
JAX agree exactly on every device; `entropy` has coefficients to bytes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax.data import storage
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.data.storage.jpeg import entropy, transform

# Coefficients that are encoded at a time, which bounds memory.
_CHUNK = 2**20


def make(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> storage.Storage:
    """See `storage.make`; `kept` is bool[n, blocks, 8, 8].

    An encoded image is the entropy-coded data and the end-of-image marker, so
    that the header and these bytes are a complete file.

    Raises:
        ValueError: images have other than 1 or 3 channels, or a side that JPEG
            cannot have.
    """
    storage.check_channels('jpeg', image_shape)
    if not 0 < min(image_shape) <= max(image_shape) < 2**16:
        raise ValueError(
            "exemplars.storage='jpeg': must have images of 1 to 65535 pixels "
            f'a side, not {image_shape[0]} x {image_shape[1]}'
        )
    layout = transform.make_layout(image_shape, quality, subsampling)
    header = entropy.header(layout)
    order = entropy.scan_order(layout)

    def encode(images, kept=None):
        images = storage.check_images(images, image_shape)
        step = max(1, _CHUNK // layout.tables.size)
        streams = []
        for i in range(0, len(images), step):
            found = transform.coefficients(images[i : i + step], layout)
            if kept is not None:
                found = found * np.asarray(kept[i : i + step], np.int32)
            streams += entropy.encode(found, order)
        return streams

    def decode(encoded: Sequence[bytes]) -> np.ndarray:
        files = [header + stream for stream in encoded]
        return storage.decode_files(files, 'JPEG', image_shape)

    return storage.Storage(
        dtype='uint8',
        suffix='.jpg',
        header=header,
        encode=encode,
        decode=decode,
        num_bytes=len,
        file=lambda stream: header + stream,
        learnable=True,
        kept=lambda images: _kept(images, layout),
        kept_shape=layout.tables.shape,
        shown=_make_shown(layout),
    )


def _kept(images, layout):
    """Coefficients that are not zero, and all means of blocks.

    A block's mean takes a code of its own even where it is zero.
    """
    is_mean = np.zeros((8, 8), bool)
    is_mean[0, 0] = True
    return (transform.coefficients(images, layout) != 0) | is_mean


def _make_shown(layout):
    """`Storage.shown`: exact values, and the derivatives without rounding."""

    @jax.custom_jvp
    def shown(pixels: jax.Array, kept: jax.Array) -> jax.Array:
        found = transform.coefficients(pixels, layout)
        found = found * kept.astype(jnp.int32)
        decoded = transform.decoded(found, layout).astype(jnp.uint8)
        return to_float(decoded, pixels.dtype)

    @shown.defjvp
    def shown_jvp(primals, tangents):
        pixels, kept = primals
        change = transform.smooth_change(tangents[0], kept, layout)
        return shown(pixels, kept), change

    return shown
