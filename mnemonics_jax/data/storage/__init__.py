"""How exemplars are stored, one codec each; a new file or folder adds one.

A codec has `make(image_shape, quality, subsampling) -> Storage`. What counts as
memory are the bytes that it encodes images to, and one header for all of them.
"""

import functools
import importlib
import io
import math
import pkgutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import PIL
from numpy.typing import DTypeLike
from PIL import Image, UnidentifiedImageError, features

SUBSAMPLINGS = ('4:2:0', '4:4:4')

# Pillow's names of the libraries that decode; 'jpg' is any libjpeg.
_LIBRARIES = ('jpg', 'libjpeg_turbo', 'webp')


class Storage(NamedTuple):
    """Functions of a codec for images of one shape [H, W, C], on the host.

    Attributes:
        dtype: of decoded images, which training reads: 'uint8' or 'float32'.
        suffix: of the names of complete image files, such as '.jpg'.
        header: what all images have in common; stored and counted once.
        encode: `(images, kept=None) -> list[bytes]`. The images [n, H, W, C]
            are uint8, or f32 or f64 and clipped to [0, 1]; `kept` is a result
            of the attribute `kept`, or None for all coefficients. Raises
            ValueError for another shape or values that are not finite.
        decode: `(Sequence[bytes]) -> dtype[n, H, W, C]`; for one version of the
            decoder always the same. Raises ValueError for bytes that are not
            an image of this shape.
        num_bytes: `(bytes) -> int`, what an encoded image counts.
        file: `(bytes) -> bytes`, an encoded image as a complete file.
        compresses: whether encoded images are smaller than their arrays.
        learnable: whether pixels can be learned so that they fit the codec.
        kept: `(images) -> bool[n, *kept_shape]`, the coefficients that learning
            may change: those that are not zero in the images [n, H, W, C], so
            that learning takes about as many bytes. NumPy for NumPy's arrays,
            JAX's for JAX's. None: there are no coefficients.
        kept_shape: shape of an image's `kept`, () without coefficients.
        shown: `(pixels, kept) -> images`, the decoded images f32 or f64
            [n, H, W, C] in [0, 1] of pixels of this type and shape that are
            learned; in JAX. It has the values of `decode(encode(pixels,
            kept))`, and the derivatives of the codec without rounding and
            clipping. None: learned pixels are shown as they are.
    """

    dtype: str
    suffix: str
    header: bytes
    encode: Callable[..., list[bytes]]
    decode: Callable[[Sequence[bytes]], np.ndarray]
    num_bytes: Callable[[bytes], int]
    file: Callable[[bytes], bytes]
    learnable: bool
    compresses: bool = True
    kept: Callable[..., np.ndarray] | None = None
    kept_shape: tuple[int, ...] = ()
    shown: Callable[[jax.Array, jax.Array], jax.Array] | None = None


def names() -> list[str]:
    """Names of all codecs: the files and folders of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def make(
    name: str,
    image_shape: tuple[int, int, int],
    quality: int = 50,
    subsampling: str = '4:2:0',
) -> Storage:
    """A codec for images of one shape; the same one for the same arguments.

    Args:
        name: one of `names()`.
        image_shape: H, W and C.
        quality: 1 (few bytes) to 100, for codecs that lose some of an image.
        subsampling: '4:2:0' stores colours at half the resolution, '4:4:4' at
            the full one; only JPEG has the choice.

    Raises:
        ValueError: an argument is not one of these, or the codec cannot store
            images of this shape.
    """
    if name not in names():
        raise ValueError(
            f'exemplars.storage={name!r}: must be one of {", ".join(names())}'
        )
    if quality not in range(1, 101):
        raise ValueError(
            f'exemplars.quality={quality}: must be an integer from 1 to 100'
        )
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(
            f'exemplars.subsampling={subsampling!r}: must be one of '
            f'{", ".join(SUBSAMPLINGS)}'
        )
    module = importlib.import_module(f'{__name__}.{name}')
    return module.make(image_shape, quality, subsampling)


def decoder_version() -> dict[str, str | None]:
    """Versions of what decodes images; None for what is not installed.

    Another version may decode the same bytes to other pixels.
    """
    libraries = {name: features.version(name) for name in _LIBRARIES}
    return {'pillow': PIL.__version__, **libraries}


# For codecs.


def check_channels(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError if images are neither grey nor of three colours."""
    if image_shape[2] not in (1, 3):
        raise ValueError(
            f'exemplars.storage={name!r}: must have images of 1 or 3 channels, '
            f'not {image_shape[2]}'
        )


def check_images(
    images: np.ndarray, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """The images [n, H, W, C], on the host; see `Storage.encode`.

    Raises:
        ValueError: they have another shape, or values that are not finite.
    """
    images = np.asarray(images)
    if images.shape[1:] != image_shape or images.ndim != 4:
        raise ValueError(
            f'exemplars: images {list(images.shape)}: must be [n, '
            f'{", ".join(map(str, image_shape))}]'
        )
    if not np.isfinite(images).all():
        raise ValueError('exemplars: pixels must be finite')
    return images


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images, uint8 or floats that are clipped to [0, 1], as uint8."""
    if images.dtype == np.uint8:
        return images
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def decode_files(
    files: Sequence[bytes], image_format: str, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Image files decoded by Pillow, uint8[n, H, W, C].

    Raises:
        ValueError: one is not a whole image of this format and shape.
    """
    height, width, channels = image_shape
    decoded = np.empty((len(files), *image_shape), np.uint8)
    for i, data in enumerate(files):
        try:
            with Image.open(io.BytesIO(data), formats=[image_format]) as image:
                if image.size != (width, height):
                    raise ValueError(
                        f'{image.size[0]} x {image.size[1]} pixels'
                    )
                pixels = image.convert('L' if channels == 1 else 'RGB')
        except (OSError, SyntaxError, UnidentifiedImageError, ValueError) as e:
            raise ValueError(
                f'exemplars: image {i} must be {image_format} of {width} x '
                f'{height} pixels: {str(e).splitlines()[0]}'
            ) from e
        decoded[i] = np.asarray(pixels).reshape(image_shape)
    return decoded


def decode_raw(
    encoded: Sequence[bytes],
    dtype: DTypeLike,
    image_shape: tuple[int, int, int],
) -> np.ndarray:
    """Arrays of which the bytes were stored, [n, H, W, C] of `dtype`.

    Raises:
        ValueError: one has another number of bytes.
    """
    size = np.dtype(dtype).itemsize * math.prod(image_shape)
    for i, data in enumerate(encoded):
        if len(data) != size:
            raise ValueError(
                f'exemplars: image {i} must have {size} bytes, not {len(data)}'
            )
    pixels = np.frombuffer(b''.join(encoded), dtype)
    return pixels.reshape(-1, *image_shape).copy()


def arrays(
    image_shape: tuple[int, int, int],
    dtype: DTypeLike,
    to_dtype: Callable[[np.ndarray], np.ndarray],
    suffix: str,
    to_file: Callable[[np.ndarray], bytes],
) -> Storage:
    """A codec that stores the bytes of arrays.

    Args:
        image_shape: H, W and C.
        dtype: of what is stored.
        to_dtype: converts the images of `Storage.encode`.
        suffix: see `Storage`.
        to_file: an image file of one array [H, W, C].
    """

    def encode(images, kept=None):
        del kept
        converted = to_dtype(check_images(images, image_shape))
        return [image.tobytes() for image in converted]

    def decode(encoded):
        return decode_raw(encoded, dtype, image_shape)

    return Storage(
        dtype=np.dtype(dtype).name,
        suffix=suffix,
        header=b'',
        encode=encode,
        decode=decode,
        num_bytes=len,
        file=lambda encoded: to_file(decode([encoded])[0]),
        learnable=True,
        compresses=False,
    )


# What a codec loses.


def psnr(stored: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, f64[n] in dB.

    Args:
        stored: decoded images [n, H, W, C], uint8, or floats in [0, 1].
        originals: what was encoded; the same.

    Returns:
        10 log10(1 / mean squared difference) of values in [0, 1]; infinite for
        equal images.
    """
    images = (np.asarray(stored), np.asarray(originals))
    a, b = (
        x / np.float64(255) if x.dtype == np.uint8 else x.astype(np.float64)
        for x in images
    )
    errors = np.mean((a - b) ** 2, axis=(1, 2, 3))
    with np.errstate(divide='ignore'):
        return -10 * np.log10(errors)


def mean_psnr(values: np.ndarray) -> float:
    """Mean of the finite ones of `psnr`, in dB; infinite if none is.

    An image that is stored without a loss says nothing of how large the losses
    are, and would hide those of all others in a mean.
    """
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float('inf')
