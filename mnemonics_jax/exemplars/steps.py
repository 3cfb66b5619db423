"""One outer step on exemplars: of new ones (Eq. 9) and of old ones (Eq. 10).

New exemplars have real images of their classes as the query, old ones the other
half of the memory.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnemonics_jax import bilevel, losses
from mnemonics_jax.bilevel import ExemplarState
from mnemonics_jax.core.multistep import Metrics, batch_at, repeat
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.core.parallel import Placement
from mnemonics_jax.core.rng import draw_minibatches
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import batch_images, to_float
from mnemonics_jax.exemplars import objectives
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    LearnerContext,
    LearnerSettings,
    inner_problem,
    layout_of,
)
from mnemonics_jax.types import Backbone, Phase, Variables

# The outer rate is halved after each fifth of the steps, as the paper's after
# each 10 of 50 epochs.
DECAY = 0.5 ** np.arange(5, dtype=np.float32)


class Learner(NamedTuple):
    """The jitted functions that exemplars are learned and measured with.

    Attributes:
        placement: placement of query batches and inner minibatches.
        init: `(pixels f32[..., n, H, W, C]) -> ExemplarState`; for both halves
            stacked, [2, n, H, W, C], the states of both stacked.
        learn: `(state, ExemplarProblem, num) -> (state, metrics f32[num])`,
            outer steps on query images (the paper, Eq. 9). The problem's query
            is `multistep.StackedBatches` of real images (`image` or `pool` and
            `row`, `label`, `index`, `weight`, as in `train.Trainer`).
        adjust: `(states of both halves, ExemplarProblem, num) -> (states,
            metrics f32[num])`, outer steps with the other half as the query
            (Eq. 10); each updates one half: A first, then B, then A.
        adapt: `(ExemplarProblem, pixels) -> Variables`, the model after the
            inner steps (Eq. 8), for every objective.
        batch_loss: `(variables, batch, phase) -> f32[2]`, sum of cross
            entropies and of weights of a batch, without augmentation.
    """

    placement: Placement
    init: Callable[..., ExemplarState]
    learn: Callable[..., tuple[ExemplarState, Metrics]]
    adjust: Callable[..., tuple[ExemplarState, Metrics]]
    adapt: Callable[..., Variables]
    batch_loss: Callable[..., jax.Array]


def scale_of(step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """The factor f32[] of the outer rate at a step, see `DECAY`."""
    return jnp.asarray(DECAY)[step * len(DECAY) // num_steps]


def outer_step(
    context: LearnerContext,
    state: ExemplarState,
    problem: ExemplarProblem,
    tx: optax.GradientTransformation,
) -> tuple[ExemplarState, Metrics]:
    """One update of the pixels, of new or of old exemplars."""
    layout, query = context.layout, problem.query
    query = query._replace(images=layout.split(query.images))
    grads, metrics = objectives.pixel_gradient(
        context, problem._replace(query=query), state.pixels
    )
    # Laid out before the update as the state is: pixels that every device holds
    # would else be updated in parts, and gathered with their moments after it.
    state, grads = jax.tree.map(layout.share, (state, grads))
    scale = scale_of(state.step, problem.num_steps)
    return bilevel.apply_gradient(state, grads, tx, scale), metrics


def learn(
    context: LearnerContext, state: ExemplarState, problem: ExemplarProblem
) -> tuple[ExemplarState, Metrics]:
    """One outer step on query images; see `Learner.learn`."""
    settings = context.settings
    batch = batch_at(problem.query, state.step)
    step_key, augment_key = jax.random.split(
        jax.random.fold_in(problem.key, state.step)
    )
    images = augment.augment(
        augment_key,
        to_float(batch_images(batch), state.pixels.dtype),
        batch['index'],
        settings.query_augmentation,
    )
    weights = batch['weight'].astype(images.dtype)
    query = bilevel.Query(images, batch['label'], weights)
    problem = problem._replace(key=step_key, query=query)
    return outer_step(context, state, problem, settings.outer_tx)


def adjust(
    context: LearnerContext, states: ExemplarState, problem: ExemplarProblem
) -> tuple[ExemplarState, Metrics]:
    """One outer step of the half whose turn it is; see `Learner.adjust`."""
    settings = context.settings
    this = jnp.sum(states.step) % 2
    both = states, problem.exemplars, problem.key
    state, exemplars, key = jax.tree.map(lambda x: x[this], both)
    other, others, _ = jax.tree.map(lambda x: x[1 - this], both)
    step_key, query_key = jax.random.split(jax.random.fold_in(key, state.step))
    # A class with one exemplar has it in A: B is not trained on the class, and
    # cannot learn from its image.
    taught = jnp.zeros(len(problem.variables.params['head']['kernel']), bool)
    taught = taught.at[exemplars.labels].max(exemplars.mask)
    usable = others.mask & taught[others.labels]
    index = draw_minibatches(query_key, usable, 1, settings.query_batch)[0]
    query = bilevel.Query(other.pixels[index], others.labels[index], index >= 0)
    problem = problem._replace(exemplars=exemplars, key=step_key, query=query)
    state, metrics = outer_step(context, state, problem, settings.adjust_tx)
    states = jax.tree.map(lambda x, y: x.at[this].set(y), states, state)
    return states, metrics


def adapt(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> Variables:
    """The model trained on the exemplars; see `Learner.adapt`."""
    inner = inner_problem(context, problem)
    inputs = bilevel.embed(inner.problem, inner.show(pixels))
    adapted, _ = bilevel.unroll(
        inner.problem, inner.params, inputs, inner.labels, inner.indices
    )
    return inner.merge(adapted)


def batch_loss(
    context: LearnerContext,
    variables: Variables,
    batch: dict[str, jax.Array],
    phase: Phase,
) -> jax.Array:
    """Cross entropy of a batch; see `Learner.batch_loss`."""
    images = to_float(batch_images(batch), variables.dtype)
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
        settings: constants of both problems.
        placement: placement of query batches and inner minibatches.
    """
    context = LearnerContext(backbone, settings, layout_of(placement))

    def init(pixels):
        def one(pixels):
            return bilevel.init_state(jnp.copy(pixels), settings.outer_tx)

        axis = pixels.ndim - 4
        state = jax.vmap(one)(pixels) if axis else one(pixels)
        return jax.tree.map(
            functools.partial(placement.share, axis=axis), state
        )

    def jit(function):
        return jax.jit(function, out_shardings=placement.replicated)

    return Learner(
        placement=placement,
        init=jax.jit(init),
        learn=repeat(
            functools.partial(learn, context), placement, 'learn', axis=0
        ),
        adjust=repeat(
            functools.partial(adjust, context), placement, 'adjust', axis=1
        ),
        adapt=jit(functools.partial(adapt, context)),
        batch_loss=jit(functools.partial(batch_loss, context)),
    )
