"""A phase as its stages see it: data, order and keys."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from mnemonics_jax import evaluate
from mnemonics_jax.components import Components
from mnemonics_jax.data import pipeline, sources
from mnemonics_jax.progress import Recorder
from mnemonics_jax.randomness import Stage, stage_key
from mnemonics_jax.types import Phase, Variables

Batches = Iterator[dict[str, np.ndarray]]


class Scene(NamedTuple):
    """A phase as its stages see it.

    Attributes:
        parts: the components.
        index: of the phase.
        num_old: classes of earlier phases.
        num_seen: those and this phase's.
        recorder: of progress.
    """

    parts: Components
    index: int
    num_old: int
    num_seen: int
    recorder: Recorder

    @property
    def traced(self) -> Phase:
        """The phase as steps take it."""
        return Phase(*np.int32([self.index, self.num_old, self.num_seen]))

    def key(self, stage: Stage, epoch: int = 0) -> jax.Array:
        """The key of an epoch of a stage, on all devices."""
        seed = self.parts.config.seed
        key = stage_key(seed, self.index, stage, epoch)
        return jax.device_put(key, self.parts.placement.replicated)

    def order(self, stage: Stage, epoch: int, size: int) -> np.ndarray:
        """The order of an epoch of a stage over `size` examples."""
        return pipeline.epoch_order(
            size,
            seed=self.parts.config.seed,
            phase=self.index,
            stage=int(stage),
            epoch=epoch,
        )

    def examples(self, split: str, low: int, high: int) -> sources.Examples:
        """Images of the classes low..high-1."""
        parts = self.parts
        return sources.phase_examples(
            parts.source, split, parts.order, low, high
        )


def in_order(examples: sources.Examples, batch_size: int) -> Batches:
    """Batches of examples as they lie, each once."""
    feed = pipeline.Feed(examples.images, examples.labels, batch_size)
    return feed.epoch(np.arange(len(examples.labels)))


def all_class_means(
    scene: Scene, variables: Variables, data: sources.Examples
) -> np.ndarray:
    """Means f32[K, D] of the unit features of the classes of `data`."""
    parts = scene.parts
    batches = in_order(data, parts.config.evaluate.batch_size)
    features = evaluate.features_of(parts.evaluator, variables, batches)
    # In NumPy: the number of images differs from phase to phase.
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, 1e-6)
    means = np.zeros((parts.source.num_classes, features.shape[1]), np.float32)
    for k in np.unique(data.labels):
        means[k] = unit[data.labels == k].mean(axis=0)
    return means


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        """Starts now."""
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Gives the time since the last lap to `name`."""
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
        self.seconds['total'] = now - self._start
