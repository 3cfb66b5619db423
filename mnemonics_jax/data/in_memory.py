"""tf.data batches of images in memory."""

import functools
from typing import Any

import numpy as np

from mnemonics_jax.data.batches import BatchReader
from mnemonics_jax.data.tf_import import options, tensorflow

# Batches prepared ahead.
PREFETCH = 2


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
        rows = columns['row']
        columns = {**columns, 'row': np.where(rows < 0, num_images, rows)}
        return _build_epoch()(tensor, columns).as_numpy_iterator()

    return read_batches


@functools.cache
def _build_epoch() -> Any:
    """A traced function (images, columns) -> tf.data.Dataset of an epoch.

    Building the dataset eagerly would trace its map function each epoch, which
    takes tens of milliseconds. The images are an argument, not a constant, so
    the function keeps no images alive.
    """
    tf = tensorflow()

    def gather(images: Any, columns: dict[str, Any]) -> dict[str, Any]:
        row = columns.pop('row')
        return {'image': tf.gather(images, row), **columns}

    def build(images: Any, columns: dict[str, Any]) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        dataset = dataset.map(lambda batch: gather(images, dict(batch)))
        # Gathering takes well under a millisecond: one thread is enough.
        return dataset.prefetch(PREFETCH).with_options(options(threads=1))

    dtypes = {
        'row': tf.int64,
        'label': tf.int32,
        'index': tf.int32,
        'weight': tf.float32,
    }
    return tf.function(
        build,
        input_signature=[
            tf.TensorSpec([None] * 4, tf.uint8),
            {key: tf.TensorSpec([None] * 2, dtypes[key]) for key in dtypes},
        ],
        autograph=False,
    )
