"""Decoding of image files into arrays, in threads, and statistics of pixels."""

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

# Uniform numbers that `decode_crop` takes.
NUM_DRAWS = 4 * ATTEMPTS + 2

# Decoding releases Python's lock; more threads than cores hide reading.
_THREADS = 2 * (os.cpu_count() or 1) + 2
_ROWS_PER_TASK = 32
_LEAST_STD = 1 / 255


def decode(
    data: bytes,
    channels: int,
    size: int | None = None,
    shorter: int | None = None,
) -> np.ndarray:
    """Decodes an image as it is meant to be looked at.

    The EXIF orientation is respected, an animation gives its first frame,
    transparent parts are seen on white, 16 bits are cut to 8.

    Args:
        data: of a file in one of `pillow.FORMATS`.
        channels: 1 for grey, 3 for RGB, whatever the file has.
        size: the side of the result: the image is cropped to its central
            square, and that is resized by bilinear interpolation, antialiased
            where it shrinks. None for the image as large as it is.
        shorter: at least `size`: only size / shorter of the square's side is
            kept, centred to fractions of a pixel, as if the whole image were
            resized to this shorter side and then cropped. None for the whole
            square, centred to whole pixels.

    Returns:
        uint8[H,W,C], H = W = size if there is a size.

    Raises:
        BadImageError: the data are no image, or not all of one.
        ValueError: `shorter` is without a size or below it.
    """
    if shorter and shorter < (size or math.inf):
        raise ValueError(f'shorter={shorter}: must be at least size={size}')

    with pillow.opened(data) as opened:
        if not size:
            image = pillow.whole(opened, channels)
        elif not shorter:
            image = pillow.square(opened, channels, size)
        else:
            choose = functools.partial(_central, size=size, shorter=shorter)
            image = pillow.part(opened, channels, size, choose)
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
    """Decodes a random part of an image, for training.

    Args:
        data: of any kind of file that `decode` takes, seen as it sees it.
        channels: 1 for grey, 3 for RGB.
        size: the side of the result; the box is resized as in `decode`.
        draws: float[NUM_DRAWS], uniform in [0, 1): those of `crop_box` for the
            upright image, attempt by attempt, one that mirrors if it is below
            1/2, and one for the brightness.
        flip: whether to mirror half of the images left and right.
        brightness: b in [0, 1]: pixels are multiplied by a factor that is
            uniform in [1 - b, 1 + b], and clipped.

    Returns:
        uint8[size,size,C].

    Raises:
        BadImageError: see `decode`.
    """
    attempts, (mirror, light) = draws[:-2].reshape(ATTEMPTS, 4), draws[-2:]
    choose = functools.partial(crop_box, draws=attempts)
    with pillow.opened(data) as opened:
        image = pillow.part(opened, channels, size, choose)
    if flip and mirror < 0.5:
        image = pillow.mirrored(image)
    if brightness:
        image = pillow.brightened(image, 1 + brightness * (2 * light - 1))
    return _pixels(image, channels)


def _pixels(image: Any, channels: int) -> np.ndarray:
    """uint8[H,W,C] of an image of mode L or RGB."""
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
    """Decodes images in threads; the result does not depend on their number.

    Args:
        load: gives the encoded image of a row; called in threads.
        describe: names the image of a row in messages.
        num: of rows, n.
        shape: (H, W, C), with H = W if they are resized.
        resize: whether to resize to the shape, or to expect it.
        shorter: see `decode`, if they are resized.

    Returns:
        uint8[n,H,W,C].

    Raises:
        BadImageError: an image cannot be read; the first by row is named.
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
    """Finds images that `decode_many`, resizing, would fail at.

    Args:
        load: gives the encoded image of a row; called in threads.
        num: of rows.
        shape: (H, W, C) to resize to.
        shorter: see `decode`.

    Returns:
        row -> what is wrong with it, by ascending row.
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
    """Calls a function for each row in threads; the first error counts."""

    def do(start: int) -> None:
        for row in range(start, min(start + _ROWS_PER_TASK, num)):
            function(row)

    starts = range(0, num, _ROWS_PER_TASK)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(do, starts):
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
        raise BadImageError(f'has shape {image.shape}, must have {shape}')
    return image


def statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels, exactly, in little memory.

    Args:
        images: uint8[n,H,W,C], n >= 1.

    Returns:
        Mean and standard deviation per channel, of pixels in [0, 1]. The
        latter is at least a grey level, since it divides.
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
    """The central square of which the shorter side has size / shorter."""
    side = min(height, width) * size / shorter
    return (height - side) / 2, (width - side) / 2, side, side
