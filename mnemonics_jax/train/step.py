"""Model-level training: the step that all methods share.

The same step trains the model on new data and exemplars, and fine-tunes a copy
on the exemplars. The two differ in the loss, in whether BatchNorm statistics
are updated, and in which head rows are trained.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnemonics_jax.backbones import heads, mask_frozen
from mnemonics_jax.core.multistep import StackedBatches, batch_at, repeat
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.core.parallel import Placement
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import (
    ImageRows,
    batch_images,
    fill_exemplars,
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
    """Settings of a kind of training.

    Attributes:
        momentum: momentum of SGD, in [0, 1).
        weight_decay: weight decay as in PyTorch, >= 0: added to the gradient of
            every parameter, including BatchNorm's and the head's scale.
        augmentation: augmentation of images on the device.
        augment_real: whether to augment real images; if not, they arrive
            augmented and only exemplars are augmented here.
        update_stats: whether BatchNorm uses batch statistics and updates the
            running ones.
        scope: 'all' trains every parameter, 'head' the rows of the head.
    """

    momentum: float
    weight_decay: float
    augmentation: augment.Augmentation
    augment_real: bool
    update_stats: bool
    scope: str = 'all'


class StepInputs(NamedTuple):
    """Inputs of a training step besides its state and batch.

    Attributes:
        reference: model of the previous phase.
        exemplars: images of the memory; batches refer to its slots.
        phase: counts of old and seen classes.
        head_rows: int32[2], low and high; head rows low..high-1 are trained.
        lr: learning rate, f32[].
        key: random key of the epoch.
    """

    reference: Variables
    exemplars: ImageRows
    phase: Phase
    head_rows: jax.Array
    lr: jax.Array
    key: jax.Array


class Trainer(NamedTuple):
    """The jitted functions of a kind of training.

    Attributes:
        init: `(variables) -> TrainState`, with zero momentum; a copy, since
            steps donate their state.
        steps: `(state, (stacked, inputs), num) -> (state, metrics)`, SGD steps
            on the next `num` batches of `multistep.StackedBatches`. Metrics are
            f32[num]: 'loss', 'accuracy' and each term of the method's loss. A
            batch is sharded over devices and has `image` uint8 or f32
            [B, H, W, C] (or `pool` and `row`, see `device_batch.batch_images`),
            `label` int32[B], `index` int32[B] (keys the augmentation), `slot`
            int32[B] (see `fill_exemplars`) and `weight` f32[B] (0 for padding).
    """

    init: Callable[[Variables], TrainState]
    steps: Callable[
        [TrainState, tuple[StackedBatches, StepInputs], int],
        tuple[TrainState, dict[str, jax.Array]],
    ]


def make_optimizer(settings: StepSettings) -> optax.GradientTransformation:
    """SGD with momentum as in PyTorch, without the learning rate.

    v <- m v + (g + wd p), p <- p - lr v. The step takes lr as an argument, so
    that schedules do not recompile.
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
        method: the method, whose loss is minimised.
        settings: settings of this kind of training.
        placement: placement of batches.
        with_reference: whether to run the previous phase's model; if false, as
            in phase 0, its outputs are zeros.
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

    def step(state, stacked_and_inputs):
        stacked, inputs = stacked_and_inputs
        batch = batch_at(stacked, state.step)
        images = augment_batch(settings, inputs, batch)
        grads, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(
            state.variables.params,
            state.variables,
            placement.split(images),
            batch,
            inputs,
        )
        if settings.scope == 'head':
            grads = heads.rows_alone(grads)
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
    images = fill_exemplars(
        batch_images(batch),
        batch['slot'],
        inputs.exemplars,
        inputs.reference.dtype,
    )
    return augment.augment(
        inputs.key,
        images,
        batch['index'],
        settings.augmentation,
        None if settings.augment_real else batch['slot'] >= 0,
    )


def reduce_terms(terms: Terms, weights: jax.Array) -> dict[str, jax.Array]:
    """Weighted mean of each term, and 'loss', their sum."""
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
    """New params and opt_state; frozen parameters do not change.

    Frozen are head rows outside `inputs.head_rows` and what
    `backbones.mask_frozen` freezes. Updates are masked instead of gradients, so
    that weight decay does not change them either.
    """
    params = state.variables.params
    updates, opt_state = tx.update(grads, state.opt_state, params)
    updates = jax.tree.map(lambda u: -inputs.lr * u, updates)
    low, high = inputs.head_rows
    head = heads.row_mask_updates(updates['head'], low, high)
    updates = mask_frozen({**updates, 'head': head}, inputs.phase.index)
    return optax.apply_updates(params, updates), opt_state


def batch_accuracy(
    outputs: Outputs, batch: dict[str, jax.Array], phase: Phase
) -> jax.Array:
    """Accuracy of the head on a batch over the classes seen."""
    seen = jnp.arange(outputs.logits.shape[-1]) < phase.num_seen
    predicted = jnp.argmax(jnp.where(seen, outputs.logits, -jnp.inf), axis=-1)
    hits = (predicted == batch['label']).astype(outputs.logits.dtype)
    return weighted_mean(hits, batch['weight'])


def scheduled_rate(section: Any, epoch: int) -> float:
    """Learning rate of an epoch of a stage.

    Args:
        section: config section with `lr`, the rate of epoch 0. With `schedule`
            'step' it is multiplied by `gamma` at each of `milestones`; with
            'cosine' it falls to zero at `epochs`; otherwise it is constant.
        epoch: epoch from 0 to `section.epochs` - 1.
    """
    schedule = section.get('schedule')
    if schedule == 'step':
        passed = sum(epoch >= milestone for milestone in section.milestones)
        return section.lr * section.gamma**passed
    if schedule == 'cosine':
        progress = epoch / section.epochs
        return 0.5 * section.lr * (1 + math.cos(math.pi * progress))
    return section.lr


def with_slots(
    batches: Iterator[dict[str, np.ndarray]],
    num_real: int,
    slots: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Adds `slot` to host batches: the exemplar slot of a row, -1 for others.

    Args:
        batches: batches with `index` int32[B]; `num_real` and above are
            exemplars.
        num_real: number of real images of the stage.
        slots: int32[e], flat slots of the exemplars in index order.
    """
    for batch in batches:
        position = batch['index'] - num_real
        is_exemplar = (position >= 0) & (batch['weight'] > 0)
        slot = np.full_like(batch['index'], -1)
        slot[is_exemplar] = slots[position[is_exemplar]]
        yield {**batch, 'slot': slot}


def valid_slots(exemplars: ExemplarSet) -> tuple[np.ndarray, np.ndarray]:
    """Flat slots and labels of the exemplars, both int32[e], on the host."""
    mask = np.asarray(exemplars.mask)
    slots = np.flatnonzero(mask.reshape(-1)).astype(np.int32)
    return slots, slots // mask.shape[1]
