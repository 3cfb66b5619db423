"""The examples of a phase and their batches.

The reader of the images depends on `data.feed` and their size:
    in memory: read once per phase, batched by tf.data.
    streamed: decoded in every epoch by tf.data, if they are larger than
        `data.memory_mb`, and for random crops of original images.
    on device: put on the device once per phase, without TensorFlow.
The first and the last give bitwise equal batches.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mnemonics_jax.data import in_memory, on_device, streaming
from mnemonics_jax.data.batches import BatchFeed, BatchReader, num_batches
from mnemonics_jax.data.sources import Source, phase_positions

Read = Callable[[np.ndarray], np.ndarray]


class PhaseExamples(NamedTuple):
    """Examples of some classes of a split.

    Attributes:
        labels: int32[n], positions in the class order.
        read: `(rows int64[k]) -> uint8[k,H,W,C]`, images without augmentation.
        make_reader: `(augmented: bool) -> BatchReader` of rows 0..n-1;
            `augmented` gives random crops if these are made on the host.
        max_images: largest n among phases that share compilations.
        shard: (i, c), this process' slice of batches, see `BatchFeed`.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    make_reader: Callable[[bool], BatchReader]
    max_images: int
    shard: tuple[int, int] = (0, 1)

    def capacity(self, batch_size: int, num_exemplars: int = 0) -> int:
        """Number of batches in an epoch of `max_images` and the exemplars.

        Args:
            batch_size: examples of all processes together.
            num_exemplars: largest number of exemplars in an epoch.
        """
        return num_batches(self.max_images + num_exemplars, batch_size)

    def feed(
        self,
        batch_size: int,
        *,
        exemplar_labels: np.ndarray | None = None,
        augmented: bool = False,
    ) -> BatchFeed:
        """A feed of these examples, followed by stored exemplars.

        Args:
            batch_size: examples of all processes together.
            exemplar_labels: int32[e], labels of the exemplars, if any.
            augmented: see `make_reader`.
        """
        labels = self.labels
        if exemplar_labels is not None:
            labels = np.concatenate([labels, exemplar_labels])
        return BatchFeed(
            self.make_reader(augmented),
            labels,
            batch_size,
            num_images=len(self.labels),
            shard=self.shard,
        )


class Settings(NamedTuple):
    """Settings of a `Loader`.

    Attributes:
        feed: 'tfdata' or 'device'.
        memory: bytes; a larger set of images is streamed, if it can be.
        view: view of streamed images.
        budget: prefetch budget of streaming, None to never stream.
        crops: whether training streams random crops of original images.
        shard: (i, c), this process' slice of batches, see `BatchFeed`.
        put: copies an array to all devices.
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
        source: source of the images.
        order: int64[K], original label of the class at each position.
        bounds: (num_old, num_seen) of each phase.
        settings: settings of the batches.
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
            high: one past the last class, low..K.
        """
        positions, labels = phase_positions(
            self.source, split, self.order, low, high
        )

        def read(rows: np.ndarray) -> np.ndarray:
            return self.source.read(split, positions[rows])

        cached = self._cached(read, labels, self.max_images(split, low, high))
        encoded, budget = self.source.encoded, self.settings.budget
        if self.settings.feed == 'device' or not (encoded and budget):
            return cached
        originals = streaming.EncodedImages(
            lambda row: encoded.load(split, int(positions[row])),
            lambda row: encoded.describe(split, int(positions[row])),
        )
        return self._streamed(originals, budget, cached, read)

    def no_examples(self) -> PhaseExamples:
        """An empty set of examples, for feeds of exemplars alone."""
        empty = np.zeros((0, *self.source.image_shape), np.uint8)
        labels = np.zeros(0, np.int32)
        return self._cached(lambda rows: empty[rows], labels, 0)

    def max_images(self, split: str, low: int, high: int) -> int:
        """Largest number of examples among the phases like classes low..high-1.

        Phases after the first share one number, and so the compiled steps.
        """
        labels = self.source.labels[split]
        sizes = np.bincount(labels, minlength=self.source.num_classes)
        ends = np.append(0, np.cumsum(sizes[self.order]))
        if low == 0 and high > self.bounds[0][1]:
            return int(ends[-1])
        alike = [(low, high)] if low == 0 else self.bounds[1:]
        return int(max(ends[b] - ends[a] for a, b in [*alike, (low, high)]))

    def _cached(
        self, read: Read, labels: np.ndarray, max_images: int
    ) -> PhaseExamples:
        """Examples read once, when first needed, to memory or the device."""
        settings = self.settings

        @functools.cache
        def images() -> np.ndarray:
            return read(np.arange(len(labels)))

        @functools.cache
        def reader() -> BatchReader:
            if settings.feed == 'device':
                return on_device.from_device(images(), max_images, settings.put)
            return in_memory.from_memory(images())

        return PhaseExamples(
            labels,
            lambda rows: images()[rows],
            lambda augmented: reader(),
            max_images,
            settings.shard,
        )

    def _streamed(
        self,
        originals: streaming.EncodedImages,
        budget: streaming.PrefetchBudget,
        cached: PhaseExamples,
        read: Read,
    ) -> PhaseExamples:
        """Streams random crops, and all images if they do not fit in memory."""
        settings = self.settings
        size = len(cached.labels) * int(np.prod(self.source.image_shape))
        fits = size <= settings.memory

        def make_reader(augmented: bool) -> BatchReader:
            cropped = augmented and settings.crops
            if fits and not cropped:
                return cached.make_reader(augmented)
            return streaming.from_encoded(
                originals, settings.view, budget, augmented=cropped
            )

        return cached._replace(
            read=cached.read if fits else read, make_reader=make_reader
        )
