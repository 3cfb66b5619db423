"""tf.data batches of images in memory."""

import functools
import itertools
from typing import Any

import numpy as np

from mnemonics_jax.data.batches import BatchReader, by_step
from mnemonics_jax.data.tf_import import options, tensorflow

# Items prepared ahead.
PREFETCH = 2
# An item of the dataset has several batches, of at most so many bytes together:
# each item takes a tenth of a millisecond, longer than gathering a small batch.
ITEM_BYTES = 2**22


def from_memory(images: np.ndarray) -> BatchReader:
    """Makes a reader of images, copied once into TensorFlow's memory.

    The copy is freed with the reader. Starting an epoch takes milliseconds,
    since TensorFlow does not retrace.

    Args:
        images: uint8[n,H,W,C].
    """
    # One zero image at the end stands for padding and exemplars.
    blank = np.zeros((1, *images.shape[1:]), np.uint8)
    tensor = tensorflow().convert_to_tensor(np.concatenate([images, blank]))
    num_images = len(images)

    def read_batches(columns, seed):
        del seed  # Augmentation runs on the device.
        others = dict(columns)
        rows = others.pop('row')
        steps, size = rows.shape
        num = max(1, min(ITEM_BYTES // (size * blank.nbytes), steps))
        padded = np.full((-(-steps // num) * num, size), num_images)
        padded[:steps] = np.where(rows < 0, num_images, rows)
        items = _build_epoch()(tensor, padded.reshape(-1, num, size))
        images = itertools.chain.from_iterable(items.as_numpy_iterator())
        # Ends with the others, before the padding.
        for batch, image in zip(by_step(others), images, strict=False):
            yield {'image': image, **batch}

    return read_batches


@functools.cache
def _build_epoch() -> Any:
    """A traced function (images, rows) -> tf.data.Dataset of an epoch's images.

    Building the dataset eagerly would trace its map function each epoch, which
    takes tens of milliseconds. The images are an argument, not a constant, so
    the function keeps no images alive.
    """
    tf = tensorflow()

    def build(images: Any, rows: Any) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(rows)
        dataset = dataset.map(lambda item: tf.gather(images, item))
        # Gathering takes well under a millisecond: one thread is enough.
        return dataset.prefetch(PREFETCH).with_options(options(threads=1))

    return tf.function(
        build,
        input_signature=[
            tf.TensorSpec([None] * 4, tf.uint8),
            tf.TensorSpec([None] * 3, tf.int64),
        ],
        autograph=False,
    )
