"""Random crops of JPEGs decoded by Pillow and by TensorFlow.

    python benchmarks/decoders.py --out=benchmarks/results/decoders_cpu.json

Takes the crops of training, of 224x224 from 500x375 pixels, from the same
files in turn by each decoder: Pillow, as the package does; TensorFlow's decoder
of a part of a JPEG, resized by Pillow; and TensorFlow for both. Writes images
per second of processor time, which other programs on the machine disturb less
than elapsed time, and the largest difference from Pillow in grey levels.
"""

import argparse
import io
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import record
from PIL import Image

from mnemonics_jax.data import decode, random_crop, tf_import

SHAPE = 500, 375  # Width and height of a file.
SIZE = 224
IMAGES = 100
REPEATS = 9
# Standard deviation of the noise in a file: about as many bytes as a smooth
# picture and as a photo of ImageNet.
NOISE = {'smooth': 0, 'detailed': 30}
# The decoder interpolates colours from pixels beside a box, up to two away.
MARGIN = 2


def make_file(random: np.random.Generator, noise: float) -> bytes:
    """A JPEG of `SHAPE` with colours at half the resolution."""
    grid = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    image = Image.fromarray(grid).resize(SHAPE, Image.BICUBIC)
    pixels = np.asarray(image) + random.normal(0, noise, (*SHAPE[::-1], 1))
    buffer = io.BytesIO()
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(buffer, 'JPEG', quality=90, subsampling='4:2:0')
    return buffer.getvalue()


def by_pillow(data: bytes, draws: np.ndarray) -> np.ndarray:
    """The crop as the package makes it."""
    return decode.decode_crop(data, 3, SIZE, draws, flip=False, brightness=0)


def part(data: bytes, draws: np.ndarray) -> np.ndarray:
    """The box of the crop, decoded by TensorFlow; bits of Pillow's."""
    tf = tf_import.tensorflow()
    # Known here; a reader of any file would have to look, as Pillow does.
    width, height = SHAPE
    box = random_crop.crop_box(height, width, draws[:-2].reshape(-1, 4))
    y, x, h, w = map(int, box)
    top, left = max(y - MARGIN, 0), max(x - MARGIN, 0)
    bottom, right = min(y + h + MARGIN, height), min(x + w + MARGIN, width)
    pixels = tf.io.decode_and_crop_jpeg(
        data,
        [top, left, bottom - top, right - left],
        channels=3,
        dct_method='INTEGER_ACCURATE',
    ).numpy()
    y, x = y - top, x - left
    return pixels[y : y + h, x : x + w]


def by_both(data: bytes, draws: np.ndarray) -> np.ndarray:
    """The crop decoded by TensorFlow and resized by Pillow."""
    image = Image.fromarray(part(data, draws))
    return np.asarray(image.resize((SIZE, SIZE), Image.BILINEAR))


def by_tensorflow(data: bytes, draws: np.ndarray) -> np.ndarray:
    """The crop decoded and resized by TensorFlow."""
    tf = tf_import.tensorflow()
    pixels = part(data, draws)[None]
    resized = tf.image.resize(pixels, (SIZE, SIZE), antialias=True)
    return np.rint(resized.numpy()[0]).astype(np.uint8)


DECODERS: dict[str, Callable[[bytes, np.ndarray], np.ndarray]] = {
    'Pillow': by_pillow,
    'TensorFlow, resized by Pillow': by_both,
    'TensorFlow': by_tensorflow,
}


def compare(noise: float, num: int, repeats: int) -> dict[str, Any]:
    """Figures of all decoders on the same files.

    Args:
        noise: see `NOISE`.
        num: number of files.
        repeats: rounds over the files.

    Returns:
        Bytes of a file; images per second of processor time in the best round;
        the largest difference from Pillow's pixels.
    """
    random = np.random.default_rng(0)
    files = [make_file(random, noise) for _ in range(num)]
    draws = random.random((num, decode.NUM_DRAWS))
    seconds = dict.fromkeys(DECODERS, np.inf)
    for _ in range(repeats):
        crops = {}
        for name, function in DECODERS.items():
            start = time.process_time()
            crops[name] = [
                function(data, numbers)
                for data, numbers in zip(files, draws, strict=True)
            ]
            elapsed = time.process_time() - start
            seconds[name] = min(seconds[name], elapsed)
    pillow = np.asarray(crops['Pillow'], int)
    return {
        'bytes': float(np.mean([len(data) for data in files])),
        'images_per_processor_second': {
            name: num / best for name, best in seconds.items()
        },
        'largest_difference': {
            name: int(np.abs(np.asarray(found, int) - pillow).max())
            for name, found in crops.items()
        },
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    figures = {
        name: compare(noise, IMAGES, REPEATS) for name, noise in NOISE.items()
    }
    sizes = {'images': IMAGES, 'repeats': REPEATS}
    command = 'python benchmarks/decoders.py'
    record.write(arguments.out, command, {**sizes, **figures})


if __name__ == '__main__':
    main()
