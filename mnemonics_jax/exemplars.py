"""Learning and adjusting the exemplars of a phase.

Strategies: `random` and `herding` keep real images; `mnemonics` starts from
one of the two and learns the pixels (`learner` has the steps, this file the
loops); `none` keeps nothing.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax import memory, parallel
from mnemonics_jax.bilevel import ExemplarState
from mnemonics_jax.inner import Exemplars
from mnemonics_jax.journal import Loop, State
from mnemonics_jax.learner import Learner
from mnemonics_jax.selection import SELECTIONS
from mnemonics_jax.types import ExemplarSet, Phase, Variables

STRATEGIES = (*SELECTIONS, 'mnemonics', 'none')
DECAY_PARTS = 5

Batches = Iterator[dict[str, np.ndarray]]
# `(loop, state to begin with) -> state after it`, see `journal.Journal`.
Run = Callable[[Loop, State], State]


class Setting(NamedTuple):
    """Where exemplars are learned: what the loops below all need.

    Attributes:
        learner: the jitted functions.
        placement: of arrays.
        variables: the current model.
        phase: which classes are in the softmax.
        num_steps: outer steps.
        key: of the stage.
    """

    learner: Learner
    placement: parallel.Placement
    variables: Variables
    phase: Phase
    num_steps: int
    key: jax.Array


class Learned(NamedTuple):
    """Result of learning.

    Attributes:
        images: f32[c, s, H, W, C] in [0, 1].
        drift: mean |change| of the pixels in grey levels of 0..255.
    """

    images: jax.Array
    drift: float


def scale_of(step: int, num_steps: int) -> np.float32:
    """Decay of the outer rate: halved after each fifth (10 of 50 epochs)."""
    return np.float32(0.5 ** (step * DECAY_PARTS // num_steps))


def as_exemplars(
    setting: Setting, mask: np.ndarray, classes: tuple[int, int], first: int
) -> Exemplars:
    """The flat list of rows of exemplars whose first row is class `first`."""
    labels = first + np.repeat(
        np.arange(mask.shape[0], dtype=np.int32), mask.shape[1]
    )
    exemplars = Exemplars(labels, mask.reshape(-1), np.int32(classes))
    return parallel.replicate(setting.placement, exemplars)


def record_marks(num_steps: int) -> Callable[[int], dict[str, int] | None]:
    """Where a loop of outer steps is recorded: twenty times, at the end too."""
    every = max(1, num_steps // 20)

    def mark(step: int) -> dict[str, int] | None:
        due = (step + 1) % every == 0 or step + 1 == num_steps
        return {'step': step} if due else None

    return mark


def learn(
    setting: Setting,
    images: np.ndarray,
    exemplars: Exemplars,
    batches: Callable[[int], Batches],
    run: Run,
) -> Learned:
    """Learns the pixels of the new classes' exemplars.

    Args:
        setting: where.
        images: f32[c, s, H, W, C] in [0, 1], what learning starts from.
        exemplars: the flat list of the same images.
        batches: `(step) -> real images of the new classes`, a batch for each
            step from that one on, without end.
        run: runs the loop.
    """
    start, total = flatten(images), setting.num_steps

    def placed(first: int) -> Iterator[tuple[int, Any]]:
        some = itertools.islice(batches(first), total - first)
        for host, batch in parallel.shard_batches(setting.placement, some):
            yield len(host['label']), batch

    def step(number, state, batch):
        return setting.learner.learn(
            state,
            exemplars,
            setting.variables,
            setting.phase,
            batch,
            scale_of(number, total),
            setting.key,
        )

    state = setting.learner.init(parallel.replicate(setting.placement, start))
    loop = Loop('learn', total, placed, step, record_marks(total))
    state = run(loop, state)
    return finish(state, start, exemplars.mask, images.shape)


def adjust(
    setting: Setting, exemplars: ExemplarSet, num_old: int, run: Run
) -> tuple[ExemplarSet, float]:
    """Adjusts the old classes' exemplars, half by half (the paper, Eq. 10).

    Each outer step updates A by the loss on B of the model trained on A, then B
    by the loss on the new A of the model trained on B.

    Args:
        setting: where.
        exemplars: the memory.
        num_old: classes whose exemplars are adjusted.
        run: runs the loop; each of its steps updates one half.

    Returns:
        The memory with adjusted pixels, and their drift in grey levels before
        storage rounds them.
    """
    parts = memory.halves(exemplars, np.int32(num_old))
    lists = [
        as_exemplars(setting, np.asarray(part.mask), (0, num_old), 0)
        for part in parts
    ]
    starts = [flatten(part.images) for part in parts]
    states = [
        setting.learner.init(parallel.replicate(setting.placement, start))
        for start in starts
    ]
    states = run(adjust_loop(setting, lists), states)
    learned = [
        finish(state, start, flat_list.mask, part.images.shape)
        for state, start, flat_list, part in zip(
            states, starts, lists, parts, strict=True
        )
    ]
    halves = [
        part.replace(images=half.images)
        for part, half in zip(parts, learned, strict=True)
    ]
    sizes = [int(np.asarray(part.mask).sum()) for part in parts]
    drift = np.average([half.drift for half in learned], weights=sizes)
    return memory.merge_halves(exemplars, *halves), float(drift)


def adjust_loop(setting: Setting, lists: list[Exemplars]) -> Loop:
    """The loop of `adjust` over the states of both halves."""
    total, keys = setting.num_steps, jax.random.split(setting.key)
    mark = record_marks(total)

    def halves(first: int) -> Iterator[tuple[int, int]]:
        for number in range(first, 2 * total):
            this = number % 2
            yield len(lists[1 - this].mask), this

    def step(number, states, this):
        other = 1 - this
        changed, metrics = setting.learner.adjust(
            states[this],
            lists[this],
            setting.variables,
            setting.phase,
            states[other].pixels,
            lists[other],
            scale_of(number // 2, total),
            keys[this],
        )
        both = [changed, states[other]]
        return (both if this == 0 else both[::-1]), metrics

    def mark_pairs(number: int) -> dict[str, int] | None:
        return mark(number // 2) if number % 2 else None

    return Loop('adjust', 2 * total, halves, step, mark_pairs)


def teach(
    setting: Setting, images: jax.Array, exemplars: Exemplars
) -> Variables:
    """The model that the inner problem trains on `images`.

    Args:
        setting: where; its key draws the start.
        images: f32[c, s, H, W, C] in [0, 1].
        exemplars: the flat list of the same images.
    """
    pixels = parallel.replicate(setting.placement, flatten(images))
    return setting.learner.adapt(
        setting.variables, pixels, exemplars, setting.phase, setting.key
    )


def held_out_loss(
    setting: Setting, variables: Variables, batches: Batches
) -> float:
    """Loss of a model on real data that no exemplar was learned from.

    Of the model that exemplars `teach`, this and not drift says whether
    learning did any good: pixels move under Adam whether or not the gradient
    knows where to.

    Args:
        setting: where.
        variables: the model.
        batches: of the data, each example once.

    Returns:
        Mean cross entropy in nats over the classes seen.
    """
    sums = np.zeros(2)
    for _, batch in parallel.shard_batches(setting.placement, batches):
        sums += np.asarray(
            setting.learner.batch_loss(variables, batch, setting.phase)
        )
    return float(sums[0] / sums[1])


def flatten(images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """[c, s, H, W, C] -> [c * s, H, W, C]."""
    return images.reshape(-1, *images.shape[2:])


def finish(
    state: ExemplarState,
    start: jax.Array | np.ndarray,
    mask: jax.Array,
    shape: tuple[int, ...],
) -> Learned:
    """Learned pixels in the shape they came in, and how far they moved."""
    drift = measure_drift(start, state.pixels, mask)
    return Learned(state.pixels.reshape(shape), float(drift))


measure_drift = jax.jit(memory.drift_grey_levels)
