"""The stages of a phase that train a model: training and fine-tuning."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax import prototypes, train
from mnemonics_jax.backbones import heads
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.core.multistep import Dispatch, Loop
from mnemonics_jax.core.rng import Stage
from mnemonics_jax.data.batches import BatchFeed, num_batches
from mnemonics_jax.data.device_batch import ImageRows, place_rows
from mnemonics_jax.data.loader import PhaseExamples
from mnemonics_jax.experiment.context import (
    Batches,
    PhaseContext,
    all_class_means,
    features_of,
)
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Carry, ExemplarSet, HeldOut, Variables

imprint = jax.jit(heads.imprint)


def start_model(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> Variables:
    """The model that training starts from, with imprinted new head rows.

    The rows are class means or, for a head with proxies, k-means centres.
    """
    parts, head = context.parts, variables.params['head']
    if context.index == 0 or not parts.config.method.imprint:
        return variables
    if head['kernel'].ndim == 3:
        centres = all_class_centres(context, variables, data)
    else:
        centres = all_class_means(context, variables, data)
    head = imprint(
        head, centres, np.int32(context.num_old), np.int32(context.num_seen)
    )
    return variables.replace(params={**variables.params, 'head': head})


def all_class_centres(
    context: PhaseContext, variables: Variables, data: PhaseExamples
) -> np.ndarray:
    """k-means centres f32[K, P, D] of the classes of `data`, one per proxy."""
    num_classes, num_proxies, _ = variables.params['head']['kernel'].shape
    return prototypes.class_centres(
        features_of(context, variables, data),
        data.labels,
        num_classes,
        num_proxies,
        seed=(context.parts.config.seed, context.index, int(Stage.INIT)),
    )


class Pool(NamedTuple):
    """The examples of a training stage: real images, then exemplars.

    Attributes:
        feed: feed of training batches.
        plain: the same feed without augmentation on the host.
        num_real: n, number of real images.
        slots: int32[e], flat slots of the exemplars.
        labels: int32[n + e], labels of all examples.
        train: int64[t], positions of training examples.
        held_out: int64[h], positions held out for `Method.end_phase`.
        capacity: maximum number of batches in any phase.
    """

    feed: BatchFeed
    plain: BatchFeed
    num_real: int
    slots: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    held_out: np.ndarray
    capacity: int

    def batches(self, order: np.ndarray, seed: int, start_step: int) -> Batches:
        """Training batches of the positions `order`, with `slot`."""
        batches = self.feed.epoch(order, seed=seed, start_step=start_step)
        return train.with_slots(batches, self.num_real, self.slots)

    def held_out_batches(self) -> Batches:
        """Batches of the held-out positions, not augmented, with `slot`."""
        batches = self.plain.epoch(self.held_out)
        return train.with_slots(batches, self.num_real, self.slots)


def make_pool(
    data: PhaseExamples, exemplars: ExemplarSet, batch_size: int
) -> Pool:
    """Pools `data` and the memory, with nothing held out."""
    slots, slot_labels = train.valid_slots(exemplars)
    labels = np.concatenate([data.labels, slot_labels])

    def feed(augmented):
        return data.feed(
            batch_size, exemplar_labels=slot_labels, augmented=augmented
        )

    return Pool(
        feed=feed(True),
        plain=feed(False),
        num_real=len(data.labels),
        slots=slots,
        labels=labels,
        train=np.arange(len(labels)),
        held_out=np.arange(0),
        capacity=data.capacity(batch_size, exemplars.mask.size),
    )


def hold_out(context: PhaseContext, pool: Pool) -> Pool:
    """Holds the same number of examples of each class seen out of training.

    The number is the method's share of the exemplars per class, at least one;
    but at most half of a class, so that training keeps the others.
    """
    most = context.parts.held_out_per_class(context.index)
    if context.parts.plan.slot_bytes:  # Slots are more than exemplars then.
        mean = np.sum(pool.labels < context.num_old) / context.num_old
        most = min(most, max(1, round(context.parts.method.holdout * mean)))
    order = context.order(Stage.HOLD_OUT, 0, len(pool.labels))
    members = [order[pool.labels[order] == k] for k in range(context.num_seen)]
    chosen = [each[: min(most, len(each) // 2)] for each in members]
    held_out = np.sort(np.concatenate(chosen))
    return pool._replace(
        train=np.setdiff1d(pool.train, held_out), held_out=held_out
    )


def train_model(
    context: PhaseContext, carry: Carry, start: Variables, data: PhaseExamples
) -> Variables:
    """Model-level training on the new data and the memory (the paper, Eq. 4b).

    Args:
        context: context of the phase.
        carry: reference model and memory of the previous phase.
        start: initial model, see `start_model`.
        data: training images of the new classes.
    """
    parts, exemplars = context.parts, carry.exemplars
    if parts.method.keeps_data:
        data = context.examples('train', 0, context.num_seen)
        exemplars = exemplars.replace(mask=jnp.zeros_like(exemplars.mask))
    pool = make_pool(data, exemplars, parts.config.train.batch_size)
    if context.index:
        pool = hold_out(context, pool)
    frozen = context.num_old if parts.config.method.freeze_old_rows else 0
    trainers = parts.trainers
    training = Training(
        stage=Stage.TRAIN,
        trainer=trainers.later if context.index else trainers.base,
        section=parts.config.train,
        carry=carry,
        head_rows=(frozen, context.num_seen),
    )
    variables = run_epochs(context, pool, start, training)
    if context.index == 0:
        return variables
    return end_phase(context, carry.exemplars, variables, pool)


def end_phase(
    context: PhaseContext,
    exemplars: ExemplarSet,
    variables: Variables,
    pool: Pool,
) -> Variables:
    """Applies the method's `end_phase`, if any, to the head."""
    parts, num_classes = context.parts, context.parts.source.num_classes
    if parts.end_phase is None:
        return variables
    # Padded to the size of the largest phase, so that phases share a program.
    size = parts.held_out_per_class(1) * num_classes
    held_out = HeldOut(
        np.zeros((size, num_classes), variables.dtype),
        np.zeros(size, np.int32),
        np.zeros(size, variables.dtype),
    )
    count = len(pool.held_out)
    if count:
        found = evaluation.logits_of(
            parts.evaluator, variables, exemplars, pool.held_out_batches()
        )
        held_out.logits[:count] = found
        held_out.labels[:count] = pool.labels[pool.held_out]
        held_out.weights[:count] = 1
    head = parts.end_phase(variables.params['head'], held_out, context.traced)
    return variables.replace(params={**variables.params, 'head': head})


def finetune_model(
    context: PhaseContext, variables: Variables, exemplars: ExemplarSet
) -> Variables:
    """A copy of the model, fine-tuned on the balanced memory only."""
    parts = context.parts
    training = Training(
        stage=Stage.FINETUNE,
        trainer=parts.trainers.finetune,
        section=parts.config.finetune,
        carry=Carry(variables, exemplars),
        head_rows=(0, context.num_seen),
    )
    no_data = parts.loader.no_examples()
    pool = make_pool(no_data, exemplars, parts.config.finetune.batch_size)
    return run_epochs(context, pool, variables, training)


class Training(NamedTuple):
    """Settings of `run_epochs`.

    Attributes:
        stage: stage of the phase.
        trainer: the jitted functions.
        section: config section with epochs, learning rate and schedule.
        carry: reference model and memory.
        head_rows: low and high; head rows low..high-1 are trained.
    """

    stage: Stage
    trainer: train.Trainer
    section: Any
    carry: Carry
    head_rows: tuple[int, int]


def run_epochs(
    context: PhaseContext, pool: Pool, start: Variables, training: Training
) -> Variables:
    """Trains for all epochs of a stage on a pool."""
    section, stage = training.section, training.stage
    size = len(pool.train)
    per_epoch = num_batches(size, section.batch_size)
    placement = context.parts.placement
    rows = place_rows(placement, training.carry.exemplars.images)

    def dispatches(first: int) -> Iterator[Dispatch]:
        for epoch in range(first // per_epoch, section.epochs):
            start_step = max(0, first - epoch * per_epoch)
            order = pool.train[context.order(stage, epoch, size)]
            seed = context.crop_seed(stage, epoch)
            inputs = epoch_inputs(context, training, rows, epoch)
            for dispatch in multistep.dispatches(
                placement,
                pool.batches(order, seed, start_step),
                first=epoch * per_epoch + start_step,
                num=context.parts.per_dispatch.train,
                capacity=pool.capacity,
            ):
                yield dispatch._replace(inputs=(dispatch.inputs, inputs))

    def step(number, state, dispatch):
        return training.trainer.steps(
            state, dispatch.inputs, dispatch.num_steps
        )

    def mark(number: int) -> dict[str, Any] | None:
        epoch, last = divmod(number + 1, per_epoch)
        if last:
            return None
        lr = train.scheduled_rate(section, epoch - 1)
        return {'epoch': epoch - 1, 'lr': lr}

    loop = Loop(
        name=stage.name.lower(),
        num_steps=section.epochs * per_epoch,
        dispatches=dispatches,
        step=step,
        mark=mark,
        place=lambda n: f'epoch {n // per_epoch + 1}/{section.epochs}',
    )
    return context.run(loop, training.trainer.init(start)).variables


def epoch_inputs(
    context: PhaseContext, training: Training, rows: ImageRows, epoch: int
) -> train.StepInputs:
    """Inputs of the steps of an epoch besides state and batch.

    Args:
        context: context of the phase.
        training: settings of the stage.
        rows: images of its memory.
        epoch: epoch of the stage, from 0.
    """
    phase, head_rows, lr = parallel.replicate(
        context.parts.placement,
        (
            context.traced,
            np.int32(training.head_rows),
            training.carry.variables.dtype.type(
                train.scheduled_rate(training.section, epoch)
            ),
        ),
    )
    return train.StepInputs(
        reference=training.carry.variables,
        exemplars=rows,
        phase=phase,
        head_rows=head_rows,
        lr=lr,
        key=context.key(training.stage, epoch),
    )
