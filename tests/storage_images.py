"""Small images that are hard on a codec, each in its own way."""

import io

import numpy as np
from PIL import Image


def make(kind: str, num: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Images f32[num, *shape] in [0, 1]."""
    rng = np.random.default_rng(sum(map(ord, kind)) + sum(shape))
    height, width, channels = shape
    if kind == 'noise':
        images = rng.uniform(size=(num, *shape))
    elif kind == 'saturated':
        images = rng.integers(0, 2, (num, *shape))
    elif kind == 'smooth':
        y, x = np.mgrid[:height, :width][..., None]
        a, b, c = rng.uniform(0.05, 0.4, (3, num, 1, 1, channels))
        images = 0.5 + 0.5 * np.sin(a * y + b * x + 20 * c)
    elif kind == 'black':
        images = np.zeros((num, *shape))
    elif kind == 'one pixel':
        images = np.zeros((num, *shape))
        images[:, height // 2, width // 3] = 1
    else:
        raise ValueError(kind)
    return images.astype(np.float32)


KINDS = ('noise', 'saturated', 'smooth', 'black', 'one pixel')


def pillow_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Pillow's own JPEG file of an image uint8[H, W, C]."""
    written = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
        written, 'JPEG', quality=quality, subsampling=subsampling
    )
    return written.getvalue()


def segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The segments of a JPEG file's header, and all that follows it."""
    assert data[:2] == b'\xff\xd8'
    found, i = [], 2
    while not found or found[-1][0] != 0xDA:
        assert data[i] == 0xFF
        length = int.from_bytes(data[i + 2 : i + 4], 'big')
        found.append((data[i + 1], data[i + 4 : i + 2 + length]))
        i += 2 + length
    return found, data[i:]
