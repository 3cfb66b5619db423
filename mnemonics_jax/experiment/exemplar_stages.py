"""The stages of a phase that select, learn and adjust exemplars."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from mnemonics_jax import exemplars
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.core.multistep import Dispatch
from mnemonics_jax.core.rng import Stage
from mnemonics_jax.data import encoded as encodings
from mnemonics_jax.data import storage
from mnemonics_jax.data.batches import num_batches
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.data.loader import PhaseExamples
from mnemonics_jax.exemplars import memory, objectives, stored, strategies
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    FlatExemplars,
    OldExemplars,
)
from mnemonics_jax.exemplars.strategies import Candidates
from mnemonics_jax.experiment import byte_budget
from mnemonics_jax.experiment.context import (
    Batches,
    Clock,
    PhaseContext,
    features_of,
    in_order,
)
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Carry, EncodedImages, ExemplarSet, Variables

drift_grey_levels = jax.jit(memory.drift_grey_levels)
put_rows = jax.jit(memory.put_rows)
shrink = jax.jit(memory.shrink)


class Renewed(NamedTuple):
    """The memory at the end of a phase.

    Attributes:
        exemplars: the memory.
        encoded: what is stored of it; None where its arrays are.
        selected: the rows of the new classes as they were selected, before
            learning, on the host.
        report: measurements of the pixels.
    """

    exemplars: ExemplarSet
    encoded: EncodedImages | None
    selected: ExemplarSet
    report: dict[str, float]


def renew_memory(
    context: PhaseContext,
    carry: Carry,
    variables: Variables,
    data: PhaseExamples,
    clock: Clock,
) -> Renewed:
    """Selects, learns and stores exemplars, and adjusts and drops old ones.

    Args:
        context: phase.
        carry: result of the phase before.
        variables: model after the training of this phase.
        data: training images of the new classes.
        clock: clock of the stages.

    Raises:
        TooFewBytesError: a class will not keep an exemplar.
    """
    parts, config = context.parts, context.parts.config.exemplars
    budget = parts.budget(context.index)
    real, mask = select_exemplars(context, variables, data)
    start = stored.store(parts.storage, real, mask, budget)
    check_first_images(context, start)
    new = slice(context.num_seen - context.num_old)
    selected = ExemplarSet(start.images[new], start.mask[new])
    clock.lap('select')
    rows, report = start, {'drift_grey_levels': 0.0}
    if strategies.learns(config.strategy):
        old = old_exemplars(context, variables, carry)
        rows, report = learn_exemplars(
            context, variables, real, start, data, old=old
        )
        report['num_dropped'] = int(start.mask.sum() - rows.mask.sum())
        clock.lap('learn')
    say_if_full(context, rows)
    if parts.storage.compresses:
        found = storage.mean_psnr(
            storage.psnr(rows.images[rows.mask], real[rows.mask])
        )
        if np.isfinite(found):  # Else all images are stored without a loss.
            report['psnr'] = found
    held = carry.exemplars
    if config.adjust and context.num_old:
        before, held = held, adjust_exemplars(context, variables, held)
        drift = drift_grey_levels(before.images, held.images, held.mask)
        report['adjust_drift_grey_levels'] = float(drift)
        clock.lap('adjust')
    kept = kept_slots(context, carry)
    # As the memory lies in all phases, so that they share compilations.
    new_rows = parallel.replicate(parts.placement, (rows.images, rows.mask))
    held = put_rows(shrink(held, kept), *new_rows, np.int32(context.num_old))
    encoded = None
    if carry.encoded is not None:
        encoded = encodings.replace(
            carry.encoded, kept, rows.encoded[new], context.num_old
        )
    return Renewed(held, encoded, selected, report)


def kept_slots(context: PhaseContext, carry: Carry) -> np.ndarray:
    """The slots that stay in the memory at the end of a phase, bool[K, m]."""
    parts, mask = context.parts, carry.exemplars.mask
    kept = np.broadcast_to(
        np.arange(mask.shape[1]) < parts.slots(context.index), mask.shape
    )
    if carry.encoded is None:
        return kept
    budget = parts.budget(context.index)
    return kept & stored.fitting(carry.encoded.lengths, budget)


def say_if_full(context: PhaseContext, rows: stored.StoredRows) -> None:
    """Says how many classes fill their slots and would have bytes for more."""
    parts, num = context.parts, context.parts.slots(context.index)
    new = slice(context.num_old, context.num_seen)
    sizes = parts.class_sizes()[parts.order][new]
    full = 0
    for size, row in zip(sizes, rows.encoded, strict=False):
        used = sum(map(len, row))
        left = parts.budget(context.index) - used
        full += len(row) == num < size and left * num > used
    if full:
        context.recorder.say(
            f'{full} of the new classes hold {num} exemplars, as many as the '
            'memory of this run has slots, and have bytes left'
        )


def check_first_images(context: PhaseContext, start: stored.StoredRows) -> None:
    """Checks that each new class will keep an exemplar to the end of the run.

    Raises:
        TooFewBytesError: its first one has more bytes than the class will have.
    """
    parts = context.parts
    last = parts.budget(len(parts.bounds) - 1)
    num = context.num_seen - context.num_old
    lost = np.flatnonzero(stored.too_large(start, last)[:num])
    if len(lost):
        name = parts.plan.classes[context.num_old + int(lost[0])]
        raise byte_budget.TooFewBytesError(name, last)


def select_exemplars(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> tuple[np.ndarray, np.ndarray]:
    """Real images of the new classes to keep, or to start learning from.

    Returns:
        Images f32[c, s, H, W, C] in [0, 1] in rank order, and bool[c, s]. The
        rows after those of the new classes are empty: phases of any size have
        the shape of the largest, and share the compiled steps.
    """
    parts, ex = context.parts, context.parts.config.exemplars
    candidates = Candidates(
        data.labels,
        lambda: features_of(context, variables, data),
        classes=(context.num_old, context.num_seen),
        # As many as the next phases keep at most, so that shapes are shared.
        num=parts.slots(min(context.index, 1)),
        max_class_size=int(parts.class_sizes().max()),
        max_classes=parts.rows(context.index),
        seed=(parts.config.seed, context.index, int(Stage.SELECT)),
        init=ex.init,
    )
    chosen = strategies.select(ex.strategy, candidates)
    mask = chosen >= 0
    mask &= np.arange(mask.shape[1]) < parts.slots(context.index)
    read = data.read(chosen[mask]).astype(variables.dtype) / 255
    mask = np.pad(mask, ((0, parts.rows(context.index) - len(mask)), (0, 0)))
    shape = (*mask.shape, *parts.source.image_shape)
    images = np.zeros(shape, variables.dtype)
    images[mask] = read
    return images, mask


def exemplar_problem(
    context: PhaseContext,
    variables: Variables,
    stage: Stage,
    num_steps: int,
    listed: FlatExemplars | None = None,
    old: OldExemplars | None = None,
) -> ExemplarProblem:
    """The problem of a stage, on the devices; see `ExemplarProblem`."""
    arrays = listed, context.traced, np.int32(num_steps), old
    arrays = parallel.replicate(context.parts.placement, arrays)
    listed, phase, steps, old = arrays
    return ExemplarProblem(
        variables, listed, phase, context.key(stage), steps, old=old
    )


def num_outer_steps(context: PhaseContext, steps: int, size: int) -> int:
    """Outer steps of a stage: `steps`, or, if 0, those of `outer_epochs`.

    Args:
        context: phase.
        steps: configured steps.
        size: query images; an epoch is one pass over them.
    """
    ex = context.parts.config.exemplars
    return steps or ex.outer_epochs * num_batches(size, ex.query_batch)


def query_dispatches(
    context: PhaseContext, num_steps: int, data: PhaseExamples
) -> Callable[[int], Iterator[Dispatch]]:
    """`(step) -> dispatches of query images`, from that step on."""
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
        while first < num_steps:
            ahead = min(num_steps, first - first % per_epoch + per_epoch)
            yield from multistep.dispatches(
                context.parts.placement,
                itertools.islice(epoch_of(first), ahead - first),
                first=first,
                num=context.parts.per_dispatch.exemplars,
                capacity=data.capacity(batch),
            )
            first = ahead

    return dispatches


def old_exemplars(
    context: PhaseContext, variables: Variables, carry: Carry
) -> OldExemplars | None:
    """The old exemplars as they will be kept; None if nothing reads them."""
    config = context.parts.config
    if not (
        context.num_old and objectives.reads_old(config.exemplars.objective)
    ):
        return None
    held = shrink(carry.exemplars, kept_slots(context, carry))
    means = evaluation.means_of(
        context.parts.evaluator, variables, held, config.evaluate.batch_size
    )
    return OldExemplars(held, means)


def learn_exemplars(
    context: PhaseContext,
    variables: Variables,
    images: np.ndarray,
    start: stored.StoredRows,
    data: PhaseExamples,
    *,
    old: OldExemplars | None = None,
) -> tuple[stored.StoredRows, dict[str, float]]:
    """Learns the new exemplars' pixels (the paper, Eq. 8, 9).

    Args:
        context: phase.
        variables: current model.
        images: f32[c, s, H, W, C] in [0, 1], what learning starts from.
        start: the same images as they are stored; its mask says which are
            learned.
        data: training images of the new classes.
        old: see `old_exemplars`.

    Returns:
        The exemplars as they are stored; and how far they moved, with the loss
        on test images of the new classes, which learning never saw, before and
        after.

    Raises:
        PluginError: the strategy returns something else than images.
    """
    classes = (context.num_old, context.num_seen)
    parts, ex = context.parts, context.parts.config.exemplars
    learner, codec = parts.learner, parts.storage
    steps = num_outer_steps(context, ex.outer_steps, len(data.labels))
    listed = exemplars.flat_exemplars(start.mask, classes)
    problem = exemplar_problem(
        context, variables, Stage.LEARN, steps, listed, old
    )
    kept = None
    if codec.kept is not None:
        flat = codec.kept(images.reshape(-1, *images.shape[2:]))
        kept = flat.reshape(*start.mask.shape, *flat.shape[1:])
        on_devices = parallel.share(parts.placement, flat)
        problem = problem._replace(kept=on_devices)
    dispatches = query_dispatches(context, steps, data)
    learned = strategies.learn(
        ex.strategy, learner, problem, images, dispatches, context.run
    )
    rows = stored.store(
        codec, learned, start.mask, parts.budget(context.index), kept
    )
    last = parts.budget(len(parts.bounds) - 1)
    rows = stored.replace_rows(rows, start, stored.too_large(rows, last))
    # In this form, unchanged pixels are equal to the bit.
    drift = drift_grey_levels(start.images, rows.images, rows.mask)
    problem = problem._replace(
        key=context.key(Stage.HELD_OUT_LOSS), old=None, kept=None
    )
    held_out = context.examples('test', *classes)

    def loss_of(model):
        batches = in_order(held_out, ex.query_batch)
        return exemplars.held_out_loss(learner, model, problem.phase, batches)

    def loss_after_training_on(rows):
        # Of those that are kept: others have no image.
        listed = exemplars.flat_exemplars(rows.mask, classes)
        listed = parallel.replicate(parts.placement, listed)
        pixels = to_float(rows.images, images.dtype)
        model = exemplars.train_on_exemplars(
            learner, problem._replace(exemplars=listed), pixels
        )
        return loss_of(model)

    return rows, {
        'drift_grey_levels': float(drift),
        'held_out_loss_before': loss_after_training_on(start),
        'held_out_loss_after': loss_after_training_on(rows),
        'held_out_loss_of_model': loss_of(variables),
    }


def adjust_exemplars(
    context: PhaseContext, variables: Variables, held: ExemplarSet
) -> ExemplarSet:
    """Adjusts the old exemplars (the paper, Eq. 10).

    An epoch, where the preset counts in those, is one pass over half a memory.
    """
    half = -(-int(np.asarray(held.mask).sum()) // 2)
    parts = context.parts
    steps = parts.config.exemplars.adjust_steps
    return exemplars.adjust(
        parts.learner,
        exemplar_problem(
            context,
            variables,
            Stage.ADJUST,
            num_outer_steps(context, steps, half),
        ),
        held,
        context.run,
        per_dispatch=parts.per_dispatch.exemplars,
    )
