"""Epochs of batches, in an order that is computed and never stored.

The order of an epoch is a function of (seed, phase, stage, epoch), so a run
resumes in the middle of an epoch with no iterator state. A `BatchFeed` chooses
the examples of each batch; a `BatchReader` reads their images: `in_memory` and
`streaming` by tf.data, `on_device` from images already on the device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Batch = dict[str, Any]
# `(columns, seed) -> batches`. Columns are arrays [steps, b] of one epoch:
# 'row' int64 (which image, -1 for a blank one), 'label', 'index', 'weight' as
# in a batch. A seed is that of the epoch, 0..2**64-1, for random crops.
BatchReader = Callable[[dict[str, np.ndarray], int], Iterator[Batch]]


def epoch_order(
    n: int, *, seed: int, phase: int, stage: int, epoch: int
) -> np.ndarray:
    """Computes the order of an epoch from these numbers alone.

    Args:
        n: number of examples.
        seed: of the run, >= 0.
        phase: >= 0.
        stage: number of the training stage within the phase, >= 0.
        epoch: within the stage, >= 0.

    Returns:
        int64[n], a permutation of 0..n-1.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(phase, stage, epoch))
    return np.random.Generator(np.random.Philox(sequence)).permutation(n)


def epoch_seed(*, seed: int, phase: int, stage: int, epoch: int) -> int:
    """A seed for an epoch's random crops on the host, 0..2**64-1.

    The arguments are those of `epoch_order`, whose stream this one is not.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(phase, stage, epoch, 1))
    return int(sequence.generate_state(1, np.uint64)[0])


def num_batches(n: int, batch_size: int) -> int:
    """Batches that n examples make, the last one possibly padded."""
    return -(-n // batch_size)


class BatchFeed:
    """Batches of one set of examples, epoch after epoch.

    The set is n real images, at the positions 0..n-1, followed by e stored
    exemplars at the positions n..n+e-1. The pixels of the exemplars live on the
    device, so batches carry zeros in their place, with the right label and
    position.
    """

    def __init__(
        self,
        deliver: BatchReader,
        labels: np.ndarray,
        batch_size: int,
        *,
        num_images: int,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Keeps what every epoch needs.

        Args:
            deliver: brings the images.
            labels: int32[n + e].
            batch_size: of all shards together.
            num_images: n.
            shard: (i, c), deliver the i-th of c contiguous slices of every
                batch, b = batch_size / c examples: one shard a process.

        Raises:
            ValueError: c does not divide the batch size.
        """
        index, count = shard
        if batch_size % count:
            raise ValueError(
                f'batch_size={batch_size}: must be a multiple of {count}, '
                'the number of processes that share a batch'
            )
        self._deliver = deliver
        self._labels = labels.astype(np.int32)
        self._batch_size = batch_size
        size = batch_size // count
        self._slice = slice(index * size, (index + 1) * size)
        self._num_images = num_images

    def epoch(
        self, order: np.ndarray, *, start_step: int = 0, seed: int = 0
    ) -> Iterator[Batch]:
        """Delivers the batches of an epoch.

        Args:
            order: int[k], positions in 0..n+e-1; any subset in any order.
            start_step: batches to leave out at the start, >= 0; costs nothing.
            seed: of the random crops of a feed that makes them on the host,
                see `epoch_seed`; a crop depends on it and the position alone.

        Returns:
            Iterator over {'image': uint8[b,H,W,C], 'label': int32[b],
            'index': int32[b] (position), 'weight': float32[b]}, read-only
            arrays; a resident feed has 'pool' and 'row' for 'image', see
            `device_batch`. The last batch is padded with weight 0 and
            zeros in everything else; all other weights are 1.

        Raises:
            ValueError: the order names a position that does not exist.
        """
        order = np.asarray(order, np.int64)
        num_positions = len(self._labels)
        if order.size and not 0 <= order.min() <= order.max() < num_positions:
            raise ValueError(
                f'order={order.min()}..{order.max()}: positions must be in '
                f'0..{num_positions - 1}'
            )
        return self._deliver(self._columns(order, start_step), seed)

    def _columns(
        self, order: np.ndarray, start_step: int
    ) -> dict[str, np.ndarray]:
        """All of this shard's batches, [steps, b]."""
        steps = num_batches(len(order), self._batch_size)
        flat = np.full(steps * self._batch_size, -1, np.int64)
        flat[: len(order)] = order
        padded = flat.reshape(steps, self._batch_size)
        padded = padded[start_step:, self._slice]
        real = padded >= 0
        labels = np.append(self._labels, np.int32(0))
        return {
            'row': np.where(padded < self._num_images, padded, -1),
            'label': labels[padded],  # -1, padding, is the zero just appended.
            'index': np.where(real, padded, 0).astype(np.int32),
            'weight': real.astype(np.float32),
        }
