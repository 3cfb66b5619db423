"""Learning exemplars inside a model: the paper's local bilevel problems.

New exemplars are judged by real images (the paper, Eq. 8 and 9), old ones by
each other's half (Eq. 10).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnemonics_jax import bilevel, losses
from mnemonics_jax.bilevel import outer
from mnemonics_jax.bilevel.outer import ExemplarState
from mnemonics_jax.core.multistep import StackedBatches, batch_at, repeat
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.core.parallel import Placement
from mnemonics_jax.core.rng import draw_minibatches
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import batch_images, to_float
from mnemonics_jax.exemplars import forgetting, objectives, queries
from mnemonics_jax.exemplars.inner_problem import (
    Context,
    FlatExemplars,
    LearnerSettings,
    layout_of,
)
from mnemonics_jax.exemplars.objectives import OldExemplars, Situation
from mnemonics_jax.types import Backbone, Phase, Variables

# The outer rate is halved after each fifth of the steps, as the paper's after
# each 10 of 50 epochs.
DECAY = 0.5 ** np.arange(5, dtype=np.float32)


class LearnInputs(NamedTuple):
    """What steps of learning read beside their state.

    Attributes:
        exemplars: the flat list whose pixels are learned.
        variables: the current model.
        phase: which classes are in the softmax.
        num_steps: int32[], outer steps of the stage.
        key: of the stage.
        block: batches of real images that judge (`image` or `pool` and `row`,
            `label`, `index`, `weight` as in `train.Trainer`).
        memory: of old classes, where they judge, too; else None.
        start: of inner steps, see `objectives.Situation`.
    """

    exemplars: FlatExemplars
    variables: Variables
    phase: Phase
    num_steps: jax.Array
    key: jax.Array
    block: StackedBatches
    memory: OldExemplars | None = None
    start: Variables | None = None


class AdjustInputs(NamedTuple):
    """What steps of adjusting read beside their state.

    Attributes:
        exemplars: the flat lists of both halves, stacked.
        variables: the current model.
        phase: which classes are in the softmax.
        num_steps: int32[], outer steps of each half.
        keys: [2], one for each half.
        start: of inner steps, see `objectives.Situation`.
    """

    exemplars: FlatExemplars
    variables: Variables
    phase: Phase
    num_steps: jax.Array
    keys: jax.Array
    start: Variables | None = None


class Learner(NamedTuple):
    """The jitted functions that exemplars are learned and measured with.

    Attributes:
        init: `(pixels f32[..., n, H, W, C]) -> ExemplarState`; for both halves
            stacked, [2, n, H, W, C], the states of both stacked.
        learn: `(state, LearnInputs, num) -> (state, metrics f32[num])`, outer
            steps judged by real images.
        adjust: `(states of both halves, AdjustInputs, num) -> (states, metrics
            f32[num])`, outer steps judged by the other half; each of them
            updates one half, A first, then B, then A.
        adapt: `(Situation, pixels) -> Variables`, the model after the inner
            steps, whatever the objective: what the exemplars teach.
        batch_loss: `(variables, batch, phase) -> f32[2]`, sum of cross
            entropies and of weights of a batch, without augmentation.
        begin_to_forget: `(variables, key) -> Variables`, and
        forget: `(variables, batch, phase, key) -> Variables`, see `forgetting`.
    """

    init: Callable[..., outer.ExemplarState]
    learn: Callable[..., tuple[outer.ExemplarState, dict[str, jax.Array]]]
    adjust: Callable[..., tuple[outer.ExemplarState, dict[str, jax.Array]]]
    adapt: Callable[..., Variables]
    batch_loss: Callable[..., jax.Array]
    begin_to_forget: Callable[..., Variables]
    forget: Callable[..., Variables]


def scale_of(step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """The factor f32[] of the outer rate at a step, see `DECAY`."""
    return jnp.asarray(DECAY)[step * len(DECAY) // num_steps]


def outer_step(
    context: Context,
    state: outer.ExemplarState,
    situation: Situation,
    tx: optax.GradientTransformation,
    scale: jax.Array,
) -> tuple[outer.ExemplarState, dict[str, jax.Array]]:
    """One update of the pixels; the same for new and for old exemplars."""
    layout, query = context.layout, objectives.query_of(situation)
    query = query._replace(images=layout.split(query.images))
    grads, metrics = objectives.pixel_gradient(
        context, situation._replace(query=query), state.pixels
    )
    # Gathered before the update: else it would be computed in parts, and both
    # the pixels and the moments of Adam would be gathered after it.
    state, grads = jax.tree.map(layout.gather, (state, grads))
    return outer.apply_gradient(state, grads, tx, scale), metrics


def learn(
    context: Context, state: ExemplarState, inputs: LearnInputs
) -> tuple[ExemplarState, dict[str, jax.Array]]:
    """One outer step judged by real images; see `Learner.learn`."""
    settings = context.settings
    batch = batch_at(inputs.block, state.step)
    key = jax.random.fold_in(inputs.key, state.step)
    step_key, augment_key = jax.random.split(key)
    images = augment.augment(
        augment_key,
        to_float(batch_images(batch)),
        batch['index'],
        settings.query_augmentation,
    )
    query = bilevel.Query(images, batch['label'], batch['weight'])
    if settings.balanced_queries:
        held = inputs.memory and inputs.memory.exemplars
        # The third key that the split would have given; the first two stay.
        old_key = jax.random.fold_in(key, 2)
        query = queries.balance(context, query, held, inputs.phase, old_key)
    situation = Situation(
        inputs.variables,
        inputs.exemplars,
        inputs.phase,
        step_key,
        query,
        inputs.memory,
        inputs.start,
    )
    scale = scale_of(state.step, inputs.num_steps)
    return outer_step(context, state, situation, settings.outer_tx, scale)


def adjust(
    context: Context, states: ExemplarState, inputs: AdjustInputs
) -> tuple[ExemplarState, dict[str, jax.Array]]:
    """One outer step of the half whose turn it is; see `Learner.adjust`."""
    settings = context.settings
    this = jnp.sum(states.step) % 2
    both = states, inputs.exemplars, inputs.keys
    state, exemplars, key = jax.tree.map(lambda x: x[this], both)
    other, others, _ = jax.tree.map(lambda x: x[1 - this], both)
    step_key, query_key = jax.random.split(jax.random.fold_in(key, state.step))
    index = draw_minibatches(query_key, others.mask, 1, settings.query_batch)[0]
    query = bilevel.Query(other.pixels[index], others.labels[index], index >= 0)
    changed, metrics = outer_step(
        context,
        state,
        Situation(
            inputs.variables,
            exemplars,
            inputs.phase,
            step_key,
            query,
            start=inputs.start,
        ),
        settings.adjust_tx,
        scale_of(state.step, inputs.num_steps),
    )
    states = jax.tree.map(lambda x, y: x.at[this].set(y), states, changed)
    return states, metrics


def adapt(
    context: Context, situation: Situation, pixels: jax.Array
) -> Variables:
    """The model that the exemplars teach; see `Learner.adapt`."""
    inner = objectives.inner_of(context, situation)
    inputs = bilevel.embed(inner.problem, inner.show(pixels))
    adapted, _ = bilevel.unroll(
        inner.problem, inner.params, inputs, inner.labels, inner.indices
    )
    return inner.merge(adapted)


def batch_loss(
    context: Context,
    variables: Variables,
    batch: dict[str, jax.Array],
    phase: Phase,
) -> jax.Array:
    """Cross entropy of a batch; see `Learner.batch_loss`."""
    images = to_float(batch_images(batch))
    outputs, _ = context.backbone.apply(variables, images)
    values = losses.cross_entropy(
        outputs.logits, batch['label'], phase.num_seen
    )
    weights = batch['weight']
    total = jnp.sum(weights)
    return jnp.stack([weighted_mean(values, weights) * total, total])


def make_learner(
    backbone: Backbone, settings: LearnerSettings, placement: Placement
) -> Learner:
    """Builds the jitted functions; each is compiled once per shape of pixels.

    Args:
        backbone: the model.
        settings: of both problems.
        placement: of query batches and inner minibatches.
    """
    context = Context(backbone, settings, layout_of(placement))

    def init(pixels):
        def one(pixels):
            return outer.init_state(jnp.copy(pixels), settings.outer_tx)

        return jax.vmap(one)(pixels) if pixels.ndim > 4 else one(pixels)

    def jit(function):
        return jax.jit(function, out_shardings=placement.replicated)

    return Learner(
        init=jit(init),
        learn=repeat(functools.partial(learn, context), placement, 'learn'),
        adjust=repeat(functools.partial(adjust, context), placement, 'adjust'),
        adapt=jit(functools.partial(adapt, context)),
        batch_loss=jit(functools.partial(batch_loss, context)),
        begin_to_forget=jit(forgetting.begin),
        forget=jit(functools.partial(forgetting.step, context)),
    )
