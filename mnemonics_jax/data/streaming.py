"""Batches by tf.data of images that are decoded on the way.

For images that do not fit in memory, and for random crops of large originals.
Every pass over them decodes them anew, in threads. What a crop shows depends on
the epoch's seed and the example's position alone.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.data import decode, errors, tf_import
from mnemonics_jax.data.batches import Batch, BatchReader

# More batches ahead than this even out no pause worth it.
_MAX_PREFETCH = 16
_MAX_CHUNK = 16


class EvalView(NamedTuple):
    """What is shown of an original image.

    Attributes:
        shape: (H, W, C) of the result, H = W.
        shorter: for evaluation: the shorter side before the central crop, None
            for the crop's own.
        flip: of random crops: whether to mirror half of them.
        brightness: of random crops: jitter b, in [0, 1).
    """

    shape: tuple[int, int, int]
    shorter: int | None = None
    flip: bool = False
    brightness: float = 0.0


class EncodedImages(NamedTuple):
    """Images to decode.

    Attributes:
        load: `(row) -> bytes`, called in threads.
        describe: `(row) -> str`, for messages.
    """

    load: Callable[[int], bytes]
    describe: Callable[[int], str]


def chunk_size(batch_size: int) -> int:
    """Images that a thread decodes at a time; a part of every batch.

    A call from TensorFlow into Python costs about as much as a small image.
    """
    return math.gcd(batch_size, _MAX_CHUNK)


class PrefetchBudget(NamedTuple):
    """How far reading may run ahead.

    Attributes:
        batches: made ahead, >= 1, beside the one that is being put together.
        threads: chunks of images decoded at a time, see `chunk_size`.
    """

    batches: int
    threads: int


def plan(
    num_bytes: int, batch_size: int, shape: tuple[int, int, int], ahead: int
) -> PrefetchBudget:
    """Fits reading ahead into a memory.

    The memory holds images at their final size: those just decoded, a chunk a
    thread; a batch that they are put together to; finished batches; and
    `ahead` more that wait on their way to the device. Originals come on top,
    one a thread.

    Args:
        num_bytes: the memory.
        batch_size: of this process.
        shape: (H, W, C) of an image.
        ahead: batches that the consumer holds.

    Raises:
        ValueError: it does not suffice for one batch ahead.
    """
    threads = os.cpu_count() or 1
    image = int(np.prod(shape))
    batch = batch_size * image
    decoded = threads * chunk_size(batch_size) * image
    batches = (num_bytes - decoded) // batch - 1 - ahead
    if batches < 1:
        least = decoded + (2 + ahead) * batch
        raise ValueError(
            f'data.read_ahead_mb={num_bytes / 2**20:g}: allowed: at least '
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
    """Delivers images that it decodes.

    Args:
        originals: the images.
        view: what is shown of them.
        budget: of memory, see `plan`.
        augmented: random crops, or the view of evaluation.

    Returns:
        A `BatchReader`. Its batches raise `errors.BadImageError` if an image
        cannot be read.
    """

    def image_of(row: int, index: int, seed: int) -> np.ndarray:
        if row < 0:
            return np.zeros(view.shape, np.uint8)
        return _decode(originals, view, row, augmented and (seed, index))

    def deliver(columns, seed):
        return _batches(image_of, columns, seed, view.shape, budget)

    return deliver


def _decode(
    originals: EncodedImages,
    view: EvalView,
    row: int,
    draw: tuple[int, int] | bool,
) -> np.ndarray:
    """One image; with `draw`, (seed, index), a random crop."""
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
    """The batches of an epoch, images put together in the order of columns."""
    tf = tf_import.tensorflow()
    failures: list[Exception] = []

    def decode_rows(rows: Any, indices: Any) -> np.ndarray:
        decoded = np.zeros((len(rows), *shape), np.uint8)
        try:
            for i, (row, index) in enumerate(zip(rows, indices, strict=True)):
                decoded[i] = image_of(int(row), int(index), seed)
        except Exception as e:  # TensorFlow would make a text of it, and log.
            failures.append(e)
        return decoded

    rows = columns.pop('row')
    batch_size = rows.shape[1]
    chunk = chunk_size(batch_size)
    flat = (rows.reshape(-1, chunk), columns['index'].reshape(-1, chunk))
    pixels = tf.data.Dataset.from_tensor_slices(flat).map(
        lambda *numbers: tf.numpy_function(decode_rows, numbers, tf.uint8),
        num_parallel_calls=budget.threads,
        deterministic=True,
    )
    pixels = pixels.batch(batch_size // chunk, drop_remainder=True)
    rest = tf.data.Dataset.from_tensor_slices(columns)
    dataset = tf.data.Dataset.zip(pixels, rest).map(
        lambda image, batch: {
            'image': tf.reshape(image, (batch_size, *shape)),
            **batch,
        }
    )
    dataset = dataset.prefetch(budget.batches)
    dataset = dataset.with_options(tf_import.options(budget.threads + 1))
    for batch in dataset.as_numpy_iterator():
        if failures:
            raise failures[0]
        yield batch
