"""Learning exemplars inside a model: the paper's local bilevel problems.

New exemplars are judged by real images (the paper, Eq. 8 and 9), old ones by
each other's half (Eq. 10).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax import augment, bilevel, losses
from mnemonics_jax.inner import (
    Context,
    Exemplars,
    Inner,
    LearnerSettings,
    draw_minibatches,
    inner_problem,
)
from mnemonics_jax.numerics import batch_images, to_float, weighted_mean
from mnemonics_jax.parallel import Placement
from mnemonics_jax.types import Backbone, Variables


class Learner(NamedTuple):
    """The jitted functions that exemplars are learned and measured with.

    Attributes:
        init: `(pixels f32[n, H, W, C]) -> ExemplarState`.
        learn: `(state, exemplars, variables, phase, batch, scale, key) ->
            (state, metrics)`: one outer step, judged by a batch of real images
            (`image`, `label`, `index`, `weight` as in `train.Trainer`).
        adjust: `(state, exemplars, variables, phase, other_pixels,
            other_exemplars, scale, key) -> (state, metrics)`: one outer step,
            judged by other exemplars.
        adapt: `(variables, pixels, exemplars, phase, key) -> Variables`, the
            model after the inner steps: what the exemplars teach.
        batch_loss: `(variables, batch, phase) -> f32[2]`, sum of cross
            entropies and of weights of a batch, without augmentation.
    """

    init: Callable[..., bilevel.ExemplarState]
    learn: Callable[..., tuple[bilevel.ExemplarState, dict[str, jax.Array]]]
    adjust: Callable[..., tuple[bilevel.ExemplarState, dict[str, jax.Array]]]
    adapt: Callable[..., Variables]
    batch_loss: Callable[..., jax.Array]


def outer_step(
    context: Context,
    state: bilevel.ExemplarState,
    exemplars: Exemplars,
    inner: Inner,
    query: bilevel.Query,
    tx: optax.GradientTransformation,
    scale: jax.Array,
) -> tuple[bilevel.ExemplarState, dict[str, jax.Array]]:
    """One update of the pixels; the same for new and for old exemplars."""
    query = query._replace(images=context.split(query.images))
    grads, metrics = bilevel.pixel_gradient(
        inner.problem,
        inner.params,
        state.pixels,
        exemplars.labels,
        inner.indices,
        query,
    )
    return bilevel.apply_gradient(state, grads, tx, scale), metrics


def learn(
    context: Context, state, exemplars, variables, phase, batch, scale, key
):
    """One outer step judged by real images; see `Learner.learn`."""
    settings = context.settings
    step_key, augment_key = jax.random.split(
        jax.random.fold_in(key, state.step)
    )
    inner = inner_problem(context, variables, exemplars, phase, step_key)
    images = augment.augment(
        augment_key,
        to_float(batch_images(batch)),
        batch['index'],
        settings.query_augmentation,
    )
    query = bilevel.Query(images, batch['label'], batch['weight'])
    return outer_step(
        context, state, exemplars, inner, query, settings.outer_tx, scale
    )


def adjust(
    context: Context,
    state,
    exemplars,
    variables,
    phase,
    other_pixels,
    others,
    scale,
    key,
):
    """One outer step judged by other exemplars; see `Learner.adjust`."""
    step_key, query_key = jax.random.split(jax.random.fold_in(key, state.step))
    inner = inner_problem(context, variables, exemplars, phase, step_key)
    settings = context.settings
    index = draw_minibatches(query_key, others.mask, 1, settings.query_batch)[0]
    query = bilevel.Query(other_pixels[index], others.labels[index], index >= 0)
    return outer_step(
        context, state, exemplars, inner, query, settings.adjust_tx, scale
    )


def adapt(
    context: Context, variables, pixels, exemplars, phase, key
) -> Variables:
    """The model that the exemplars teach; see `Learner.adapt`."""
    inner = inner_problem(context, variables, exemplars, phase, key)
    inputs = inner.problem.embed(pixels)
    adapted, _ = bilevel.unroll(
        inner.problem, inner.params, inputs, exemplars.labels, inner.indices
    )
    return inner.merge(adapted)


def batch_loss(context: Context, variables, batch, phase) -> jax.Array:
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
    context = Context(backbone, settings, placement.split)

    def jit(function, **kwargs):
        return jax.jit(function, out_shardings=placement.replicated, **kwargs)

    return Learner(
        init=jit(lambda p: bilevel.init_state(jnp.copy(p), settings.outer_tx)),
        learn=jit(functools.partial(learn, context), donate_argnums=0),
        adjust=jit(functools.partial(adjust, context), donate_argnums=0),
        adapt=jit(functools.partial(adapt, context)),
        batch_loss=jit(functools.partial(batch_loss, context)),
    )
