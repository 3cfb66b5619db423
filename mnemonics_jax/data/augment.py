"""Augmentation on the device, a pure function of a key and example numbers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemonics_jax.data import random_crop

# Streams of an example beside its first bits, which move and mirror it.
_BOX = 3
_BRIGHTNESS = 4


class Augmentation(NamedTuple):
    """What `augment` does; static.

    Attributes:
        pad: pixels of zero padding on each side before a random crop, >= 0.
        flip: whether to mirror half of the images left and right.
        resized_crop: whether to show a random box of the image (see
            `random_crop`), resized to the image's size. `pad` must be 0 then.
        brightness: b in [0, 1]: pixels are multiplied by a factor that is
            uniform in [1 - b, 1 + b], and clipped to [0, 1].
    """

    pad: int = 0
    flip: bool = False
    resized_crop: bool = False
    brightness: float = 0.0


def augment(
    key: jax.Array,
    images: jax.Array,
    indices: jax.Array,
    settings: Augmentation,
) -> jax.Array:
    """Crops, mirrors and brightens each image at random, in this order.

    Pixels that come in from outside are 0, black: as usual, the image is padded
    before it is normalised.

    Args:
        key: PRNG key of JAX's default kind (threefry), one per epoch.
        images: f32[B,H,W,C] in [0, 1].
        indices: int32[B], number of each example; its draws depend on the key
            and this number alone, not on the rest of the batch, nor on what
            else is done.
        settings: what to do.

    Returns:
        f32[B,H,W,C] in [0, 1].

    Raises:
        ValueError: there are both padding and resized crops.
    """
    if settings.resized_crop and settings.pad:
        raise ValueError(f'pad={settings.pad}: must be 0 with resized_crop')
    if settings.resized_crop:
        images = _show(images, crop_boxes(key, indices, *images.shape[1:3]))
    if settings.pad or settings.flip:
        offsets, flips = crop_offsets_and_flips(key, indices, settings.pad)
    if settings.pad:
        images = _shift(images, offsets, settings.pad)
    if settings.flip:
        mirrored = images[:, :, ::-1]
        images = jnp.where(flips[:, None, None, None], mirrored, images)
    if settings.brightness:
        factors = brightness_factors(key, indices, settings.brightness)
        # No factor is below 0: nothing to clip there.
        images = jnp.minimum(images * factors[:, None, None, None], 1)
    return images


def crop_offsets_and_flips(
    key: jax.Array, indices: jax.Array, pad: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the shifts and mirrorings of `augment`.

    Args:
        key: see `augment`.
        indices: int32[B], see `augment`.
        pad: pixels of padding on each side, >= 0.

    Returns:
        Offsets int32[B,2], rows and columns, uniform over 0..2*pad, and flips
        bool[B], true for one half.
    """

    def draw(index: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, index), (3,), jnp.uint32)

    # The remainder's bias is below 1e-8: one draw instead of three.
    bits = jax.vmap(draw)(indices)
    offsets = (bits[:, :2] % (2 * pad + 1)).astype(jnp.int32)
    return offsets, (bits[:, 2] & 1).astype(bool)


def crop_boxes(
    key: jax.Array, indices: jax.Array, height: int, width: int
) -> jax.Array:
    """Draws the boxes of resized crops, by the rule of `random_crop.crop_box`.

    Args:
        key: see `augment`.
        indices: int32[B], see `augment`.
        height: of the images, static.
        width: of the images, static.

    Returns:
        int32[B,4]: top, left, height and width, in pixels.
    """
    draws = _uniform(key, indices, _BOX, (random_crop.ATTEMPTS, 4))
    crop = functools.partial(random_crop.crop_box, height, width)
    return jax.vmap(crop)(draws)


def brightness_factors(
    key: jax.Array, indices: jax.Array, brightness: float
) -> jax.Array:
    """Draws the factors f32[B] of `augment`, in [1 - b, 1 + b]."""
    draws = _uniform(key, indices, _BRIGHTNESS, ())
    return 1 + brightness * (2 * draws - 1)


def _uniform(
    key: jax.Array, indices: jax.Array, stream: int, shape: tuple[int, ...]
) -> jax.Array:
    """Uniform numbers f32[B,*shape] in [0, 1) of one stream per example."""

    def draw(index: jax.Array) -> jax.Array:
        example = jax.random.fold_in(key, index)
        return jax.random.uniform(jax.random.fold_in(example, stream), shape)

    return jax.vmap(draw)(indices)


def _shift(images: jax.Array, offsets: jax.Array, pad: int) -> jax.Array:
    """Crops that start at offsets int32[B,2] of the padded images."""
    shape = images.shape[1:]
    border = ((0, 0), (pad, pad), (pad, pad), (0, 0))

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)

    return jax.vmap(crop)(jnp.pad(images, border), offsets)


def _show(images: jax.Array, crops: jax.Array) -> jax.Array:
    """Boxes int32[B,4] of images, resized to their size.

    Bilinear with pixels' centres at halves. It is linear in the pixels, as two
    products with matrices; nothing shrinks, so it needs no antialiasing.
    """
    _, height, width, _ = images.shape
    rows = _weights(crops[:, 0], crops[:, 2], height)
    columns = _weights(crops[:, 1], crops[:, 3], width)
    # Faster products of accelerators would round pixels to 8 or 11 bits.
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum('byi,biwc->bywc', rows, images, precision=exact)
    return jnp.einsum('bxj,byjc->byxc', columns, images, precision=exact)


def _weights(starts: jax.Array, lengths: jax.Array, size: int) -> jax.Array:
    """What each pixel of a line shows of the old pixels, f32[B,size,size].

    Args:
        starts: int32[B], first pixel that is shown.
        lengths: int32[B], how many are shown.
        size: of the line.
    """
    starts, lengths = starts[:, None], lengths[:, None]
    # (x + 1/2) * length / size - 1/2, rounded once.
    centres = ((2 * jnp.arange(size) + 1) * lengths - size) / (2 * size)
    # Beyond the outermost shown pixels there is nothing to interpolate with.
    centres = starts + jnp.clip(centres, 0, lengths - 1)
    distances = jnp.abs(centres[:, :, None] - jnp.arange(size))
    return jnp.maximum(1 - distances, 0)
