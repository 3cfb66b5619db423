"""Batches of images that lie on the device, without TensorFlow.

A batch names rows of the images; the jitted step gathers them (see
`device_batch.batch_images`). Nothing but numbers is copied while training.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mnemonics_jax.data.batches import BatchReader

Put = Callable[[np.ndarray], Any]


def from_device(images: np.ndarray, capacity: int, put: Put) -> BatchReader:
    """Delivers rows of images that it puts on the device, once.

    Args:
        images: uint8[n,H,W,C].
        capacity: the pool's rows, >= n, the rest of them blank: pools of the
            same capacity share the compilations of what reads them.
        put: array -> the same on all devices.
    """
    # One blank image more stands for padding and for exemplars.
    pool = np.zeros((capacity + 1, *images.shape[1:]), np.uint8)
    pool[: len(images)] = images
    pool = put(pool)

    def deliver(columns, seed):
        del seed  # Augmentation happens on the device.
        rows = np.where(columns['row'] < 0, capacity, columns['row'])
        columns = {**columns, 'row': rows.astype(np.int32)}
        for step in range(len(rows)):
            yield {'pool': pool, **{k: v[step] for k, v in columns.items()}}

    return deliver
