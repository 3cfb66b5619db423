"""Batches of images stored on the device, without TensorFlow.

A batch has the rows of its images; the jitted step gathers them (see
`device_batch.batch_images`), so that training copies no images.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mnemonics_jax.data.batches import BatchReader, by_step

if TYPE_CHECKING:  # Importing it loads jax, which reading data does without.
    from mnemonics_jax.data.device_batch import ImageRows

Put = Callable[['ImageRows'], 'ImageRows']


def from_device(images: np.ndarray, capacity: int, put: Put) -> BatchReader:
    """Makes a reader of images, copied once to the device.

    Args:
        images: uint8[n,H,W,C].
        capacity: rows of the pool, >= n, padded by blank images; pools of equal
            capacity share the compiled step.
        put: copies arrays to all devices.
    """
    from mnemonics_jax.data.device_batch import to_rows

    # One more blank image stands for padding and exemplars.
    pool = np.zeros((capacity + 1, *images.shape[1:]), np.uint8)
    pool[: len(images)] = images
    placed = put(to_rows(pool))

    def read_batches(columns, seed):
        del seed  # Augmentation runs on the device.
        rows = np.where(columns['row'] < 0, capacity, columns['row'])
        columns = {**columns, 'row': rows.astype(np.int32)}
        for batch in by_step(columns):
            yield {'pool': placed, **batch}

    return read_batches
