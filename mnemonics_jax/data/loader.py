"""The examples of a phase, and how they reach the model.

Three ways, by `data.feed` and by size:
    in memory: read once for the phase, put into batches by tf.data.
    streamed: decoded in every pass by tf.data, where they are larger than
        `data.memory_mb`, and for random crops of originals.
    resident: put on the device once for the phase, without TensorFlow.
The batches of the first and the last are the same bit for bit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mnemonics_jax.data import in_memory, on_device, streaming
from mnemonics_jax.data.batches import BatchFeed, BatchReader, num_batches
from mnemonics_jax.data.sources import Encoded, Source, phase_positions


class PhaseExamples(NamedTuple):
    """Examples of some classes of a split.

    Attributes:
        labels: int32[n], positions in the class order.
        read: `(rows int64[k]) -> uint8[k,H,W,C]`, images as evaluation sees
            them.
        deliver: `(augmented: bool) -> Deliver` of rows 0..n-1; with `augmented`
            random crops, where those are made on the host.
        most: the largest n of a phase like this one.
        shard: (i, c), which slice of batches is this process'.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    deliver: Callable[[bool], BatchReader]
    most: int
    shard: tuple[int, int] = (0, 1)

    def capacity(self, batch_size: int, num_exemplars: int = 0) -> int:
        """Batches of an epoch of the largest phase like this one.

        Args:
            batch_size: of all processes together.
            num_exemplars: so many at most are fed with these.
        """
        return num_batches(self.most + num_exemplars, batch_size)

    def feed(
        self,
        batch_size: int,
        *,
        exemplar_labels: np.ndarray | None = None,
        augmented: bool = False,
    ) -> BatchFeed:
        """A feed of these, and of stored exemplars after them.

        Args:
            batch_size: of all processes together.
            exemplar_labels: int32[e], if there are any.
            augmented: see `deliver`.
        """
        labels = self.labels
        if exemplar_labels is not None:
            labels = np.concatenate([labels, exemplar_labels])
        return BatchFeed(
            self.deliver(augmented),
            labels,
            batch_size,
            num_images=len(self.labels),
            shard=self.shard,
        )


class Settings(NamedTuple):
    """How examples are fed.

    Attributes:
        feed: 'tfdata' or 'device'.
        memory: bytes; a larger set of images is streamed, if it can be.
        view: of streamed images.
        budget: of streaming.
        crops: whether training sees random crops of originals, which streams.
        shard: (i, c), which slice of batches is this process'.
        put: array -> the same on all devices.
    """

    feed: str
    memory: int
    view: streaming.EvalView
    budget: streaming.PrefetchBudget | None
    crops: bool
    shard: tuple[int, int]
    put: on_device.Put


class Loader(NamedTuple):
    """Finds the examples of classes.

    Attributes:
        source: of the images.
        order: int64[K], original label of the class at each position.
        bounds: (num_old, num_seen) of each phase.
        settings: how they are fed.
    """

    source: Source
    order: np.ndarray
    bounds: Sequence[tuple[int, int]]
    settings: Settings

    def examples(self, split: str, low: int, high: int) -> PhaseExamples:
        """The examples of the classes low..high-1 of the class order.

        Args:
            split: 'train' or 'test'.
            low: first class, 0..high.
            high: the class after the last, low..K.
        """
        positions, labels = phase_positions(
            self.source, split, self.order, low, high
        )

        def read(rows: np.ndarray) -> np.ndarray:
            return self.source.read(split, positions[rows])

        kept = self._kept(read, labels, self.most(split, low, high))
        encoded, budget = self.source.encoded, self.settings.budget
        if self.settings.feed == 'device' or not (encoded and budget):
            return kept
        decoded = (encoded, budget)
        return self._by_tfdata(decoded, split, kept, read, positions)

    def no_examples(self) -> PhaseExamples:
        """None; a feed of these consists of exemplars."""
        nothing = np.zeros((0, *self.source.image_shape), np.uint8)
        labels = np.zeros(0, np.int32)

        def read(rows: np.ndarray) -> np.ndarray:
            return nothing[rows]

        return self._kept(read, labels, 0)

    def most(self, split: str, low: int, high: int) -> int:
        """Examples of the classes low..high-1 or of any phase like theirs.

        Phases after the first share one number, and thereby compilations.
        """
        labels = self.source.labels[split]
        sizes = np.bincount(labels, minlength=self.source.num_classes)
        ends = np.append(0, np.cumsum(sizes[self.order]))
        if low == 0 and high > self.bounds[0][1]:
            return int(ends[-1])
        alike = [(low, high)] if low == 0 else self.bounds[1:]
        return int(max(ends[b] - ends[a] for a, b in [*alike, (low, high)]))

    def _kept(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        labels: np.ndarray,
        most: int,
    ) -> PhaseExamples:
        """Read once, when first needed, into memory or onto the device."""
        settings = self.settings

        @functools.cache
        def images() -> np.ndarray:
            return read(np.arange(len(labels)))

        @functools.cache
        def deliver() -> BatchReader:
            if settings.feed == 'device':
                return on_device.from_device(images(), most, settings.put)
            return in_memory.from_memory(images())

        return PhaseExamples(
            labels,
            lambda rows: images()[rows],
            lambda augmented: deliver(),
            most,
            settings.shard,
        )

    def _by_tfdata(
        self,
        decoded: tuple[Encoded, streaming.PrefetchBudget],
        split: str,
        kept: PhaseExamples,
        read: Callable[[np.ndarray], np.ndarray],
        positions: np.ndarray,
    ) -> PhaseExamples:
        """Kept in memory if they fit, or else streamed."""
        (encoded, budget), settings = decoded, self.settings
        size = len(kept.labels) * int(np.prod(self.source.image_shape))
        fits = size <= settings.memory
        originals = streaming.EncodedImages(
            lambda row: encoded.load(split, int(positions[row])),
            lambda row: encoded.describe(split, int(positions[row])),
        )

        def deliver(augmented: bool) -> BatchReader:
            cropped = augmented and settings.crops
            if fits and not cropped:
                return kept.deliver(augmented)
            return streaming.from_encoded(
                originals, settings.view, budget, augmented=cropped
            )

        return kept._replace(read=kept.read if fits else read, deliver=deliver)
