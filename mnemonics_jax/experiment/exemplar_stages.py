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
from mnemonics_jax.data.loader import Examples
from mnemonics_jax.exemplars import memory, selection
from mnemonics_jax.exemplars.inner_problem import FROM_BEFORE
from mnemonics_jax.exemplars.objectives import Memory, needs_memory
from mnemonics_jax.experiment.context import (
    Batches,
    Clock,
    Scene,
    features_of,
    in_order,
)
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Carry, ExemplarSet, Variables

put_rows = jax.jit(memory.put_rows)
shrink = jax.jit(memory.shrink)
to_storage = jax.jit(memory.to_storage, static_argnums=1)


def renew_memory(
    scene: Scene,
    carry: Carry,
    models: tuple[Variables, Variables],
    data: Examples,
    clock: Clock,
) -> tuple[ExemplarSet, ExemplarSet, dict[str, float]]:
    """The memory at the end of a phase.

    Args:
        scene: of the phase.
        carry: of the phase before.
        models: before and after the training of this phase.
        data: training images of the new classes.
        clock: of the stages.

    Returns:
        The memory; the rows of the new classes as they were selected, before
        anything was learned, on the host; and what became of the pixels.
    """
    config, (_, variables) = scene.parts.config.exemplars, models
    real, mask = choose_exemplars(scene, variables, data)
    selected = ExemplarSet(np.asarray(to_storage(real, config.storage)), mask)
    clock.lap('select')
    report = {'drift_grey_levels': 0.0}
    images: jax.Array | np.ndarray = real
    start = starting_model(scene, models, data)
    if config.strategy == 'mnemonics':
        old = old_memory(scene, variables, carry.exemplars)
        images, report = learn_exemplars(
            scene, variables, real, mask, data, old=old, start=start
        )
        clock.lap('learn')
    held = carry.exemplars
    if config.adjust and scene.num_old:
        held, drift = adjust_exemplars(scene, variables, held, start)
        report['adjust_drift_grey_levels'] = drift
        clock.lap('adjust')
    held = shrink(held, np.int32(scene.parts.slots(scene.index)))
    held = put_rows(held, images, mask, np.int32(scene.num_old))
    return held, selected, report


def choose_exemplars(
    scene: Scene, variables: Variables, data: Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Real images of the new classes to keep, or to start learning from.

    Returns:
        Images f32[c, s, H, W, C] in [0, 1] in rank order, and bool[c, s].
    """
    parts, ex = scene.parts, scene.parts.config.exemplars
    rule = ex.init if ex.strategy == 'mnemonics' else ex.strategy
    features = None
    if rule == 'herding':
        features = features_of(scene, variables, data)
    chosen = selection.select(
        rule,
        data.labels,
        features,
        classes=(scene.num_old, scene.num_seen),
        # As many as the next phases at most keep, so that shapes are shared.
        num=parts.slots(min(scene.index, 1)),
        max_class_size=int(parts.class_sizes().max()),
        seed=(parts.config.seed, scene.index, int(Stage.SELECT)),
    )
    mask = chosen >= 0
    mask &= np.arange(mask.shape[1]) < parts.slots(scene.index)
    images = np.zeros((*mask.shape, *parts.source.image_shape), np.float32)
    images[mask] = data.read(chosen[mask]).astype(np.float32) / 255
    return images, mask


def setting(
    scene: Scene, variables: Variables, stage: Stage, steps: int
) -> exemplars.Setting:
    """Where exemplars are learned in this phase, see `exemplars.Setting`."""
    return exemplars.Setting(
        learner=scene.parts.learner,
        placement=scene.parts.placement,
        variables=variables,
        phase=scene.traced,
        num_steps=steps,
        per_dispatch=scene.parts.per_dispatch.exemplars,
        key=scene.key(stage),
    )


def num_outer_steps(scene: Scene, steps: int, size: int) -> int:
    """Outer steps of a stage: `steps`, or, if 0, those of `outer_epochs`.

    Args:
        scene: of the phase.
        steps: as configured.
        size: images that judge, which an epoch passes once.
    """
    ex = scene.parts.config.exemplars
    return steps or ex.outer_epochs * num_batches(size, ex.query_batch)


def query_dispatches(
    scene: Scene, where: exemplars.Setting, data: Examples
) -> Callable[[int], Iterator[Dispatch]]:
    """`(step) -> blocks of real images that judge`, from that step on."""
    size = len(data.labels)
    batch = scene.parts.config.exemplars.query_batch
    feed = data.feed(batch, augmented=True)
    per_epoch = num_batches(size, batch)

    def epoch_of(first: int) -> Batches:
        epoch, skip = divmod(first, per_epoch)
        return feed.epoch(
            scene.order(Stage.LEARN, epoch, size),
            seed=scene.crop_seed(Stage.LEARN, epoch),
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
    scene: Scene, models: tuple[Variables, Variables], data: Examples
) -> Variables | None:
    """Where inner steps start, if not from the model after training."""
    ex, (before, after) = scene.parts.config.exemplars, models
    learns = ex.strategy == 'mnemonics' or (ex.adjust and scene.num_old)
    start = None
    if learns and ex.inner_start in FROM_BEFORE and scene.num_old:
        start = before
    if learns and ex.inner_start == 'forgot':
        start = forget(scene, after, data)
    return parallel.replicate(scene.parts.placement, start)


def forget(scene: Scene, variables: Variables, data: Examples) -> Variables:
    """The model after some steps of SGD on turned images, see `forgetting`."""
    parts, key = scene.parts, scene.key(Stage.FORGET)
    ex, size = parts.config.exemplars, len(data.labels)
    feed = data.feed(ex.query_batch, augmented=True)
    epochs = (
        feed.epoch(
            scene.order(Stage.FORGET, epoch, size),
            seed=scene.crop_seed(Stage.FORGET, epoch),
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
            model, batch, scene.traced, jax.random.fold_in(key, step)
        )
    head = variables.params['head']
    return variables.replace(params={**model.params, 'head': head})


def old_memory(
    scene: Scene, variables: Variables, held: ExemplarSet
) -> Memory | None:
    """The memory of old classes for those objectives that read it.

    As it will be after this phase, and its means by the current model.
    """
    config = scene.parts.config
    ex = config.exemplars
    if not (scene.num_old and needs_memory(ex.objective, ex.balanced_queries)):
        return None
    held = shrink(held, np.int32(scene.parts.slots(scene.index)))
    means = evaluation.means_of(
        scene.parts.evaluator, variables, held, config.evaluate.batch_size
    )
    return Memory(held, means)


def learn_exemplars(
    scene: Scene,
    variables: Variables,
    images: np.ndarray,
    mask: np.ndarray,
    data: Examples,
    *,
    old: Memory | None = None,
    start: Variables | None = None,
) -> tuple[jax.Array, dict[str, float]]:
    """Learns the new exemplars' pixels (the paper, Eq. 8, 9).

    Args:
        scene: of the phase.
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
    classes = (scene.num_old, scene.num_seen)
    ex = scene.parts.config.exemplars
    size, batch = len(data.labels), ex.query_batch
    where = setting(
        scene,
        variables,
        Stage.LEARN,
        num_outer_steps(scene, ex.outer_steps, size),
    )._replace(start=start)
    listed = exemplars.as_exemplars(where, mask, classes, scene.num_old)
    dispatches = query_dispatches(scene, where, data)
    learned = exemplars.learn(
        where, images, listed, dispatches, scene.run, old=old
    )
    gauge = where._replace(key=scene.key(Stage.GAUGE))
    held_out = scene.examples('test', *classes)

    def taught_by(pixels):
        taught = exemplars.teach(gauge, pixels, listed)
        return exemplars.held_out_loss(gauge, taught, in_order(held_out, batch))

    own = exemplars.held_out_loss(gauge, variables, in_order(held_out, batch))
    return learned.images, {
        'drift_grey_levels': learned.drift,
        'held_out_loss_before': taught_by(images),
        'held_out_loss_after': taught_by(learned.images),
        'held_out_loss_of_model': own,
    }


def adjust_exemplars(
    scene: Scene,
    variables: Variables,
    held: ExemplarSet,
    start: Variables | None = None,
) -> tuple[ExemplarSet, float]:
    """Adjusts the old exemplars (the paper, Eq. 10); also returns their drift.

    An epoch, where the preset counts in those, is one pass over half a memory.
    """
    half = -(-int(np.asarray(held.mask).sum()) // 2)
    steps = scene.parts.config.exemplars.adjust_steps
    where = setting(
        scene, variables, Stage.ADJUST, num_outer_steps(scene, steps, half)
    )._replace(start=start)
    return exemplars.adjust(where, held, scene.num_old, scene.run)
