"""Choosing, learning and adjusting the exemplars of a phase.

Strategies: `random` and `herding` keep real images; `mnemonics` starts from
one of the two and learns the pixels (`learner` has the steps, this file the
loops); `none` keeps nothing.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from mnemonics_jax import memory, parallel
from mnemonics_jax.bilevel import ExemplarState
from mnemonics_jax.inner import Exemplars
from mnemonics_jax.learner import Learner
from mnemonics_jax.progress import Stage
from mnemonics_jax.prototypes import herding
from mnemonics_jax.types import ExemplarSet, Phase, Variables

SELECTIONS = ('random', 'herding')
STRATEGIES = (*SELECTIONS, 'mnemonics', 'none')
DECAY_PARTS = 5

Batches = Iterator[dict[str, np.ndarray]]


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


@functools.partial(jax.jit, static_argnames='num')
def rank_by_herding(
    features: jax.Array, mask: jax.Array, num: int
) -> jax.Array:
    """`prototypes.herding` of c classes: [c, n, D], [c, n] -> int32[c, num]."""
    return jax.vmap(lambda f, m: herding(f, m, num))(features, mask)


def select(
    rule: str,
    labels: np.ndarray,
    features: np.ndarray | None,
    *,
    classes: tuple[int, int],
    num: int,
    max_class_size: int,
    seed: tuple[int, ...],
) -> np.ndarray:
    """Ranks the examples of each new class; the best `num` of each are kept.

    Args:
        rule: 'random' or 'herding'.
        labels: int32[n], of the phase's examples.
        features: f32[n, D], of the current model; read by 'herding' alone.
        classes: low and high of the new classes.
        num: exemplars a class.
        max_class_size: most examples of any class of the data, so that shapes
            do not depend on the phase.
        seed: of the random choice.

    Returns:
        int32[c, num], positions of examples, best first; -1 where a class has
        fewer examples.
    """
    members = [np.flatnonzero(labels == k) for k in range(*classes)]
    if rule == 'random':
        generator = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(seed))
        )
        ranks = [generator.permutation(len(m))[:num] for m in members]
    else:
        shape = (len(members), max_class_size)
        padded = np.zeros((*shape, features.shape[1]), np.float32)
        mask = np.zeros(shape, bool)
        for row, member in enumerate(members):
            padded[row, : len(member)] = features[member]
            mask[row, : len(member)] = True
        ranks = np.asarray(rank_by_herding(padded, mask, num))
    chosen = np.full((len(members), num), -1, np.int32)
    for row, (member, rank) in enumerate(zip(members, ranks, strict=True)):
        rank = rank[rank >= 0]
        chosen[row, : len(rank)] = member[rank]
    return chosen


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


def learn(
    setting: Setting,
    images: np.ndarray,
    exemplars: Exemplars,
    batches: Batches,
    stage: Stage,
) -> Learned:
    """Learns the pixels of the new classes' exemplars.

    Args:
        setting: where.
        images: f32[c, s, H, W, C] in [0, 1], what learning starts from.
        exemplars: the flat list of the same images.
        batches: real images of the new classes, `setting.num_steps` of them.
        stage: where progress is shown.
    """
    start = flatten(images)
    state = setting.learner.init(parallel.replicate(setting.placement, start))
    every = max(1, setting.num_steps // 20)
    batches = itertools.islice(batches, setting.num_steps)
    pairs = parallel.shard_batches(setting.placement, batches)
    for step, (host, batch) in enumerate(pairs):
        state, metrics = setting.learner.learn(
            state,
            exemplars,
            setting.variables,
            setting.phase,
            batch,
            scale_of(step, setting.num_steps),
            setting.key,
        )
        stage.step(metrics, len(host['label']))
        if (step + 1) % every == 0 or step + 1 == setting.num_steps:
            stage.flush(step=step)
    return finish(state, start, exemplars.mask, images.shape)


def adjust(
    setting: Setting, exemplars: ExemplarSet, num_old: int, stage: Stage
) -> tuple[ExemplarSet, float]:
    """Adjusts the old classes' exemplars, half by half (the paper, Eq. 10).

    Each outer step updates A by the loss on B of the model trained on A, then B
    by the loss on the new A of the model trained on B.

    Args:
        setting: where.
        exemplars: the memory.
        num_old: classes whose exemplars are adjusted.
        stage: where progress is shown.

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
    keys = jax.random.split(setting.key)
    every = max(1, setting.num_steps // 20)
    for step in range(setting.num_steps):
        scale = scale_of(step, setting.num_steps)
        for this, other in ((0, 1), (1, 0)):
            states[this], metrics = setting.learner.adjust(
                states[this],
                lists[this],
                setting.variables,
                setting.phase,
                states[other].pixels,
                lists[other],
                scale,
                keys[this],
            )
            stage.step(metrics, int(parts[other].mask.shape[0]))
        if (step + 1) % every == 0 or step + 1 == setting.num_steps:
            stage.flush(step=step)
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
