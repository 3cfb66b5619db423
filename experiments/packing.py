"""Several exemplars of low resolution in the bytes of one."""

import jax
import jax.numpy as jnp


def side(length: int, factor: int) -> int:
    """Pixels of a packed image's side, so that factor^2 fit in one image."""
    return length // factor


def pack(images: jax.Array, factor: int) -> jax.Array:
    """Shrinks images, antialiased; factor^2 of them take one's bytes or less.

    Args:
        images: f32[n, H, W, C] in [0, 1].
        factor: >= 1; 1 leaves the images as they are.

    Returns:
        f32[n, H // factor, W // factor, C] in [0, 1].

    Raises:
        ValueError: the factor leaves no pixel.
    """
    num, height, width, channels = images.shape
    if not 1 <= factor <= min(height, width):
        raise ValueError(
            f'factor={factor}: allowed: 1 to {min(height, width)}, the side of '
            'the images'
        )
    shape = num, side(height, factor), side(width, factor), channels
    if factor == 1:
        return jnp.asarray(images)
    return jax.image.resize(images, shape, 'linear', antialias=True)


def unpack(pixels: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """What a network is trained on: images f32[n, H, W, C] of `shape` (H, W).

    Bilinear, hence linear in the pixels f32[n, h, w, C], and in [0, 1] with
    them.
    """
    if pixels.shape[1:3] == tuple(shape):
        return pixels
    full = len(pixels), *shape, pixels.shape[-1]
    return jax.image.resize(pixels, full, 'linear')


def stored_bytes(pixels: jax.Array) -> int:
    """Bytes of the pixels as grey levels 0..255, one each."""
    return int(pixels.size)


def to_levels(pixels: jax.Array) -> jax.Array:
    """Pixels in [0, 1] rounded to the 256 levels that are stored."""
    return jnp.round(jnp.clip(pixels, 0, 1) * 255) / 255
