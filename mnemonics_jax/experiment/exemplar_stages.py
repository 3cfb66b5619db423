"""The stages of a phase that choose, learn and adjust exemplars."""

import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from mnemonics_jax import exemplars
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.core.multistep import Dispatch
from mnemonics_jax.core.rng import Stage
from mnemonics_jax.data.batches import num_batches
from mnemonics_jax.data.loader import PhaseExamples
from mnemonics_jax.exemplars import memory, selection
from mnemonics_jax.exemplars.inner_problem import FROM_BEFORE
from mnemonics_jax.exemplars.objectives import OldExemplars, needs_memory
from mnemonics_jax.experiment.context import (
    Batches,
    Clock,
    PhaseContext,
    features_of,
    in_order,
)
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Carry, ExemplarSet, Variables

put_rows = jax.jit(memory.put_rows)
shrink = jax.jit(memory.shrink)
to_storage = jax.jit(memory.to_storage, static_argnums=1)


def renew_memory(
    context: PhaseContext,
    carry: Carry,
    models: tuple[Variables, Variables],
    data: PhaseExamples,
    clock: Clock,
) -> tuple[ExemplarSet, ExemplarSet, dict[str, float]]:
    """The memory at the end of a phase.

    Args:
        context: of the phase.
        carry: of the phase before.
        models: before and after the training of this phase.
        data: training images of the new classes.
        clock: of the stages.

    Returns:
        The memory; the rows of the new classes as they were selected, before
        anything was learned, on the host; and what became of the pixels.
    """
    config, (_, variables) = context.parts.config.exemplars, models
    real, mask = choose_exemplars(context, variables, data)
    selected = ExemplarSet(np.asarray(to_storage(real, config.storage)), mask)
    clock.lap('select')
    report = {'drift_grey_levels': 0.0}
    images: jax.Array | np.ndarray = real
    start = starting_model(context, models, data)
    if config.strategy == 'mnemonics':
        old = old_memory(context, variables, carry.exemplars)
        images, report = learn_exemplars(
            context, variables, real, mask, data, old=old, start=start
        )
        clock.lap('learn')
    held = carry.exemplars
    if config.adjust and context.num_old:
        held, drift = adjust_exemplars(context, variables, held, start)
        report['adjust_drift_grey_levels'] = drift
        clock.lap('adjust')
    held = shrink(held, np.int32(context.parts.slots(context.index)))
    held = put_rows(held, images, mask, np.int32(context.num_old))
    return held, selected, report


def choose_exemplars(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> tuple[np.ndarray, np.ndarray]:
    """Real images of the new classes to keep, or to start learning from.

    Returns:
        Images f32[c, s, H, W, C] in [0, 1] in rank order, and bool[c, s].
    """
    parts, ex = context.parts, context.parts.config.exemplars
    rule = ex.init if ex.strategy == 'mnemonics' else ex.strategy
    features = None
    if rule == 'herding':
        features = features_of(context, variables, data)
    chosen = selection.select(
        rule,
        data.labels,
        features,
        classes=(context.num_old, context.num_seen),
        # As many as the next phases at most keep, so that shapes are shared.
        num=parts.slots(min(context.index, 1)),
        max_class_size=int(parts.class_sizes().max()),
        seed=(parts.config.seed, context.index, int(Stage.SELECT)),
    )
    mask = chosen >= 0
    mask &= np.arange(mask.shape[1]) < parts.slots(context.index)
    images = np.zeros((*mask.shape, *parts.source.image_shape), np.float32)
    images[mask] = data.read(chosen[mask]).astype(np.float32) / 255
    return images, mask


def setting(
    context: PhaseContext, variables: Variables, stage: Stage, steps: int
) -> exemplars.Setting:
    """Where exemplars are learned in this phase, see `exemplars.Setting`."""
    return exemplars.Setting(
        learner=context.parts.learner,
        placement=context.parts.placement,
        variables=variables,
        phase=context.traced,
        num_steps=steps,
        per_dispatch=context.parts.per_dispatch.exemplars,
        key=context.key(stage),
    )


def num_outer_steps(context: PhaseContext, steps: int, size: int) -> int:
    """Outer steps of a stage: `steps`, or, if 0, those of `outer_epochs`.

    Args:
        context: of the phase.
        steps: as configured.
        size: images that judge, which an epoch passes once.
    """
    ex = context.parts.config.exemplars
    return steps or ex.outer_epochs * num_batches(size, ex.query_batch)


def query_dispatches(
    context: PhaseContext, where: exemplars.Setting, data: PhaseExamples
) -> Callable[[int], Iterator[Dispatch]]:
    """`(step) -> blocks of real images that judge`, from that step on."""
    size = len(data.labels)
    batch = context.parts.config.exemplars.query_batch
    feed = data.feed(batch, augmented=True)
    per_epoch = num_batches(size, batch)

    def epoch_of(first: int) -> Batches:
        epoch, skip = divmod(first, per_epoch)
        return feed.epoch(
            context.order(Stage.LEARN, epoch, size),
            seed=context.crop_seed(Stage.LEARN, epoch),
            start_step=skip,
        )

    def dispatches(first: int) -> Iterator[Dispatch]:
        while first < where.num_steps:
            ahead = min(where.num_steps, first - first % per_epoch + per_epoch)
            yield from multistep.dispatches(
                where.placement,
                itertools.islice(epoch_of(first), ahead - first),
                first=first,
                num=where.per_dispatch,
                capacity=data.capacity(batch),
            )
            first = ahead

    return dispatches


def starting_model(
    context: PhaseContext,
    models: tuple[Variables, Variables],
    data: PhaseExamples,
) -> Variables | None:
    """Where inner steps start, if not from the model after training."""
    ex, (before, after) = context.parts.config.exemplars, models
    learns = ex.strategy == 'mnemonics' or (ex.adjust and context.num_old)
    start = None
    if learns and ex.inner_start in FROM_BEFORE and context.num_old:
        start = before
    if learns and ex.inner_start == 'forgot':
        start = forget(context, after, data)
    return parallel.replicate(context.parts.placement, start)


def forget(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> Variables:
    """The model after some steps of SGD on turned images, see `forgetting`."""
    parts, key = context.parts, context.key(Stage.FORGET)
    ex, size = parts.config.exemplars, len(data.labels)
    feed = data.feed(ex.query_batch, augmented=True)
    epochs = (
        feed.epoch(
            context.order(Stage.FORGET, epoch, size),
            seed=context.crop_seed(Stage.FORGET, epoch),
        )
        for epoch in itertools.count()
    )
    batches = itertools.islice(
        itertools.chain.from_iterable(epochs), ex.forget_steps
    )
    model = parts.learner.begin_to_forget(variables, key)
    for step, (_, batch) in enumerate(
        parallel.shard_batches(parts.placement, batches)
    ):
        model = parts.learner.forget(
            model, batch, context.traced, jax.random.fold_in(key, step)
        )
    head = variables.params['head']
    return variables.replace(params={**model.params, 'head': head})


def old_memory(
    context: PhaseContext, variables: Variables, held: ExemplarSet
) -> OldExemplars | None:
    """The memory of old classes for those objectives that read it.

    As it will be after this phase, and its means by the current model.
    """
    config = context.parts.config
    ex = config.exemplars
    if not (
        context.num_old and needs_memory(ex.objective, ex.balanced_queries)
    ):
        return None
    held = shrink(held, np.int32(context.parts.slots(context.index)))
    means = evaluation.means_of(
        context.parts.evaluator, variables, held, config.evaluate.batch_size
    )
    return OldExemplars(held, means)


def learn_exemplars(
    context: PhaseContext,
    variables: Variables,
    images: np.ndarray,
    mask: np.ndarray,
    data: PhaseExamples,
    *,
    old: OldExemplars | None = None,
    start: Variables | None = None,
) -> tuple[jax.Array, dict[str, float]]:
    """Learns the new exemplars' pixels (the paper, Eq. 8, 9).

    Args:
        context: of the phase.
        variables: the current model.
        images: f32[c, s, H, W, C] in [0, 1], what learning starts from.
        mask: bool[c, s].
        data: training images of the new classes.
        old: see `old_memory`.
        start: see `starting_model`.

    Returns:
        The pixels, and how far they moved and what that did to the loss on
        test images of the new classes, which learning never saw.
    """
    classes = (context.num_old, context.num_seen)
    ex = context.parts.config.exemplars
    size, batch = len(data.labels), ex.query_batch
    where = setting(
        context,
        variables,
        Stage.LEARN,
        num_outer_steps(context, ex.outer_steps, size),
    )._replace(start=start)
    listed = exemplars.as_exemplars(where, mask, classes, context.num_old)
    dispatches = query_dispatches(context, where, data)
    learned = exemplars.learn(
        where, images, listed, dispatches, context.run, old=old
    )
    gauge = where._replace(key=context.key(Stage.HELD_OUT_LOSS))
    held_out = context.examples('test', *classes)

    def taught_by(pixels):
        taught = exemplars.train_on_exemplars(gauge, pixels, listed)
        return exemplars.held_out_loss(gauge, taught, in_order(held_out, batch))

    own = exemplars.held_out_loss(gauge, variables, in_order(held_out, batch))
    return learned.images, {
        'drift_grey_levels': learned.drift,
        'held_out_loss_before': taught_by(images),
        'held_out_loss_after': taught_by(learned.images),
        'held_out_loss_of_model': own,
    }


def adjust_exemplars(
    context: PhaseContext,
    variables: Variables,
    held: ExemplarSet,
    start: Variables | None = None,
) -> tuple[ExemplarSet, float]:
    """Adjusts the old exemplars (the paper, Eq. 10); also returns their drift.

    An epoch, where the preset counts in those, is one pass over half a memory.
    """
    half = -(-int(np.asarray(held.mask).sum()) // 2)
    steps = context.parts.config.exemplars.adjust_steps
    where = setting(
        context, variables, Stage.ADJUST, num_outer_steps(context, steps, half)
    )._replace(start=start)
    return exemplars.adjust(where, held, context.num_old, context.run)
