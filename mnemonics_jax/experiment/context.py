"""Context of a phase for its stages: data, random keys and example order."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from mnemonics_jax import prototypes
from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import Loop, State
from mnemonics_jax.core.rng import Stage, stage_key
from mnemonics_jax.data import batches
from mnemonics_jax.data.loader import PhaseExamples
from mnemonics_jax.experiment.components import Components
from mnemonics_jax.train import evaluation
from mnemonics_jax.train.loop import ResumableLoops
from mnemonics_jax.train.metric_writer import DivergedError, Recorder
from mnemonics_jax.types import Phase, Variables

Batches = Iterator[dict[str, np.ndarray]]


class PhaseContext(NamedTuple):
    """Context of a phase for its stages.

    Attributes:
        parts: components of the run.
        index: phase index.
        num_old: number of classes of earlier phases.
        num_seen: `num_old` plus the classes of this phase.
        recorder: recorder of progress and metrics.
        loops: runner of the resumable loops.
    """

    parts: Components
    # Hides tuple.index.
    index: int  # type: ignore[assignment]
    num_old: int
    num_seen: int
    recorder: Recorder
    loops: ResumableLoops

    @property
    def traced(self) -> Phase:
        """The phase as an input of jitted steps."""
        numbers = (self.index, self.num_old, self.num_seen)
        return Phase(*map(np.int32, numbers))

    def key(self, stage: Stage, epoch: int = 0) -> jax.Array:
        """Random key of an epoch of a stage, on all devices."""
        seed = self.parts.config.seed
        key = stage_key(seed, self.index, stage, epoch)
        return parallel.replicate_key(self.parts.placement, key)

    def order(self, stage: Stage, epoch: int, size: int) -> np.ndarray:
        """Order of `size` examples in an epoch of a stage."""
        return batches.epoch_order(size, **self._place(stage, epoch))

    def crop_seed(self, stage: Stage, epoch: int) -> int:
        """Seed of an epoch's random crops on the host."""
        return batches.epoch_seed(**self._place(stage, epoch))

    def _place(self, stage: Stage, epoch: int) -> dict[str, int]:
        return {
            'seed': self.parts.config.seed,
            'phase': self.index,
            'stage': int(stage),
            'epoch': epoch,
        }

    def run(self, loop: Loop, state: State) -> State:
        """Runs the remaining steps of a loop of this phase."""
        return self.loops.run(loop, state, self.recorder)

    def examples(self, split: str, low: int, high: int) -> PhaseExamples:
        """Examples of the classes low..high-1."""
        return self.parts.loader.examples(split, low, high)


def in_order(examples: PhaseExamples, batch_size: int) -> Batches:
    """Batches of all examples, once and in order."""
    order = np.arange(len(examples.labels))
    return examples.feed(batch_size).epoch(order)


def features_of(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> np.ndarray:
    """Features f32[n, D] of examples, in order.

    Raises:
        DivergedError: they are not finite, or too large.
    """
    batch_size = context.parts.config.evaluate.batch_size
    found = evaluation.features_of(
        context.parts.evaluator, variables, in_order(data, batch_size)
    )
    check_features(context, found)
    return found


def check_features(context: PhaseContext, features: np.ndarray) -> None:
    """Raises DivergedError if features are not finite, or too large."""
    if not evaluation.are_sound(features):
        raise DivergedError(
            f'phase {context.index}: features of the trained model are not '
            'finite, or so large that their squares are not'
        )


def all_class_means(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> np.ndarray:
    """Means f32[K, D] of the unit features of the classes of `data`."""
    return prototypes.class_means_on_host(
        features_of(context, variables, data),
        data.labels,
        context.parts.source.num_classes,
    )


class Clock:
    """Measures seconds by stage."""

    def __init__(self) -> None:
        """Starts the clock."""
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Records the time since the last lap as `name`."""
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
        self.seconds['total'] = now - self._start
