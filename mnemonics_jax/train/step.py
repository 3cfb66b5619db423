"""Model-level training: one step and the epochs of a stage, all methods alike.

The same step trains a model on new data and exemplars and fine-tunes a copy of
it on the exemplars alone: the two differ in the loss, in whether BatchNorm
statistics move, and in which rows of the head do.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnemonics_jax.backbones import heads, logit_correction, weight_transfer
from mnemonics_jax.core.multistep import StackedBatches, batch_at, repeat
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.core.parallel import Placement
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import (
    batch_images,
    fill_exemplars,
    to_float,
)
from mnemonics_jax.types import (
    Backbone,
    ExemplarSet,
    Method,
    Outputs,
    Phase,
    Terms,
    TrainState,
    Variables,
)


class StepSettings(NamedTuple):
    """What distinguishes one kind of training from another.

    Attributes:
        momentum: of SGD, in [0, 1).
        weight_decay: >= 0, as PyTorch applies it: added to the gradient of
            every parameter, the head's scale and BatchNorm's included.
        augmentation: of images on the device.
        augment_real: whether it is for real images, too; else they arrive
            augmented, and it is for exemplars alone.
        update_stats: whether BatchNorm uses and moves batch statistics.
    """

    momentum: float
    weight_decay: float
    augmentation: augment.Augmentation
    augment_real: bool
    update_stats: bool


class StepInputs(NamedTuple):
    """What a training step reads beside its state and batch.

    Attributes:
        reference: the previous phase's model.
        exemplars: the memory; batches name its slots.
        phase: which classes are old and seen.
        head_rows: int32[2], only head rows low..high-1 are trained.
        lr: f32[].
        key: the epoch's key.
    """

    reference: Variables
    exemplars: ExemplarSet
    phase: Phase
    head_rows: jax.Array
    lr: jax.Array
    key: jax.Array


class Trainer(NamedTuple):
    """The jitted functions of one kind of training.

    Attributes:
        init: `(variables) -> TrainState`, with zero momentum; a copy, since
            steps donate their state.
        steps: `(state, (block, inputs), num) -> (state, metrics)`, SGD steps
            on the next `num` batches of `multistep.StackedBatches`; each metric
            is f32[num]: 'loss', 'accuracy' and each term of the method's loss.
            A batch is a dict of `image` uint8 or f32 [B, H, W, C] (or `pool`
            and `row`, see `device_batch.batch_images`), `label`
            int32[B], `index` int32[B] (keys the augmentation), `slot` int32[B]
            (see `fill_exemplars`) and `weight` f32[B] (0 for padding), split
            over devices.
    """

    init: Callable[[Variables], TrainState]
    steps: Callable[
        [TrainState, tuple[StackedBatches, StepInputs], int],
        tuple[TrainState, dict[str, jax.Array]],
    ]


def make_optimizer(settings: StepSettings) -> optax.GradientTransformation:
    """SGD with momentum as PyTorch defines it, without its learning rate.

    The rate is an argument of the step, so that its schedule costs no
    compilation: v <- m v + (g + wd p), p <- p - lr v.
    """
    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.trace(decay=settings.momentum),
    )


def make_trainer(
    backbone: Backbone,
    method: Method,
    settings: StepSettings,
    placement: Placement,
    *,
    with_reference: bool,
) -> Trainer:
    """Builds the functions.

    Args:
        backbone: the model.
        method: its loss.
        settings: see `StepSettings`.
        placement: of batches.
        with_reference: whether to run the previous phase's model; false in
            phase 0, when there is none and its outputs are zeros.
    """
    tx = make_optimizer(settings)

    def init(variables):
        variables = jax.tree.map(jnp.copy, variables)
        opt_state = tx.init(variables.params)
        return TrainState(jnp.zeros((), jnp.int32), variables, opt_state)

    def loss_of(params, variables, images, batch, inputs):
        outputs, batch_stats = backbone.apply(
            variables.replace(params=params),
            images,
            train=settings.update_stats,
            mask=batch['weight'] > 0,
        )
        if with_reference:
            reference, _ = backbone.apply(inputs.reference, images)
        else:
            reference = jax.tree.map(jnp.zeros_like, outputs)
        terms = method.loss(outputs, reference, batch['label'], inputs.phase)
        metrics = reduce_terms(terms, batch['weight'])
        metrics['accuracy'] = batch_accuracy(outputs, batch, inputs.phase)
        return metrics['loss'], (batch_stats, metrics)

    def step(state, block_and_inputs):
        block, inputs = block_and_inputs
        batch = batch_at(block, state.step)
        images = augment_batch(settings, inputs, batch)
        grads, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(
            state.variables.params,
            state.variables,
            placement.split(images),
            batch,
            inputs,
        )
        params, opt_state = apply_sgd(tx, grads, state, inputs)
        variables = Variables(params, batch_stats)
        return TrainState(state.step + 1, variables, opt_state), metrics

    return Trainer(
        init=jax.jit(init, out_shardings=placement.replicated),
        steps=repeat(step, placement, 'train'),
    )


def augment_batch(
    settings: StepSettings, inputs: StepInputs, batch: dict[str, jax.Array]
) -> jax.Array:
    """The images f32[B, H, W, C] that a step trains on."""
    real = to_float(batch_images(batch))
    images = fill_exemplars(real, batch['slot'], inputs.exemplars)
    augmented = augment.augment(
        inputs.key, images, batch['index'], settings.augmentation
    )
    if settings.augment_real:
        return augmented
    is_exemplar = (batch['slot'] >= 0)[:, None, None, None]
    return jnp.where(is_exemplar, augmented, images)


def reduce_terms(terms: Terms, weights: jax.Array) -> dict[str, jax.Array]:
    """Each term's mean over its own and the batch's weights, and their sum."""
    means = {
        name: weighted_mean(values, term_weights * weights)
        for name, (values, term_weights) in terms.items()
    }
    return {'loss': functools.reduce(jnp.add, means.values()), **means}


def apply_sgd(
    tx: optax.GradientTransformation,
    grads: Any,
    state: TrainState,
    inputs: StepInputs,
) -> tuple[Any, Any]:
    """New params and opt_state; what the phase freezes stays put.

    That is head rows outside `inputs.head_rows` and, with weight transfer,
    kernels or scales. The updates are masked, not the gradients, so that weight
    decay does not move them either.
    """
    params = state.variables.params
    updates, opt_state = tx.update(grads, state.opt_state, params)
    updates = jax.tree.map(lambda u: -inputs.lr * u, updates)
    low, high = inputs.head_rows
    head = heads.row_mask_updates(updates['head'], low, high)
    head = logit_correction.mask_updates(head)
    updates = weight_transfer.mask_updates(updates, inputs.phase.index)
    params = optax.apply_updates(params, {**updates, 'head': head})
    return params, opt_state


def batch_accuracy(
    outputs: Outputs, batch: dict[str, jax.Array], phase: Phase
) -> jax.Array:
    """Share of a batch that the head gets right among the classes seen."""
    seen = jnp.arange(outputs.logits.shape[-1]) < phase.num_seen
    predicted = jnp.argmax(jnp.where(seen, outputs.logits, -jnp.inf), axis=-1)
    hits = (predicted == batch['label']).astype(jnp.float32)
    return weighted_mean(hits, batch['weight'])


def scheduled_rate(section: Any, epoch: int) -> float:
    """Learning rate of an epoch (0-based) of a stage.

    Args:
        section: of the config. `lr` is the rate of epoch 0. With `schedule`
            'step' each of `milestones` multiplies it by `gamma`; with 'cosine'
            it falls to zero at `epochs`; without `schedule` it stays.
        epoch: below `section.epochs`.
    """
    schedule = section.get('schedule')
    if schedule == 'step':
        passed = sum(epoch >= milestone for milestone in section.milestones)
        return section.lr * section.gamma**passed
    if schedule == 'cosine':
        return (
            0.5 * section.lr * (1 + math.cos(math.pi * epoch / section.epochs))
        )
    return section.lr


def with_slots(
    batches: Iterator[dict[str, np.ndarray]],
    num_real: int,
    slots: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Adds `slot` to host batches: which exemplar stands at an index, or -1.

    Args:
        batches: with `index` int32[B]; from `num_real` on are exemplars.
        num_real: real images of the stage.
        slots: int32[e], flat slots of the exemplars, in the order of indices.
    """
    for batch in batches:
        position = batch['index'] - num_real
        is_exemplar = (position >= 0) & (batch['weight'] > 0)
        slot = np.full_like(batch['index'], -1)
        slot[is_exemplar] = slots[position[is_exemplar]]
        yield {**batch, 'slot': slot}


def valid_slots(exemplars: ExemplarSet) -> tuple[np.ndarray, np.ndarray]:
    """Flat slots and labels (int32[e] both) of the exemplars, on the host."""
    mask = np.asarray(exemplars.mask)
    slots = np.flatnonzero(mask.reshape(-1)).astype(np.int32)
    return slots, slots // mask.shape[1]
