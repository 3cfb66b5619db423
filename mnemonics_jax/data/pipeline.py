"""Batches by tf.data, in an order that is computed and never stored.

The order of an epoch is a function of (seed, phase, stage, epoch), so a run
resumes in the middle of an epoch with no iterator state.
"""

import contextlib
import functools
import os
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

_PREFETCH = 2


@functools.cache
def tensorflow() -> types.ModuleType:
    """Imports TensorFlow, quiet and unable to see GPUs or TPUs.

    JAX owns the accelerators; TensorFlow would reserve their memory.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    # Numerics of kernels that reading data does not use; logs when on.
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    import tensorflow as tf

    tf.get_logger().setLevel('ERROR')
    for kind in ('GPU', 'TPU'):
        # Refused if the user's program has used TensorFlow before: then the
        # devices are its choice.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


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


def num_batches(n: int, batch_size: int) -> int:
    """Batches that n examples make, the last one possibly padded."""
    return -(-n // batch_size)


class Feed:
    """Batches of one set of examples, epoch after epoch.

    The set is n images in memory, at the positions 0..n-1, followed by e
    stored exemplars at the positions n..n+e-1. The pixels of the exemplars
    live on the device, so batches carry zeros in their place, with the right
    label and position.

    An epoch costs milliseconds to start: TensorFlow traces nothing anew.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Copies the images into TensorFlow's memory; they go with the Feed.

        Args:
            images: uint8[n,H,W,C].
            labels: int32[n + e].
            batch_size: of all shards together.
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
        self._labels = labels.astype(np.int32)
        self._batch_size = batch_size
        size = batch_size // count
        self._slice = slice(index * size, (index + 1) * size)
        self._num_images = len(images)
        # One zero image at the end stands for padding and for exemplars.
        blank = np.zeros((1, *images.shape[1:]), np.uint8)
        self._images = tensorflow().convert_to_tensor(
            np.concatenate([images, blank])
        )

    def epoch(
        self, order: np.ndarray, *, start_step: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Delivers the batches of an epoch.

        Args:
            order: int[k], positions in 0..n+e-1; any subset in any order.
            start_step: batches to leave out at the start, >= 0; costs nothing.

        Returns:
            Iterator over {'image': uint8[b,H,W,C], 'label': int32[b],
            'index': int32[b] (position), 'weight': float32[b]}, read-only
            arrays. The last batch is padded with weight 0 and zeros in
            everything else; all other weights are 1.

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
        columns = self._columns(order, start_step)
        return _build_epoch()(self._images, columns).as_numpy_iterator()

    def _columns(
        self, order: np.ndarray, start_step: int
    ) -> dict[str, np.ndarray]:
        """All of this shard's batches [steps, b], 'image' being row numbers."""
        steps = num_batches(len(order), self._batch_size)
        padded = np.full(steps * self._batch_size, -1, np.int64)
        padded[: len(order)] = order
        padded = padded.reshape(steps, self._batch_size)
        padded = padded[start_step:, self._slice]
        real = padded >= 0
        index = np.where(real, padded, 0).astype(np.int32)
        in_memory = real & (padded < self._num_images)
        labels = np.append(self._labels, np.int32(0))
        return {
            'image': np.where(in_memory, padded, self._num_images),
            'label': labels[padded],  # -1, padding, is the zero just appended.
            'index': index,
            'weight': real.astype(np.float32),
        }


@functools.cache
def _build_epoch() -> Any:
    """A traced function (images, columns) -> tf.data.Dataset of an epoch.

    Building a dataset eagerly traces its map function, tens of milliseconds
    each epoch. Traced as a whole, it serves all epochs and phases; and the
    images are its argument, not its constant, so nothing outlives the Feed.
    """
    tf = tensorflow()
    options = tf.data.Options()
    # Gathering takes well under a millisecond: one thread keeps up and leaves
    # the cores to the model. The optimiser of graphs would cost more time at
    # each start than it could win, having nothing to fuse.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.private_threadpool_size = 1

    def build(images: Any, columns: dict[str, Any]) -> Any:
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        dataset = dataset.map(
            lambda row: {**row, 'image': tf.gather(images, row['image'])}
        )
        return dataset.prefetch(_PREFETCH).with_options(options)

    dtypes = {
        'image': tf.int64,
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
