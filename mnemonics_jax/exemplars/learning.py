"""Learning and adjusting the exemplars of a phase: the loops of outer steps."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import Dispatch, Loop, State, in_groups
from mnemonics_jax.exemplars import memory
from mnemonics_jax.exemplars.inner_problem import ExemplarProblem, FlatExemplars
from mnemonics_jax.exemplars.steps import Learner
from mnemonics_jax.types import ExemplarSet, Phase, Variables

# `(loop, state to begin with) -> state after it`, see `train.loop`.
Run = Callable[[Loop, State], State]

# One program each instead of twenty small ones.
halves = jax.jit(memory.halves, static_argnames='dtype')


@jax.jit
def merged(
    held: ExemplarSet, parts: tuple[ExemplarSet, ExemplarSet], pixels: jax.Array
) -> ExemplarSet:
    """The memory with the pixels [2, K * s, H, W, C] of both halves."""
    learned = [
        part.replace(images=own.reshape(part.images.shape))
        for part, own in zip(parts, pixels, strict=True)
    ]
    return memory.merge_halves(held, *learned)


def flat_exemplars(mask: np.ndarray, classes: tuple[int, int]) -> FlatExemplars:
    """The flat list of rows of exemplars.

    Args:
        mask: bool[c, s]; the first row is class low, the next low + 1, ...;
            false in rows after class high - 1, which are padding.
        classes: low and high of the classes that have exemplars.
    """
    low, high = classes
    rows = np.minimum(low + np.arange(mask.shape[0]), high - 1)
    labels = np.repeat(rows.astype(np.int32), mask.shape[1])
    return FlatExemplars(labels, mask.reshape(-1), np.int32(classes))


def record_marks(num_steps: int) -> Callable[[int], dict[str, int] | None]:
    """Where a loop of outer steps is recorded: twenty times, at the end too."""
    every = max(1, num_steps // 20)

    def mark(step: int) -> dict[str, int] | None:
        due = (step + 1) % every == 0 or step + 1 == num_steps
        return {'step': step} if due else None

    return mark


def learn(
    learner: Learner,
    problem: ExemplarProblem,
    images: np.ndarray,
    dispatches: Callable[[int], Iterator[Dispatch]],
    run: Run,
) -> jax.Array:
    """Learns the pixels of the new classes' exemplars (the paper, Eq. 8, 9).

    Args:
        learner: jitted functions.
        problem: problem, on the devices, without a query.
        images: f32[c, s, H, W, C] in [0, 1], what learning starts from.
        dispatches: `(step) -> dispatches` of query images from that step on;
            inputs are `multistep.StackedBatches`.
        run: runs the loop.

    Returns:
        f32[c, s, H, W, C] in [0, 1].
    """
    total = int(problem.num_steps)

    def step(number, state, dispatch):
        inputs = problem._replace(query=dispatch.inputs)
        return learner.learn(state, inputs, dispatch.num_steps)

    state = learner.init(parallel.share(learner.placement, flatten(images)))
    loop = Loop('learn', total, dispatches, step, record_marks(total))
    pixels = parallel.unshare(learner.placement, run(loop, state).pixels)
    return pixels.reshape(images.shape)


def adjust(
    learner: Learner,
    problem: ExemplarProblem,
    held: ExemplarSet,
    run: Run,
    *,
    per_dispatch: int,
) -> ExemplarSet:
    """Adjusts the old classes' exemplars, half by half (the paper, Eq. 10).

    Each outer step updates A by the loss on B of the model trained on A, then B
    by the loss on the new A of the model trained on B.

    Args:
        learner: jitted functions.
        problem: problem, on the devices. `exemplars` and `key` are replaced by
            those of the halves.
        held: memory; the exemplars of the phase's old classes are adjusted.
        run: runs the loop; each of its steps updates one half.
        per_dispatch: steps in a dispatch, >= 1.

    Returns:
        The memory with adjusted pixels, as they are stored.
    """
    num_old = int(problem.phase.num_old)
    parts = halves(held, np.int32(num_old), problem.variables.dtype)
    lists = [flat_exemplars(np.asarray(p.mask), (0, num_old)) for p in parts]
    stacked = jax.tree.map(lambda *both: np.stack(both), *lists)
    problem = problem._replace(
        exemplars=parallel.replicate(learner.placement, stacked),
        key=parallel.replicate_key(
            learner.placement, jax.random.split(problem.key)
        ),
    )
    starts = np.stack([np.asarray(flatten(part.images)) for part in parts])
    states = learner.init(parallel.share(learner.placement, starts, axis=1))
    states = run(adjust_loop(learner, problem, per_dispatch), states)
    learned = parallel.unshare(learner.placement, states.pixels)
    return merged(held, parts, learned)


def adjust_loop(
    learner: Learner, problem: ExemplarProblem, per_dispatch: int
) -> Loop:
    """The loop of `adjust` over the states of both halves, stacked."""
    num_steps = int(problem.num_steps)
    mark = record_marks(num_steps)
    num_images = problem.exemplars.mask.shape[1]

    def dispatches(first: int) -> Iterator[Dispatch]:
        for group in in_groups(range(first, 2 * num_steps), per_dispatch):
            yield Dispatch(len(group), len(group) * num_images, problem)

    def step(number, states, dispatch):
        return learner.adjust(states, dispatch.inputs, dispatch.num_steps)

    def mark_pairs(number: int) -> dict[str, int] | None:
        return mark(number // 2) if number % 2 else None

    return Loop('adjust', 2 * num_steps, dispatches, step, mark_pairs)


def train_on_exemplars(
    learner: Learner, problem: ExemplarProblem, images: jax.Array | np.ndarray
) -> Variables:
    """The model that the inner steps train on exemplars (the paper, Eq. 8).

    Args:
        learner: jitted functions.
        problem: problem of these exemplars; its key draws the start.
        images: f32[c, s, H, W, C] in [0, 1].
    """
    pixels = parallel.share(learner.placement, np.asarray(flatten(images)))
    return learner.adapt(problem, pixels)


def held_out_loss(
    learner: Learner,
    variables: Variables,
    phase: Phase,
    batches: Iterator[dict[str, np.ndarray]],
) -> float:
    """Loss of a model on real data that no exemplar was learned from.

    For a model trained on the exemplars, this loss says whether learning has
    helped. Drift does not: Adam also moves pixels along useless gradients.

    Args:
        learner: jitted functions.
        variables: model.
        phase: phase, which says the classes in the softmax.
        batches: batches of the data, each example once.

    Returns:
        Mean cross entropy in nats over the classes seen.
    """
    sums = np.zeros(2)
    for _, batch in parallel.shard_batches(learner.placement, batches):
        sums += np.asarray(learner.batch_loss(variables, batch, phase))
    return float(sums[0] / sums[1])


def flatten(images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """[c, s, H, W, C] -> [c * s, H, W, C]."""
    return images.reshape(-1, *images.shape[2:])
