"""Objectives: the losses that pixels are learned by, by name.

`unroll` is the paper's bilevel problem, differentiated as `hypergradients`
says. `means` and `prototypes` have one level, no inner steps and no temporary
model: they fit the features of the exemplars, by the current model f, to the
nearest-mean rule (NME). Below, u(x) = x / |x|, and the mean of a class c over a
set S,

    m_c(S) = mean over the images x of class c in S of u(f(x)),

includes the mirror images of exemplars where NME's means do. E are the
exemplars, Q is the query, w its weights.

`a+means` is the sum of `a` and of `means_weight` times `means`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemonics_jax import bilevel, losses
from mnemonics_jax.bilevel import hypergradients
from mnemonics_jax.core.numerics import shares, unit, weighted_sum
from mnemonics_jax.data import augment
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    LearnerContext,
    inner_problem,
)
from mnemonics_jax.prototypes import exact_product, labelled_means
from mnemonics_jax.types import Variables

Metrics = dict[str, jax.Array]

# Scale of cosines in `prototypes` for heads without a learned one (iCaRL).
SCALE = 10.0


Objective = Callable[
    [LearnerContext, ExemplarProblem, jax.Array], tuple[jax.Array, Metrics]
]


def unroll(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The loss of the model trained on the pixels (the paper, Eq. 8 and 9).

        L(theta'(E); Q),  theta' after T steps on E

    Args:
        context: constants of the learner; they name the hypergradient.
        problem: with a `bilevel.Query`.
        pixels: f32[n, H, W, C] in [0, 1].

    Returns:
        f32[], weighted mean cross entropy in nats, and the metrics of
        `bilevel.outer_loss`.
    """
    inner, settings = inner_problem(context, problem), context.settings
    loss_of = hypergradients.make_outer_loss(
        settings.hypergradient, settings.hypergradient_terms
    )
    return loss_of(
        inner.problem,
        inner.params,
        inner.show(pixels),
        inner.labels,
        inner.indices,
        problem.query,
    )


def means(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Distance of the exemplars' class means from those of the query.

        mean over c in C of 1 - cos(m_c(E), m_c(Q))

    C are the classes that have exemplars and images in the query of this step.
    A weight of the query only says whether an image is padding.

    Args:
        context: constants of the learner.
        problem: with a `bilevel.Query`.
        pixels: f32[n, H, W, C] in [0, 1].

    Returns:
        f32[] in [0, 2], 0 if C is empty, and the metric 'outer_loss'.
    """
    loss = _gap(problem, _embed(context, problem, pixels))
    return loss, {'outer_loss': loss}


def prototypes(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Cross entropy of the query under the nearest-mean rule.

        sum w_i CE(s <u(f(x_i)), u(m_c)>_c, y_i) / sum w_i

    over the classes that have a mean: m_c(E) for exemplars that are learned,
    else that of the old exemplars in memory, which stay unchanged. The scale s
    is that of the model's head, or `SCALE`. Images of classes without a mean
    have weight 0. Arguments are those of `means`.

    Returns:
        f32[], weighted mean cross entropy in nats, and the metric 'outer_loss'.
    """
    loss = _confusion(problem, _embed(context, problem, pixels))
    return loss, {'outer_loss': loss}


def prototypes_and_means(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The sum of both, with features computed once; see the module."""
    embedded = _embed(context, problem, pixels)
    loss = _confusion(problem, embedded)
    return _add_gap(context, loss, {}, _gap(problem, embedded))


def unroll_and_means(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The bilevel problem plus `means`; see the module."""
    loss, metrics = unroll(context, problem, pixels)
    gap, _ = means(context, problem, pixels)
    return _add_gap(context, loss, metrics, gap)


def _add_gap(context, loss, metrics, gap):
    total = loss + context.settings.means_weight * gap
    return total, {**metrics, 'outer_loss': total, 'means_loss': gap}


class _Embedded(NamedTuple):
    """Means of exemplars f32[K, D], which classes have one, and the query."""

    means: jax.Array
    have: jax.Array
    query: jax.Array


def _embed(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> _Embedded:
    found = features(context, problem.variables, problem.query.images)
    return _Embedded(*exemplar_means(context, problem, pixels), unit(found))


def _gap(problem: ExemplarProblem, embedded: _Embedded) -> jax.Array:
    query = problem.query
    theirs, have_theirs = labelled_means(
        embedded.query, query.labels, query.weights > 0, len(embedded.means)
    )
    cosines = jnp.sum(unit(embedded.means) * unit(theirs), axis=-1)
    weights = shares((embedded.have & have_theirs).astype(cosines.dtype))
    return weighted_sum(1 - cosines, weights)


def _confusion(problem: ExemplarProblem, embedded: _Embedded) -> jax.Array:
    query, (centres, have, found) = problem.query, embedded
    if problem.old is not None:
        old = problem.old.means.astype(centres.dtype)
        centres = jnp.where(have[:, None], centres, old)
        have |= jnp.any(problem.old.exemplars.mask, axis=1)
    cosines = exact_product(found, unit(centres).T)
    scale = problem.variables.params['head'].get('sigma', SCALE)
    # Finite, as in `losses.mask_logits`.
    logits = jnp.where(have, scale * cosines, -1e9)
    values = losses.cross_entropy(logits, query.labels, len(have))
    return weighted_sum(values, shares(query.weights * have[query.labels]))


def exemplar_means(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Class means of the exemplars, as in NME; augmented with `inner_augment`.

    Returns:
        f32[K, D], zeros for classes without exemplars; bool[K], false for them.
    """
    settings, exemplars = context.settings, problem.exemplars
    if settings.inner_augment:
        pixels = augment.augment(
            jax.random.fold_in(problem.key, 2),
            pixels,
            jnp.arange(len(pixels)),
            settings.augmentation,
        )
    views = [pixels, pixels[:, :, ::-1]] if settings.mirror else [pixels]
    # Each by itself: on several devices, half of a batch of both views would
    # move to another device.
    units = [unit(features(context, problem.variables, v)) for v in views]
    return labelled_means(
        functools.reduce(jnp.add, units) / len(units),
        exemplars.labels,
        exemplars.mask,
        len(problem.variables.params['head']['kernel']),
    )


def features(
    context: LearnerContext, variables: Variables, images: jax.Array
) -> jax.Array:
    """Features f32[b, D] of images f32[b, H, W, C], in microbatches if set."""
    return bilevel.map_rows(
        lambda images: context.backbone.embed(variables, images)[0],
        images,
        context.settings.microbatch,
        context.layout,
    )


OBJECTIVES: dict[str, Objective] = {
    'unroll': unroll,
    'means': means,
    'prototypes': prototypes,
    'unroll+means': unroll_and_means,
    'prototypes+means': prototypes_and_means,
}


def pixel_gradient(
    context: LearnerContext, problem: ExemplarProblem, pixels: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Gradient of the chosen objective in the pixels, and its metrics.

    Where a codec stores the pixels, the objective is that of the stored images,
    and the gradient passes straight through the codec's rounding.

    Args:
        context: constants of the learner; they name the objective.
        problem: with a `bilevel.Query`.
        pixels: f32[n, H, W, C] in [0, 1].

    Returns:
        f32[n, H, W, C], and the metrics, scalars.
    """
    objective = OBJECTIVES[context.settings.objective]
    shown = context.settings.shown

    def loss_of(pixels):
        if shown is not None and problem.kept is not None:
            pixels = shown(pixels, problem.kept)
        return objective(context, problem, pixels)

    return jax.grad(loss_of, has_aux=True)(pixels)


def unrolls(objective: str) -> bool:
    """Whether the pixels are learned through inner steps."""
    return 'unroll' in objective.split('+')


def reads_old(objective: str) -> bool:
    """Whether an objective reads the exemplars of old classes."""
    return 'prototypes' in objective.split('+')
