"""Decodes image files in threads, and computes pixel statistics."""

import concurrent.futures
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mnemonics_jax.data import pillow
from mnemonics_jax.data.errors import BadImageError
from mnemonics_jax.data.random_crop import ATTEMPTS, crop_box

# Number of uniform draws that `decode_crop` takes.
NUM_DRAWS = 4 * ATTEMPTS + 2

# Decoding releases the GIL; more threads than cores hide reading.
_THREADS = 2 * (os.cpu_count() or 1) + 2
_ROWS_PER_TASK = 32
_LEAST_STD = 1 / 255


def decode(
    data: bytes,
    channels: int,
    size: int | None = None,
    shorter: int | None = None,
) -> np.ndarray:
    """Decodes an image.

    The EXIF orientation is applied, an animation gives its first frame,
    transparency is composited on white, 16 bits are truncated to 8.

    Args:
        data: bytes of a file in one of `pillow.FORMATS`.
        channels: 1 for grey, 3 for RGB; the image is converted.
        size: side of the result: the central square is resized by bilinear
            interpolation, antialiased where it shrinks. None keeps the image's
            own size and shape.
        shorter: length that the shorter side is resized to before the central
            crop, >= `size`; the crop is centred to fractions of a pixel. None
            keeps the whole central square, centred to whole pixels.

    Returns:
        uint8[H,W,C], H = W = size if there is a size.

    Raises:
        BadImageError: the data are not a complete image.
        ValueError: `shorter` is given without a size or is below it.
    """
    if shorter and shorter < (size or math.inf):
        raise ValueError(f'shorter={shorter}: must be at least size={size}')

    with pillow.opened(data) as opened:
        if not size:
            image = pillow.load(opened, channels)
        elif not shorter:
            image = pillow.load_square(opened, channels, size)
        else:
            choose = functools.partial(_central, size=size, shorter=shorter)
            image = pillow.load_crop(opened, channels, size, choose)
    return _pixels(image, channels)


def decode_crop(
    data: bytes,
    channels: int,
    size: int,
    draws: np.ndarray,
    *,
    flip: bool,
    brightness: float,
) -> np.ndarray:
    """Decodes a random crop of an image, for training.

    Args:
        data: see `decode`.
        channels: 1 for grey, 3 for RGB.
        size: side of the result; the crop is resized as in `decode`.
        draws: float[NUM_DRAWS], uniform in [0, 1): the draws of `crop_box` for
            the upright image, then one for the flip and one for the brightness.
        flip: whether to flip horizontally if its draw is below 1/2.
        brightness: jitter b in [0, 1]: pixels are multiplied by a factor
            uniform in [1 - b, 1 + b] and clipped.

    Returns:
        uint8[size,size,C].

    Raises:
        BadImageError: see `decode`.
    """
    box_draws, (flip_draw, brightness_draw) = draws[:-2], draws[-2:]
    choose = functools.partial(crop_box, draws=box_draws.reshape(ATTEMPTS, 4))
    with pillow.opened(data) as opened:
        image = pillow.load_crop(opened, channels, size, choose)
    if flip and flip_draw < 0.5:
        image = pillow.flipped(image)
    if brightness:
        factor = 1 + brightness * (2 * brightness_draw - 1)
        image = pillow.brightened(image, factor)
    return _pixels(image, channels)


def _pixels(image: Any, channels: int) -> np.ndarray:
    """The pixels uint8[H,W,C] of an image of mode L or RGB."""
    return np.asarray(image).reshape(image.height, image.width, channels)


def decode_many(
    load: Callable[[int], bytes],
    describe: Callable[[int], str],
    num: int,
    shape: tuple[int, int, int],
    *,
    resize: bool,
    shorter: int | None = None,
) -> np.ndarray:
    """Decodes images in threads.

    Args:
        load: `(row) -> bytes`, the encoded image; called in threads.
        describe: `(row) -> str`, the image's name in messages.
        num: number of rows, n.
        shape: (H, W, C), with H = W if `resize`.
        resize: whether to resize to the shape; otherwise images must have it.
        shorter: see `decode`; used if `resize`.

    Returns:
        uint8[n,H,W,C].

    Raises:
        BadImageError: an image cannot be read; names the first by row.
    """
    images = np.empty((num, *shape), np.uint8)
    sizes = (shape[0] if resize else None, shorter)

    def fill(row: int) -> None:
        try:
            images[row] = _decode_row(load, row, shape, sizes)
        except BadImageError as e:
            raise BadImageError(f'{describe(row)}: {e}') from e

    _for_rows(fill, num)
    return images


def find_bad(
    load: Callable[[int], bytes],
    num: int,
    shape: tuple[int, int, int],
    *,
    shorter: int | None = None,
) -> dict[int, str]:
    """Finds images that `decode_many` with `resize` cannot decode.

    Args:
        load: `(row) -> bytes`, the encoded image; called in threads.
        num: number of rows.
        shape: (H, W, C) to resize to.
        shorter: see `decode`.

    Returns:
        row -> reason, by ascending row.
    """
    bad = {}

    def check(row: int) -> None:
        try:
            _decode_row(load, row, shape, (shape[0], shorter))
        except BadImageError as e:
            bad[row] = str(e)

    _for_rows(check, num)
    return dict(sorted(bad.items()))


def _for_rows(function: Callable[[int], None], num: int) -> None:
    """Calls a function for each row in threads; raises the first error."""

    def call(start: int) -> None:
        for row in range(start, min(start + _ROWS_PER_TASK, num)):
            function(row)

    starts = range(0, num, _ROWS_PER_TASK)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(call, starts):
            pass


def _decode_row(
    load: Callable[[int], bytes],
    row: int,
    shape: tuple[int, int, int],
    sizes: tuple[int | None, int | None],
) -> np.ndarray:
    """One image of `decode_many`; raises BadImageError."""
    try:
        data = load(row)
    except OSError as e:
        raise BadImageError(f'cannot be read: {pillow.reason(e)}') from e
    image = decode(data, shape[-1], *sizes)
    if image.shape != shape:
        raise BadImageError(f'shape {image.shape}: must be {shape}')
    return image


def statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes the exact mean and standard deviation of pixels in [0, 1].

    Args:
        images: uint8[n,H,W,C], n >= 1.

    Returns:
        Mean and standard deviation per channel. The latter is at least one grey
        level, since normalisation divides by it.
    """
    means, stds = [], []
    levels = np.arange(256) / 255
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), 1024):  # bincount copies to int64.
            pixels = images[start : start + 1024, ..., channel]
            counts += np.bincount(pixels.ravel(), minlength=256)
        weights = counts / counts.sum()
        mean = float(weights @ levels)
        variance = float(weights @ (levels - mean) ** 2)
        means.append(mean)
        stds.append(max(variance**0.5, _LEAST_STD))
    return tuple(means), tuple(stds)


def _central(height: int, width: int, *, size: int, shorter: int) -> pillow.Box:
    """The central square with size / shorter of the shorter side."""
    side = min(height, width) * size / shorter
    return (height - side) / 2, (width - side) / 2, side, side
