"""Images of a batch on the device, including exemplars."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mnemonics_jax.types import ExemplarSet


def to_float(images: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Converts images, uint8 or floats in [0, 1], to floats in [0, 1]."""
    if images.dtype == jnp.uint8:
        return images.astype(dtype) / 255
    return images if images.dtype == dtype else images.astype(dtype)


def batch_images(batch: Mapping[str, jax.Array]) -> jax.Array:
    """The images [B, H, W, C] of a batch, uint8 or float32.

    They are its 'image', or the rows 'row' (int32[B]) of the images on the
    device, 'pool' ([N, H, W, C]).
    """
    if 'pool' in batch:
        return batch['pool'][batch['row']]
    return batch['image']


def fill_exemplars(
    images: jax.Array, slots: jax.Array, memory: ExemplarSet
) -> jax.Array:
    """Inserts exemplars into a batch of images.

    Args:
        images: f32[B, H, W, C], real images; ignored where a slot is given.
        slots: int32[B], flat index of an exemplar slot, -1 for a real image.
        memory: stored exemplars.

    Returns:
        f32[B, H, W, C] in [0, 1].
    """
    stored = memory.images.reshape(-1, *memory.images.shape[2:])
    exemplars = to_float(stored[jnp.maximum(slots, 0)], images.dtype)
    return jnp.where((slots >= 0)[:, None, None, None], exemplars, images)
