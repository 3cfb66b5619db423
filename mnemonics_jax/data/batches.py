"""Epochs of batches, in an order that is computed and never stored.

The order of an epoch is a function of (seed, phase, stage, epoch), so a run
resumes in the middle of an epoch without iterator state. A `BatchFeed` chooses
the examples of each batch; a `BatchReader` reads their images: `in_memory` and
`streaming` use tf.data, `on_device` reads images stored on the device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Batch = dict[str, Any]
# `(columns, seed) -> batches`. Columns are arrays [steps, b] of one epoch:
# 'row' int64 (image row, -1 for a blank image), 'label', 'index', 'weight' as
# in a batch. The seed, 0..2**64-1, is the epoch's, for random crops.
BatchReader = Callable[[dict[str, np.ndarray], int], Iterator[Batch]]


def epoch_order(
    n: int, *, seed: int, phase: int, stage: int, epoch: int
) -> np.ndarray:
    """Computes the order of an epoch from its arguments alone.

    Args:
        n: number of examples.
        seed: seed of the run, >= 0.
        phase: phase index, >= 0.
        stage: index of the training stage within the phase, >= 0.
        epoch: epoch within the stage, >= 0.

    Returns:
        int64[n], a permutation of 0..n-1.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(phase, stage, epoch))
    return np.random.Generator(np.random.Philox(sequence)).permutation(n)


def epoch_seed(*, seed: int, phase: int, stage: int, epoch: int) -> int:
    """Seed of an epoch's random crops on the host, 0..2**64-1.

    Same arguments as `epoch_order`, but an independent random stream.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(phase, stage, epoch, 1))
    return int(sequence.generate_state(1, np.uint64)[0])


def num_batches(n: int, batch_size: int) -> int:
    """Number of batches of n examples, the last one possibly padded."""
    return -(-n // batch_size)


def by_step(columns: dict[str, np.ndarray]) -> Iterator[Batch]:
    """The rows [b] of columns [steps, b], step by step."""
    names, arrays = list(columns), list(columns.values())
    for rows in zip(*arrays, strict=True):
        yield dict(zip(names, rows, strict=True))


class BatchFeed:
    """Batches of one set of examples, epoch after epoch.

    The set is n real images at positions 0..n-1, followed by e stored exemplars
    at positions n..n+e-1. The pixels of exemplars are on the device, so batches
    have zeros in their place, with the right label and position.
    """

    def __init__(
        self,
        read_batches: BatchReader,
        labels: np.ndarray,
        batch_size: int,
        *,
        num_images: int,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Stores the settings of all epochs.

        Args:
            read_batches: reader of the images.
            labels: int32[n + e].
            batch_size: examples of all shards together.
            num_images: n.
            shard: (i, c), the i-th of c contiguous slices of every batch,
                b = batch_size / c examples; one shard per process.

        Raises:
            ValueError: the batch size is not a multiple of c.
        """
        index, count = shard
        if batch_size % count:
            raise ValueError(
                f'batch_size={batch_size}: must be a multiple of {count}, '
                'the number of processes'
            )
        self._read_batches = read_batches
        self._labels = labels.astype(np.int32)
        self._batch_size = batch_size
        size = batch_size // count
        self._slice = slice(index * size, (index + 1) * size)
        self._num_images = num_images

    def epoch(
        self, order: np.ndarray, *, start_step: int = 0, seed: int = 0
    ) -> Iterator[Batch]:
        """Yields the batches of an epoch.

        Args:
            order: int[k], positions in 0..n+e-1; any subset in any order.
            start_step: batches to skip at the start, >= 0; costs nothing.
            seed: seed of random crops made on the host, see `epoch_seed`; a
                crop depends on it and the position alone.

        Returns:
            Iterator over {'image': uint8[b,H,W,C], 'label': int32[b],
            'index': int32[b] (position), 'weight': float32[b]}, read-only
            arrays; batches of `on_device` have 'pool' and 'row' instead of
            'image', see `device_batch`. Padding of the last batch is 0 in all
            columns, including the weight; all other weights are 1.

        Raises:
            ValueError: a position is out of range.
        """
        order = np.asarray(order, np.int64)
        num_positions = len(self._labels)
        if order.size and not 0 <= order.min() <= order.max() < num_positions:
            raise ValueError(
                f'order={order.min()}..{order.max()}: positions must be in '
                f'0..{num_positions - 1}'
            )
        return self._read_batches(self._columns(order, start_step), seed)

    def _columns(
        self, order: np.ndarray, start_step: int
    ) -> dict[str, np.ndarray]:
        """The columns of this shard's batches, [steps, b]."""
        steps = num_batches(len(order), self._batch_size)
        flat = np.full(steps * self._batch_size, -1, np.int64)
        flat[: len(order)] = order
        padded = flat.reshape(steps, self._batch_size)
        padded = padded[start_step:, self._slice]
        real = padded >= 0
        labels = np.append(self._labels, np.int32(0))
        columns = {
            'row': np.where(padded < self._num_images, padded, -1),
            'label': labels[padded],  # Padding, -1, reads the appended zero.
            'index': np.where(real, padded, 0).astype(np.int32),
            'weight': real.astype(np.float32),
        }
        for column in columns.values():
            column.setflags(write=False)
        return columns
