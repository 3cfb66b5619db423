"""Loads an encoded image with Pillow: rotates, converts, crops, resizes it."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from mnemonics_jax.data.errors import BadImageError

# The formats that are read, and how names of such files end. Only these: some
# of Pillow's readers run external programs on the file, or read no pixels.
_SAFE = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo'),
    'PNG': ('.png',),
    'BMP': ('.bmp',),
    'GIF': ('.gif',),
    'WEBP': ('.webp',),
    'TIFF': ('.tif', '.tiff'),
    'AVIF': ('.avif',),
    'JPEG2000': ('.jp2', '.j2k', '.jpx'),
    'PPM': ('.ppm', '.pgm', '.pbm', '.pnm'),
    'TGA': ('.tga',),
    'PCX': ('.pcx',),
    'SGI': ('.sgi',),
    'ICO': ('.ico',),
    'QOI': ('.qoi',),
}
# What Pillow needs for some; its wheels have them.
_LIBRARIES = {'WEBP': 'webp', 'AVIF': 'avif', 'JPEG2000': 'jpg_2000'}


def _available() -> tuple[str, ...]:
    """The safe formats that this Pillow reads."""
    Image.init()
    return tuple(
        name
        for name in _SAFE
        if name in Image.OPEN
        and (name not in _LIBRARIES or features.check(_LIBRARIES[name]))
    )


FORMATS = _available()
SUFFIXES = tuple(suffix for name in FORMATS for suffix in _SAFE[name])

# An image takes three bytes for each, in several threads.
MOST_PIXELS = 2**26

# Top, left, height and width in pixels, possibly fractional.
Box = tuple[float, float, float, float]

# Transposition to upright by EXIF orientation; 1 is upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = (5, 6, 7, 8)


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Opens an encoded image without loading its pixels.

    Raises:
        BadImageError: an error here or in the body of the `with` statement.
    """
    if not data:
        raise BadImageError('empty')
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_range(image)
            _check_size(image)
            if image.format == 'TIFF':
                # Pillow turns these upright when it loads them.
                image.load()
            yield image
    except BadImageError:
        raise
    except UnidentifiedImageError as e:
        raise BadImageError(f'no {", ".join(FORMATS)} image') from e
    except Exception as e:  # Pillow's readers raise a dozen types.
        raise BadImageError(f'broken: {reason(e)}') from e


def _check_range(image: Image.Image) -> None:
    """Raises BadImageError if it is not known which pixel is white."""
    # PNG and PPM have a largest value, which Pillow scales to 16 bits.
    scaled = image.format in ('PNG', 'PPM')
    if image.mode == 'F' or (image.mode == 'I' and not scaled):
        raise BadImageError('pixels of 32 bits: must have 8 or 16')


def _check_size(image: Image.Image) -> None:
    """Raises BadImageError if the pixels would take too much memory."""
    if image.width * image.height > MOST_PIXELS:
        raise BadImageError(
            f'{image.width} x {image.height} pixels: must be at most '
            f'{MOST_PIXELS} in all'
        )


def load(image: Image.Image, channels: int) -> Image.Image:
    """Loads an opened image at its own size.

    Args:
        image: opened image.
        channels: 1 for mode L, 3 for mode RGB.
    """
    image.load()
    return _convert(_turn(image, _orientation(image)), channels)


def load_square(image: Image.Image, channels: int, size: int) -> Image.Image:
    """Loads the central square of an opened image, resized.

    Args:
        image: opened image.
        channels: 1 for mode L, 3 for mode RGB.
        size: side of the result.
    """
    _draft(image, min(image.size), size)
    image.load()
    image = _turn(image, _orientation(image))
    side = min(image.size)
    top, left = (image.height - side) // 2, (image.width - side) // 2
    return _crop(image, channels, size, (top, left, side, side))


def load_crop(
    image: Image.Image,
    channels: int,
    size: int,
    choose: Callable[[int, int], Box],
) -> Image.Image:
    """Loads a box of an opened image, resized.

    Args:
        image: opened image.
        channels: 1 for mode L, 3 for mode RGB.
        size: side of the result.
        choose: `(height, width) -> Box`, in the upright image.
    """
    orientation = _orientation(image)
    width, height = image.size
    if orientation in _SIDES_SWAPPED:
        width, height = height, width
    box = choose(height, width)
    # Exact if the image size is a multiple of the scale or the file's corner
    # stays at the top left; otherwise off by less than one pixel of the draft.
    scale = _draft(image, min(box[2:]), size)
    image.load()
    image = _turn(image, orientation)
    y, x, h, w = (value / scale for value in box)
    return _crop(image, channels, size, (y, x, h, w))


def flipped(image: Image.Image) -> Image.Image:
    """An image flipped horizontally."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def brightened(image: Image.Image, factor: float) -> Image.Image:
    """An image of mode L or RGB times a factor, rounded and clipped."""
    levels = np.minimum(np.rint(np.arange(256) * factor), 255).astype(int)
    return image.point(levels.tolist() * len(image.getbands()))


def reason(error: Exception) -> str:
    """The message of an exception, on one line."""
    text = getattr(error, 'strerror', None) or str(error)
    return ' '.join(text.split()) or type(error).__name__


def _draft(image: Image.Image, side: float, size: int) -> int:
    """Decodes a large JPEG at a reduced scale, which is many times faster.

    Args:
        image: opened image, not loaded yet.
        side: shorter side of the box, in pixels.
        size: side of the result; at least twice as many pixels are decoded.

    Returns:
        The factor by which each side shrinks: 1, 2, 4 or 8.
    """
    scale = max(k for k in (1, 2, 4, 8) if k == 1 or k * 2 * size <= side)
    if scale == 1:
        return 1
    width, height = image.size
    drafted = image.draft(None, (width // scale, height // scale))
    return scale if drafted else 1


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if it cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # The pixels may be fine though EXIF data are broken.
        return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turns an image upright."""
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image to mode L or RGB."""
    if image.mode.startswith('I'):
        pixels = np.asarray(image) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    mode = 'L' if channels == 1 else 'RGB'
    # Pillow would copy an image that has the mode.
    return image if image.mode == mode else image.convert(mode)


def _crop(
    image: Image.Image, channels: int, size: int, box: Box
) -> Image.Image:
    """A box of a loaded image, converted and resized."""
    top, left, height, width = box
    y, x = math.floor(top), math.floor(left)
    # Resizing alone would mix in pixels outside of the box.
    right, bottom = left + width, top + height
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    edges = (left - x, top - y, right - x, bottom - y)
    image = _convert(image, channels)
    return image.resize((size, size), Image.Resampling.BILINEAR, edges)
