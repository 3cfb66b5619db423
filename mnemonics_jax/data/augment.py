"""Augmentation on the device, a pure function of a key and example indices."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemonics_jax.data import random_crop

# Random streams per example, besides the bits for padded crops and flips.
_CROP_STREAM = 3
_BRIGHTNESS_STREAM = 4


class Augmentation(NamedTuple):
    """Settings of `augment`; static.

    Attributes:
        pad: pixels of zero padding on each side before a random crop, >= 0.
        flip: whether to flip images horizontally with probability 1/2.
        resized_crop: whether to resize a random crop (see `random_crop`) to the
            image's size. Requires `pad` = 0.
        brightness: jitter b in [0, 1]: pixels are multiplied by a factor
            uniform in [1 - b, 1 + b] and clipped to [0, 1].
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
    chosen: jax.Array | None = None,
) -> jax.Array:
    """Crops, flips and changes the brightness of each image, in this order.

    Padding is 0 (black), since images are normalised after augmentation.

    Args:
        key: PRNG key of JAX's default kind (threefry), one per epoch.
        images: f32[B,H,W,C] in [0, 1].
        indices: int32[B], example indices; each draw depends on the key and the
            index alone, not on the batch or the other augmentations.
        settings: augmentations to apply.
        chosen: bool[B], the images to augment; None for all. The others are
            returned as they are.

    Returns:
        f32[B,H,W,C] in [0, 1].

    Raises:
        ValueError: `pad` and `resized_crop` are both set.
    """
    if settings.resized_crop and settings.pad:
        raise ValueError(f'pad={settings.pad}: must be 0 with resized_crop')
    _, height, width, _ = images.shape
    offsets, flips = crop_offsets_and_flips(key, indices, settings.pad)
    flips = flips & settings.flip
    # Not a choice between two arrays of images, which on TPU would have to be
    # laid out alike first: they are cropped by unit matrices.
    if chosen is not None:
        offsets = jnp.where(chosen[:, None], offsets, settings.pad)
        flips = flips & chosen
    if settings.resized_crop:
        boxes = crop_boxes(key, indices, height, width)
        images = _resize_crops(images, boxes, flips, chosen)
    elif settings.pad:
        images = _crop_padded(images, offsets, flips, settings.pad)
    elif settings.flip:
        mirrored = images[:, :, ::-1]
        images = jnp.where(flips[:, None, None, None], mirrored, images)
    if settings.brightness:
        factors = brightness_factors(key, indices, settings.brightness)
        if chosen is not None:
            factors = jnp.where(chosen, factors, 1)
        # Factors are >= 0, so only the upper bound needs clipping.
        images = jnp.minimum(images * factors[:, None, None, None], 1)
    return images


def crop_offsets_and_flips(
    key: jax.Array, indices: jax.Array, pad: int
) -> tuple[jax.Array, jax.Array]:
    """Draws the crop offsets and flips of `augment`.

    Args:
        key: see `augment`.
        indices: int32[B], see `augment`.
        pad: pixels of padding on each side, >= 0.

    Returns:
        Offsets int32[B,2], rows and columns, uniform over 0..2*pad, and flips
        bool[B], true with probability 1/2.
    """

    def draw(index: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, index), (3,), jnp.uint32)

    # The bias of the modulo is below 1e-8, so one draw is enough.
    bits = jax.vmap(draw)(indices)
    offsets = (bits[:, :2] % (2 * pad + 1)).astype(jnp.int32)
    return offsets, (bits[:, 2] & 1).astype(bool)


def crop_boxes(
    key: jax.Array, indices: jax.Array, height: int, width: int
) -> jax.Array:
    """Draws the boxes of resized crops with `random_crop.crop_box`.

    Args:
        key: see `augment`.
        indices: int32[B], see `augment`.
        height: image height, static.
        width: image width, static.

    Returns:
        int32[B,4]: top, left, height and width, in pixels.
    """
    draws = _uniform(key, indices, _CROP_STREAM, (random_crop.ATTEMPTS, 4))
    crop = functools.partial(random_crop.crop_box, height, width)
    return jax.vmap(crop)(draws)


def brightness_factors(
    key: jax.Array, indices: jax.Array, brightness: float
) -> jax.Array:
    """Draws brightness factors f32[B], uniform in [1 - b, 1 + b]."""
    draws = _uniform(key, indices, _BRIGHTNESS_STREAM, ())
    return 1 + brightness * (2 * draws - 1)


def _uniform(
    key: jax.Array, indices: jax.Array, stream: int, shape: tuple[int, ...]
) -> jax.Array:
    """Draws f32[B,*shape] in [0, 1) from one random stream per example."""

    def draw(index: jax.Array) -> jax.Array:
        example = jax.random.fold_in(key, index)
        return jax.random.uniform(
            jax.random.fold_in(example, stream), shape, jnp.float32
        )

    return jax.vmap(draw)(indices)


def _crop_padded(
    images: jax.Array, offsets: jax.Array, flips: jax.Array, pad: int
) -> jax.Array:
    """Pads the images, crops them at offsets int32[B,2] and flips some.

    As products with matrices of zeros and ones, which copy pixels exactly. On
    TPU a slice at each image's own offset would become a loop over the images,
    and so would its gradient.

    Args:
        images: f32[B,H,W,C].
        offsets: int32[B,2], rows and columns, in 0..2*pad.
        flips: bool[B].
        pad: pixels of padding on each side.
    """
    _, height, width, _ = images.shape

    def sources(starts, size):
        return jnp.arange(size) + starts[:, None] - pad

    def matrices(chosen, size):
        # A pixel of the padding has no source, so its row is zero.
        found = chosen[:, :, None] == jnp.arange(size)
        return found.astype(images.dtype)

    rows = sources(offsets[:, 0], height)
    columns = sources(offsets[:, 1], width)
    columns = jnp.where(flips[:, None], columns[:, ::-1], columns)
    return _resample(images, matrices(rows, height), matrices(columns, width))


def _resize_crops(
    images: jax.Array,
    boxes: jax.Array,
    flips: jax.Array,
    chosen: jax.Array | None = None,
) -> jax.Array:
    """Resizes the boxes int32[B,4] to the images' size and flips some, bool[B].

    Bilinear interpolation with half-pixel centres. The boxes are never shrunk,
    so no antialiasing is needed. Images that are not chosen stay as they are.
    """
    _, height, width, _ = images.shape

    def weights(starts, lengths, size):
        found = _interpolation_weights(starts, lengths, size, images.dtype)
        if chosen is None:
            return found
        # Those of a box as large as the image may be rounded.
        unit = jnp.eye(size, dtype=images.dtype)
        return jnp.where(chosen[:, None, None], found, unit)

    rows = weights(boxes[:, 0], boxes[:, 2], height)
    columns = weights(boxes[:, 1], boxes[:, 3], width)
    columns = jnp.where(flips[:, None, None], columns[:, ::-1], columns)
    return _resample(images, rows, columns)


def _resample(
    images: jax.Array, rows: jax.Array, columns: jax.Array
) -> jax.Array:
    """Images whose pixels are weighted sums of those of `images`.

    Args:
        images: [B,H,W,C].
        rows: [B,H,H], weights of input rows in output rows.
        columns: [B,W,W], the same for columns.
    """
    images = _mix_rows(images, rows)
    return _mix_rows(images.swapaxes(1, 2), columns).swapaxes(1, 2)


def _mix_rows(images: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted sums of the rows of images [B,H,W,C], by weights [B,H,H]."""
    # A row as one axis: in the layout of a product, a TPU pads the last axis to
    # 128 elements.
    lines = images.reshape(*images.shape[:2], -1)
    # Lower precision on accelerators would round pixels to 8 or 11 bits.
    exact = jax.lax.Precision.HIGHEST
    lines = jnp.einsum('byi,bil->byl', weights, lines, precision=exact)
    return lines.reshape(images.shape)


def _interpolation_weights(
    starts: jax.Array, lengths: jax.Array, size: int, dtype: jnp.dtype
) -> jax.Array:
    """Weights of input pixels in output pixels along an axis, [B,size,size].

    Args:
        starts: int32[B], first pixel of the crop.
        lengths: int32[B], pixels of the crop.
        size: pixels of the image.
        dtype: dtype of the weights.
    """
    starts, lengths = starts[:, None], lengths[:, None]
    # (x + 1/2) * length / size - 1/2, rounded once.
    centres = (2 * jnp.arange(size) + 1) * lengths - size
    centres = centres.astype(dtype) / (2 * size)
    # Outside the crop there are no pixels to interpolate with.
    centres = starts + jnp.clip(centres, 0, lengths - 1)
    distances = jnp.abs(centres[:, :, None] - jnp.arange(size))
    return jnp.maximum(1 - distances, 0)
