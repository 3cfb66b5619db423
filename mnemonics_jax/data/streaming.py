"""tf.data batches of images that are decoded in every epoch.

For images that do not fit in memory, and for random crops of large originals.
A crop depends on the epoch's seed and the example's position alone.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.data import decode, errors, tf_import
from mnemonics_jax.data.batches import Batch, BatchReader, by_step

# Prefetching more batches does not help.
_MAX_PREFETCH = 16
_MAX_CHUNK = 16


class EvalView(NamedTuple):
    """Crops of original images.

    Attributes:
        shape: (H, W, C) of the result, H = W.
        shorter: shorter side before the central crop, for evaluation; None for
            the crop's side.
        flip: whether to flip random crops with probability 1/2.
        brightness: jitter b of random crops, in [0, 1).
    """

    shape: tuple[int, int, int]
    shorter: int | None = None
    flip: bool = False
    brightness: float = 0.0


class EncodedImages(NamedTuple):
    """Images to decode.

    Attributes:
        load: `(row) -> bytes`, called in threads.
        describe: `(row) -> str`, the image's name in messages.
    """

    load: Callable[[int], bytes]
    describe: Callable[[int], str]


def chunk_size(batch_size: int) -> int:
    """Number of images that a thread decodes at a time; divides the batch size.

    A call from TensorFlow into Python costs about as much as a small image.
    """
    return math.gcd(batch_size, _MAX_CHUNK)


class PrefetchBudget(NamedTuple):
    """Limits of prefetching.

    Attributes:
        batches: finished batches kept ahead, >= 1.
        threads: chunks of images decoded at a time, see `chunk_size`.
    """

    batches: int
    threads: int


def plan(
    num_bytes: int, batch_size: int, shape: tuple[int, int, int], ahead: int
) -> PrefetchBudget:
    """Fits prefetching into a memory budget.

    The budget covers decoded images: one chunk per thread, the batch being
    assembled, finished batches, and `ahead` batches held by the consumer. It
    does not cover original images, one per thread.

    Args:
        num_bytes: memory budget.
        batch_size: examples of this process.
        shape: (H, W, C) of an image.
        ahead: batches held by the consumer.

    Raises:
        ValueError: the budget is too small for one batch ahead.
    """
    threads = os.cpu_count() or 1
    image = int(np.prod(shape))
    batch = batch_size * image
    decoded = threads * chunk_size(batch_size) * image
    batches = (num_bytes - decoded) // batch - 1 - ahead
    if batches < 1:
        least = decoded + (2 + ahead) * batch
        raise ValueError(
            f'data.read_ahead_mb={num_bytes / 2**20:g}: must be >= '
            f'{-(-least // 2**20)} with batches of {batch_size} images of '
            f'{shape[0]}x{shape[1]}'
        )
    return PrefetchBudget(min(batches, _MAX_PREFETCH), threads)


def from_encoded(
    originals: EncodedImages,
    view: EvalView,
    budget: PrefetchBudget,
    *,
    augmented: bool,
) -> BatchReader:
    """Makes a reader that decodes images.

    Args:
        originals: images to decode.
        view: crops of them.
        budget: limits of prefetching, see `plan`.
        augmented: whether to take random crops instead of central ones.

    Returns:
        A `BatchReader`. Its iterators raise `errors.BadImageError` if an image
        cannot be read.
    """

    def image_of(row: int, index: int, seed: int) -> np.ndarray:
        if row < 0:
            return np.zeros(view.shape, np.uint8)
        return _decode(originals, view, row, augmented and (seed, index))

    def read_batches(columns, seed):
        return _batches(image_of, columns, seed, view.shape, budget)

    return read_batches


def _decode(
    originals: EncodedImages,
    view: EvalView,
    row: int,
    draw: tuple[int, int] | bool,
) -> np.ndarray:
    """Decodes one image; with `draw`, (seed, index), a random crop."""
    size, _, channels = view.shape
    try:
        data = originals.load(row)
        if not draw:
            return decode.decode(data, channels, size, view.shorter)
        generator = np.random.Generator(np.random.Philox(key=draw))
        return decode.decode_crop(
            data,
            channels,
            size,
            generator.random(decode.NUM_DRAWS),
            flip=view.flip,
            brightness=view.brightness,
        )
    except OSError as e:
        reason = f'cannot be read: {e.strerror or e}'
        raise errors.BadImageError(
            f'{originals.describe(row)}: {reason}'
        ) from e
    except errors.BadImageError as e:
        raise errors.BadImageError(f'{originals.describe(row)}: {e}') from e


def _batches(
    image_of: Callable[[int, int, int], np.ndarray],
    columns: dict[str, np.ndarray],
    seed: int,
    shape: tuple[int, int, int],
    budget: PrefetchBudget,
) -> Iterator[Batch]:
    """The batches of an epoch."""
    tf = tf_import.tensorflow()
    failures: list[Exception] = []

    def decode_rows(rows: Any, indices: Any) -> np.ndarray:
        decoded = np.zeros((len(rows), *shape), np.uint8)
        try:
            for i, (row, index) in enumerate(zip(rows, indices, strict=True)):
                decoded[i] = image_of(int(row), int(index), seed)
        except Exception as e:  # TensorFlow would lose its type and log it.
            failures.append(e)
        return decoded

    others = dict(columns)
    rows = others.pop('row')
    batch_size = rows.shape[1]
    chunk = chunk_size(batch_size)
    flat = (rows.reshape(-1, chunk), columns['index'].reshape(-1, chunk))
    pixels = tf.data.Dataset.from_tensor_slices(flat).map(
        lambda *numbers: tf.numpy_function(decode_rows, numbers, tf.uint8),
        num_parallel_calls=budget.threads,
        deterministic=True,
    )
    pixels = pixels.batch(batch_size // chunk, drop_remainder=True)
    dataset = pixels.map(lambda image: tf.reshape(image, (batch_size, *shape)))
    dataset = dataset.prefetch(budget.batches)
    dataset = dataset.with_options(tf_import.options(budget.threads + 1))
    images = dataset.as_numpy_iterator()
    for image, batch in zip(images, by_step(others), strict=True):
        if failures:
            raise failures[0]
        yield {'image': image, **batch}
