"""The outer update: a gradient step of the pixels on the query loss (Eq. 9).

    E <- E - b1 grad_E L(theta'(E); D),  clipped to [0, 1]

Adjusting old exemplars (Eq. 10a and 10b) is the same call with one half of them
as the pixels and the other half as the query, then vice versa.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mnemonics_jax.bilevel.inner import InnerProblem, embed, sum_over, unroll
from mnemonics_jax.core.numerics import shares, weighted_sum


class Query(NamedTuple):
    """Real data on which the adapted model is evaluated.

    Attributes:
        images: f32[q, ...], shaped like the pixels.
        labels: int32[q].
        weights: f32[q], 0 for padding.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class ExemplarState(struct.PyTreeNode):
    """State of learning a set of exemplars.

    Attributes:
        step: int32[], number of outer updates.
        pixels: f32[n, ...] in [0, 1].
        opt_state: state of the outer optax transform.
    """

    step: jax.Array
    pixels: jax.Array
    opt_state: Any


def init_state(
    pixels: jax.Array, tx: optax.GradientTransformation
) -> ExemplarState:
    """Initial state for pixels f32[n, ...] in [0, 1]."""
    return ExemplarState(jnp.zeros((), jnp.int32), pixels, tx.init(pixels))


def apply_gradient(
    state: ExemplarState,
    grads: jax.Array,
    tx: optax.GradientTransformation,
    scale: jax.Array | float = 1.0,
) -> ExemplarState:
    """One outer update of the pixels, clipped to [0, 1].

    Args:
        state: state before the update.
        grads: f32[n, ...], such as from `pixel_gradient`.
        tx: the outer optax transform.
        scale: f32[], factor of the update for learning rate decay.
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.pixels)
    pixels = jnp.clip(state.pixels + scale * updates, 0, 1)
    return ExemplarState(state.step + 1, pixels, opt_state)


def in_units(
    tx: optax.GradientTransformation, unit: jax.Array | float
) -> optax.GradientTransformation:
    """`tx` applied to the variable divided by `unit`.

    With the standard deviations of the data as `unit`, the updates are those of
    mean- and std-normalised pixels, to which the paper's learning rates refer.

    Args:
        tx: a transform.
        unit: > 0, broadcastable to the variable.
    """

    def init(params):
        return tx.init(params / jnp.asarray(unit, params.dtype))

    def update(grads, state, params=None):
        size = jnp.asarray(unit, grads.dtype)
        scaled = None if params is None else params / size
        updates, state = tx.update(grads * size, state, scaled)
        return updates * size, state

    return optax.GradientTransformation(init, update)


def outer_loss(
    problem: InnerProblem,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    query: Query,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss on `query` of the model trained on `pixels` (the paper, Eq. 9).

    Args:
        problem: the inner problem.
        params: initial params of the inner steps.
        pixels: f32[n, ...], the exemplars.
        labels: int32[n].
        indices: int32[T, b], see `unroll`.
        query: data of the outer loss; no gradient flows into it.

    Returns:
        The weighted mean loss, f32[], and metrics: 'outer_loss', and
        'inner_loss_first' and 'inner_loss', the minibatch losses before the
        first and the last inner step (NaN when T = 0).
    """
    inputs = embed(problem, pixels)
    adapted, losses = unroll(problem, params, inputs, labels, indices)
    query = jax.lax.stop_gradient(query)

    def part_loss(batch, weights):
        values = problem.loss_fn(
            adapted, problem.layout.split(batch[0]), batch[1]
        )
        return weighted_sum(values, weights)

    batch = embed(problem, query.images), query.labels
    loss = sum_over(problem, part_loss, batch, shares(query.weights))
    ends = (losses[0], losses[-1]) if losses.size else (jnp.nan, jnp.nan)
    metrics = {
        'outer_loss': loss,
        'inner_loss_first': ends[0],
        'inner_loss': ends[1],
    }
    return loss, metrics


def pixel_gradient(
    problem: InnerProblem,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    query: Query,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gradient of the outer loss with respect to the pixels (Eq. 9).

    Exact: reverse mode through all T inner steps. With `remat`, each step needs
    memory for one copy of the params.

    Args:
        problem: the inner problem.
        params: initial params of the inner steps.
        pixels: f32[n, ...], the exemplars.
        labels: int32[n].
        indices: int32[T, b], see `unroll`.
        query: data of the outer loss.

    Returns:
        The gradient, f32[n, ...], and the metrics of `outer_loss`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mnemonics_jax import InnerProblem, Query, pixel_gradient
        >>> def loss_fn(params, inputs, labels):
        ...     return 0.5 * (inputs @ params - labels) ** 2
        >>> problem = InnerProblem(loss_fn, optax.sgd(0.5))
        >>> query = Query(jnp.ones((1, 1)), jnp.array([1]), jnp.ones(1))
        >>> grads, metrics = pixel_gradient(  # Of 0.5 (0.5 x - 1)^2 at x = 1.
        ...     problem, jnp.zeros(1), jnp.ones((1, 1)), jnp.array([1]),
        ...     jnp.array([[0]]), query,
        ... )
        >>> grads.tolist(), metrics['outer_loss'].tolist()
        ([[-0.25]], 0.125)
    """

    def loss_of(pixels):
        return outer_loss(problem, params, pixels, labels, indices, query)

    grads, metrics = jax.grad(loss_of, has_aux=True)(pixels)
    return grads, metrics
