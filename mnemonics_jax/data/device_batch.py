"""Images of a batch on the device, including exemplars."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike

from mnemonics_jax.core.parallel import Placement, replicate

# Elements of a vector register of a TPU in its last axis.
_LANES = 128


class ImageRows(struct.PyTreeNode):
    """Images of which a program takes some, each image one row.

    To take images of [n,H,W,C], a TPU copies all n to another layout in every
    call of the program; of this form it does not.

    Attributes:
        rows: [n,r,128], the pixels of an image in order, then zeros.
        shape: (H, W, C), static.
    """

    rows: Any
    shape: tuple[int, int, int] = struct.field(pytree_node=False)

    def take(self, index: jax.Array) -> jax.Array:
        """The images [*index.shape,H,W,C] at an index, int32."""
        taken = self.rows[index].reshape(*index.shape, -1)
        taken = taken[..., : math.prod(self.shape)]
        return taken.reshape(*index.shape, *self.shape)


def to_rows(images: Any) -> ImageRows:
    """Images [...,H,W,C], of NumPy or JAX, as rows in flat order."""
    xp = images.__array_namespace__()
    shape = images.shape[-3:]
    size = math.prod(shape)
    flat = images.reshape(-1, size)
    if size % _LANES:
        flat = xp.pad(flat, ((0, 0), (0, -size % _LANES)))
    return ImageRows(flat.reshape(len(flat), -1, _LANES), shape)


def place_rows(placement: Placement, images: jax.Array) -> ImageRows:
    """`to_rows` of images, equal in all processes, on every device.

    Converted on the host: a TPU would need eight times the images' bytes, since
    it pads the last axis of what is in between to 128 elements.
    """
    return replicate(placement, to_rows(np.asarray(images)))


def to_float(images: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Converts images, uint8 or floats in [0, 1], to floats in [0, 1]."""
    if images.dtype == jnp.uint8:
        return images.astype(dtype) / 255
    return images if images.dtype == dtype else images.astype(dtype)


def batch_images(batch: Mapping[str, Any]) -> jax.Array:
    """The images [B, H, W, C] of a batch, uint8 or float32.

    They are its 'image', or the rows 'row' (int32[B]) of the images on the
    device, 'pool' (`ImageRows`).
    """
    if 'pool' in batch:
        return batch['pool'].take(batch['row'])
    return batch['image']


def fill_exemplars(
    images: jax.Array,
    slots: jax.Array,
    memory: ImageRows,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Inserts exemplars into a batch of images.

    Args:
        images: [B, H, W, C], real images, uint8 or floats in [0, 1]; ignored
            where a slot is given.
        slots: int32[B], flat index of an exemplar slot, -1 for a real image.
        memory: images of all slots.
        dtype: dtype of the result.

    Returns:
        [B, H, W, C] in [0, 1].
    """
    exemplars = memory.take(jnp.maximum(slots, 0))
    if exemplars.dtype != images.dtype:
        exemplars, images = to_float(exemplars, dtype), to_float(images, dtype)
    filled = jnp.where((slots >= 0)[:, None, None, None], exemplars, images)
    # After the choice: half as much to convert.
    return to_float(filled, dtype)
