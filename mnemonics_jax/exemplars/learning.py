"""Learning and adjusting the exemplars of a phase.

Strategies: `random` and `herding` keep real images; `mnemonics` starts from
one of the two and learns the pixels (`learner` has the steps, this file the
loops); `none` keeps nothing.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from mnemonics_jax.bilevel.outer import ExemplarState
from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import Dispatch, Loop, State, in_groups
from mnemonics_jax.exemplars import memory
from mnemonics_jax.exemplars.inner_problem import FlatExemplars
from mnemonics_jax.exemplars.objectives import OldExemplars, Situation
from mnemonics_jax.exemplars.selection import SELECTIONS
from mnemonics_jax.exemplars.steps import AdjustInputs, Learner, LearnInputs
from mnemonics_jax.types import ExemplarSet, Phase, Variables

STRATEGIES = (*SELECTIONS, 'mnemonics', 'none')

# `(loop, state to begin with) -> state after it`, see `loop.ResumableLoops`.
Run = Callable[[Loop, State], State]


class Setting(NamedTuple):
    """Where exemplars are learned: what the loops below all need.

    Attributes:
        learner: the jitted functions.
        placement: of arrays.
        variables: the current model.
        phase: which classes are in the softmax.
        num_steps: outer steps.
        per_dispatch: of them in one dispatch.
        key: of the stage.
        start: the model that inner steps start from; None for the current one.
    """

    learner: Learner
    placement: parallel.Placement
    variables: Variables
    phase: Phase
    num_steps: int
    per_dispatch: int
    key: jax.Array
    start: Variables | None = None


class Learned(NamedTuple):
    """Result of learning.

    Attributes:
        images: f32[c, s, H, W, C] in [0, 1].
        drift: mean |change| of the pixels in grey levels of 0..255.
    """

    images: jax.Array
    drift: float


def as_exemplars(
    setting: Setting, mask: np.ndarray, classes: tuple[int, int], first: int
) -> FlatExemplars:
    """The flat list of rows of exemplars whose first row is class `first`."""
    labels = first + np.repeat(
        np.arange(mask.shape[0], dtype=np.int32), mask.shape[1]
    )
    exemplars = FlatExemplars(labels, mask.reshape(-1), np.int32(classes))
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
    exemplars: FlatExemplars,
    dispatches: Callable[[int], Iterator[Dispatch]],
    run: Run,
    *,
    old: OldExemplars | None = None,
) -> Learned:
    """Learns the pixels of the new classes' exemplars.

    Args:
        setting: where.
        images: f32[c, s, H, W, C] in [0, 1], what learning starts from.
        exemplars: the flat list of the same images.
        dispatches: `(step) -> blocks of real images of the new classes`, from
            that step on.
        run: runs the loop.
        old: the memory of old classes, where these judge, too.
    """
    start, total = flatten(images), setting.num_steps
    inputs = LearnInputs(
        exemplars,
        *_on_devices(setting),
        key=setting.key,
        block=None,
        memory=parallel.replicate(setting.placement, old),
        start=setting.start,
    )

    def step(number, state, dispatch):
        block = dispatch.inputs
        return setting.learner.learn(
            state, inputs._replace(block=block), dispatch.num_steps
        )

    state = setting.learner.init(parallel.replicate(setting.placement, start))
    loop = Loop('learn', total, dispatches, step, record_marks(total))
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
    starts = np.stack([np.asarray(flatten(part.images)) for part in parts])
    states = setting.learner.init(parallel.replicate(setting.placement, starts))
    states = run(adjust_loop(setting, lists), states)
    learned = [
        finish(
            jax.tree.map(lambda x, i=i: x[i], states),
            starts[i],
            lists[i].mask,
            part.images.shape,
        )
        for i, part in enumerate(parts)
    ]
    halves = [
        part.replace(images=half.images)
        for part, half in zip(parts, learned, strict=True)
    ]
    sizes = [int(np.asarray(part.mask).sum()) for part in parts]
    drift = np.average([half.drift for half in learned], weights=sizes)
    return memory.merge_halves(exemplars, *halves), float(drift)


def adjust_loop(setting: Setting, lists: list[FlatExemplars]) -> Loop:
    """The loop of `adjust` over the states of both halves, stacked."""
    total = 2 * setting.num_steps
    mark = record_marks(setting.num_steps)
    stacked = parallel.replicate(
        setting.placement,
        jax.tree.map(lambda *halves: np.stack(halves), *lists),
    )
    keys = parallel.replicate_key(
        setting.placement, jax.random.split(setting.key)
    )
    inputs = AdjustInputs(
        stacked, *_on_devices(setting), keys=keys, start=setting.start
    )
    num_images = len(lists[0].mask)

    def dispatches(first: int) -> Iterator[Dispatch]:
        for group in in_groups(range(first, total), setting.per_dispatch):
            yield Dispatch(len(group), len(group) * num_images, inputs)

    def step(number, states, dispatch):
        return setting.learner.adjust(
            states, dispatch.inputs, dispatch.num_steps
        )

    def mark_pairs(number: int) -> dict[str, int] | None:
        return mark(number // 2) if number % 2 else None

    return Loop('adjust', total, dispatches, step, mark_pairs)


def _on_devices(setting: Setting) -> tuple[Variables, Phase, jax.Array]:
    """What both kinds of learning read of a setting, copied once."""
    numbers = setting.phase, np.int32(setting.num_steps)
    return setting.variables, *parallel.replicate(setting.placement, numbers)


def train_on_exemplars(
    setting: Setting, images: jax.Array, exemplars: FlatExemplars
) -> Variables:
    """The model that the inner problem trains on `images`.

    Args:
        setting: where; its key draws the start.
        images: f32[c, s, H, W, C] in [0, 1].
        exemplars: the flat list of the same images.
    """
    pixels = parallel.replicate(setting.placement, flatten(images))
    situation = Situation(
        setting.variables,
        exemplars,
        setting.phase,
        setting.key,
        start=setting.start,
    )
    return setting.learner.adapt(situation, pixels)


def held_out_loss(
    setting: Setting,
    variables: Variables,
    batches: Iterator[dict[str, np.ndarray]],
) -> float:
    """Loss of a model on real data that no exemplar was learned from.

    For a model trained on the exemplars, this loss says whether learning has
    helped. Drift does not: under Adam pixels move whatever the gradient.

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
