"""Batches by tf.data of images in memory."""

import functools
from typing import Any

import numpy as np

from mnemonics_jax.data.batches import BatchReader
from mnemonics_jax.data.tf_import import options, tensorflow

# Batches that are made ahead of the one that is asked for.
PREFETCH = 2


def from_memory(images: np.ndarray) -> BatchReader:
    """Delivers images that it copies into TensorFlow's memory, once.

    They go with what it returns. An epoch costs milliseconds to start:
    TensorFlow traces nothing anew.

    Args:
        images: uint8[n,H,W,C].
    """
    # One zero image at the end stands for padding and for exemplars.
    blank = np.zeros((1, *images.shape[1:]), np.uint8)
    held = tensorflow().convert_to_tensor(np.concatenate([images, blank]))
    num_images = len(images)

    def deliver(columns, seed):
        del seed  # Augmentation happens on the device.
        rows = columns['row']
        columns = {**columns, 'row': np.where(rows < 0, num_images, rows)}
        return _build_epoch()(held, columns).as_numpy_iterator()

    return deliver


@functools.cache
def _build_epoch() -> Any:
    """A traced function (images, columns) -> tf.data.Dataset of an epoch.

    Building a dataset eagerly traces its map function, tens of milliseconds
    each epoch. Traced as a whole, it serves all epochs and phases; and the
    images are its argument, not its constant, so nothing outlives the feed.
    """
    tf = tensorflow()

    def gather(images: Any, columns: dict[str, Any]) -> dict[str, Any]:
        row = columns.pop('row')
        return {'image': tf.gather(images, row), **columns}

    def build(images: Any, columns: dict[str, Any]) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        dataset = dataset.map(lambda batch: gather(images, dict(batch)))
        # Gathering takes well under a millisecond: one thread keeps up.
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
