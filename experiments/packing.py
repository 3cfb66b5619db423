"""Several exemplars of low resolution in the bytes of one."""

import jax
import jax.numpy as jnp


def side(length: int, factor: int) -> int:
    """Side length of a packed image, of which factor^2 fit into one image."""
    return length // factor


def pack(images: jax.Array, factor: int) -> jax.Array:
    """Downsamples images; factor^2 of them take at most the bytes of one.

    Args:
        images: f32[n, H, W, C] in [0, 1].
        factor: >= 1; 1 does not change the images.

    Returns:
        f32[n, H // factor, W // factor, C] in [0, 1].

    Raises:
        ValueError: `factor` is < 1 or larger than the images.
    """
    num, height, width, channels = images.shape
    if not 1 <= factor <= min(height, width):
        raise ValueError(
            f'factor={factor}: must be an integer from 1 to '
            f'{min(height, width)}, the side of the images'
        )
    shape = num, side(height, factor), side(width, factor), channels
    if factor == 1:
        return jnp.asarray(images)
    return jax.image.resize(images, shape, 'linear', antialias=True)


def unpack(pixels: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Upsamples pixels f32[n, h, w, C] to `shape` (H, W), bilinearly."""
    if pixels.shape[1:3] == tuple(shape):
        return pixels
    full = len(pixels), *shape, pixels.shape[-1]
    return jax.image.resize(pixels, full, 'linear')


def stored_bytes(pixels: jax.Array) -> int:
    """Bytes of the pixels, one each."""
    return int(pixels.size)


def to_levels(pixels: jax.Array) -> jax.Array:
    """Rounds pixels in [0, 1] to the 256 stored levels."""
    return jnp.round(jnp.clip(pixels, 0, 1) * 255) / 255
