"""Decoding of image files into arrays, in threads, and statistics of pixels."""

import concurrent.futures
import io
import os
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# No others: some of Pillow's readers run programs on what they are given.
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF')

# What makes an image upright, by EXIF orientation; 1 is upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Decoding releases Python's lock; more threads than cores hide reading.
_THREADS = 2 * (os.cpu_count() or 1) + 2
_ROWS_PER_TASK = 32
_LEAST_STD = 1 / 255


class BadImageError(ValueError):
    """A file or record that holds no readable image, as one line."""


def decode(data: bytes, channels: int, size: int | None = None) -> np.ndarray:
    """Decodes an image as it is meant to be looked at.

    The EXIF orientation is respected, an animation gives its first frame,
    transparent parts are seen on white, 16 bits are cut to 8.

    Args:
        data: of a file in one of `FORMATS`.
        channels: 1 for grey, 3 for RGB, whatever the file has.
        size: the side of the result: the image is cropped to its central
            square, and that is resized by bilinear interpolation, antialiased
            where it shrinks. None for the image as large as it is.

    Returns:
        uint8[H,W,C], H = W = size if there is a size.

    Raises:
        BadImageError: the data are no image, or not all of one.
    """
    if not data:
        raise BadImageError('empty')
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if size:
                # A large JPEG shrinks while it is decoded, which is many
                # times faster, to no less than twice the size.
                image.draft(None, (2 * size, 2 * size))
            image.load()
            image = _convert(_upright(image), channels)
    except UnidentifiedImageError as e:
        raise BadImageError(f'no {", ".join(FORMATS)} image') from e
    except Exception as e:  # Pillow's readers raise a dozen types.
        raise BadImageError(f'broken: {_reason(e)}') from e
    if size:
        image = _central_square(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says, if that is readable."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        transposition = _TRANSPOSITIONS.get(orientation)
    except Exception:  # Broken EXIF data are no fault of the pixels.
        return image
    return image if transposition is None else image.transpose(transposition)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """An image of mode L or RGB."""
    if image.mode.startswith('I'):
        pixels = np.asarray(image) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    return image.convert('L' if channels == 1 else 'RGB')


def _central_square(image: Image.Image, size: int) -> Image.Image:
    """The central square of an image, resized."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not by resize's own argument for it, which looks beyond its edges.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def decode_many(
    load: Callable[[int], bytes],
    describe: Callable[[int], str],
    num: int,
    shape: tuple[int, int, int],
    *,
    resize: bool,
) -> np.ndarray:
    """Decodes images in threads; the result does not depend on their number.

    Args:
        load: gives the encoded image of a row; called in threads.
        describe: names the image of a row in messages.
        num: of rows, n.
        shape: (H, W, C), with H = W if they are resized.
        resize: whether to resize to the shape, or to expect it.

    Returns:
        uint8[n,H,W,C].

    Raises:
        BadImageError: an image cannot be read; the first by row is named.
    """
    images = np.empty((num, *shape), np.uint8)

    def fill(row: int) -> None:
        try:
            images[row] = _decode_row(load, row, shape, resize)
        except BadImageError as e:
            raise BadImageError(f'{describe(row)}: {e}') from e

    _for_rows(fill, num)
    return images


def find_bad(
    load: Callable[[int], bytes], num: int, shape: tuple[int, int, int]
) -> dict[int, str]:
    """Finds images that `decode_many`, resizing, would fail at.

    Args:
        load: gives the encoded image of a row; called in threads.
        num: of rows.
        shape: (H, W, C) to resize to.

    Returns:
        row -> what is wrong with it, by ascending row.
    """
    bad = {}

    def check(row: int) -> None:
        try:
            _decode_row(load, row, shape, True)
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
    resize: bool,
) -> np.ndarray:
    """One image of `decode_many`; raises BadImageError."""
    try:
        data = load(row)
    except OSError as e:
        raise BadImageError(f'cannot be read: {_reason(e)}') from e
    image = decode(data, shape[-1], shape[0] if resize else None)
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


def _reason(error: Exception) -> str:
    """What an exception says, on one line."""
    text = getattr(error, 'strerror', None) or str(error)
    return ' '.join(text.split()) or type(error).__name__
