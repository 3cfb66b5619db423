"""The bilevel problem: pixels that train a model well on other data.

Inside, a temporary copy of the model takes T gradient steps on the exemplars;
outside, the loss of that copy on query data is differentiated through all T
steps down to the exemplars' pixels (the paper, Eq. 8 and 9):

    theta'(E) = T steps of  theta' <- theta' - a2 grad_theta' L(theta'; E)
    E <- E - b1 grad_E L(theta'(E); D)

Adjusting old exemplars (Eq. 10a and 10b) is the same call with one half of them
as the pixels and the other half as the query, then the other way round.

Nothing here knows of classes, phases or networks. The inner problem is any
`loss_fn(params, inputs, labels) -> f32[b]` of per-example losses. `inputs` are
the pixels themselves, or what an `embed` function of pixels makes of them: when
the inner steps leave the first part of the model alone, that part runs once and
not in every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax import pieces
from mnemonics_jax.core.numerics import shares, weighted_sum

LossFn = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Query(NamedTuple):
    """Real data that the adapted model is judged by.

    Attributes:
        images: f32[q, ...], as the pixels.
        labels: int32[q].
        weights: f32[q], 0 for padding.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class Layout(NamedTuple):
    """Where rows lie when there are several devices; by default nowhere.

    Attributes:
        split: places a batch [b, ...] on the devices, each a share of its rows.
        spread: makes of [n, ...] what `take` takes rows from.
        take: `(what spread made, int32[b]) -> [b, ...]`, placed as by `split`.
        gather: places the whole of an array on every device.
    """

    split: Callable[[jax.Array], jax.Array] = lambda batch: batch
    spread: Callable[[jax.Array], jax.Array] = lambda x: x
    take: Callable[[jax.Array, jax.Array], jax.Array] = lambda x, i: x[i]
    gather: Callable[[jax.Array], jax.Array] = lambda x: x


class InnerProblem(NamedTuple):
    """How the temporary model is trained on the exemplars.

    Attributes:
        loss_fn: `(params, inputs [b, ...], labels int32[b]) -> f32[b]`.
        tx: optax transform of the inner steps; `optax.sgd(a2)` in the paper.
        embed: `pixels [n, ...] -> inputs [n, ...]`, each row for itself; None
            for the pixels themselves.
        remat: recompute each inner step in the backward pass instead of storing
            it, so that each step adds no more than a copy of the params.
        layout: placement of minibatches and of the query.
        microbatch: rows in work at once, None for all: minibatches and the
            query are taken in such pieces, the last one padded. With `embed`
            it is the embedding that is done in pieces, and `loss_fn`, which
            then sees its results, is not.
    """

    loss_fn: LossFn
    tx: optax.GradientTransformation
    embed: Callable[[jax.Array], jax.Array] | None = None
    remat: bool = True
    layout: Layout = Layout()
    microbatch: int | None = None


def embed(problem: InnerProblem, pixels: jax.Array) -> jax.Array:
    """What `loss_fn` is given of pixels f32[n, ...]."""
    if problem.embed is None:
        return pixels
    return pieces.map_pieces(problem.embed, pixels, problem.microbatch)


def sum_over(
    problem: InnerProblem,
    function: Callable[[Any, jax.Array], Any],
    batch: Any,
    weights: jax.Array,
) -> Any:
    """Sum of `function` over the pieces of a batch.

    Args:
        problem: its `microbatch`.
        function: `(batch, weights) -> pytree`, sums over rows by weight.
        batch: pytree of arrays [b, ...].
        weights: [b].
    """
    size = problem.microbatch
    if problem.embed is not None or size is None or size >= len(weights):
        return function(batch, weights)
    parts = pieces.split(batch, size), pieces.weights(weights, size)
    return pieces.sum_pieces(lambda part: function(*part), parts)


def unroll(
    problem: InnerProblem,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
) -> tuple[Any, jax.Array]:
    """Trains `params` on `inputs` by T differentiable steps (the paper, Eq. 8).

    Reverse mode only, once or more: the steps run in a `lax.scan`, each under
    `jax.checkpoint` if `problem.remat`.

    Args:
        problem: the inner problem.
        params: pytree, where the steps start.
        inputs: f32[n, ...], embedded exemplars.
        labels: int32[n].
        indices: int32[T, b], the exemplars in each step's minibatch; -1 is
            padding. T = 0 returns `params`.

    Returns:
        The trained params, and f32[T], the loss before each step.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mnemonics_jax import InnerProblem, unroll
        >>> def loss_fn(params, inputs, labels):
        ...     return 0.5 * (inputs @ params - labels) ** 2
        >>> problem = InnerProblem(loss_fn, optax.sgd(0.5))
        >>> inputs, labels = jnp.eye(2), jnp.array([1, 0])
        >>> indices = jnp.array([[0, 1], [0, -1]])  # Both, then the first.
        >>> params, losses = unroll(
        ...     problem, jnp.zeros(2), inputs, labels, indices
        ... )
        >>> params.tolist(), losses.tolist()
        ([0.625, 0.0], [0.25, 0.28125])
    """
    # NumPy arrays cannot be indexed by the traced indices of a scan.
    inputs = problem.layout.spread(jnp.asarray(inputs))
    labels = jnp.asarray(labels)

    def part_loss(params, index, weights):
        # -1 reads the last row; its weight 0 keeps it out of loss and gradient.
        batch = problem.layout.take(inputs, index)
        values = problem.loss_fn(params, batch, labels[index])
        return weighted_sum(values, weights)

    def step(carry, index):
        params, opt_state = carry
        # The gradients of pieces are added, rather than that of their sum
        # taken, so that what is differentiated again is a plain sum.
        loss, grads = sum_over(
            problem,
            lambda *part: jax.value_and_grad(part_loss)(params, *part),
            index,
            shares(index >= 0),
        )
        updates, opt_state = problem.tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    if problem.remat:
        # Inside scan nothing can be merged with the forward pass anyway.
        step = jax.checkpoint(step, prevent_cse=False)
    start = (params, problem.tx.init(params))
    (params, _), losses = jax.lax.scan(step, start, indices)
    return params, losses


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
        params: where the inner steps start.
        pixels: f32[n, ...], the exemplars.
        labels: int32[n].
        indices: int32[T, b], see `unroll`.
        query: the data to do well on; no gradient flows into it.

    Returns:
        f32[], the weighted mean loss, and metrics: 'outer_loss', and the
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

    judged = embed(problem, query.images), query.labels
    loss = sum_over(problem, part_loss, judged, shares(query.weights))
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
    """Gradient of the outer loss in the pixels (in the paper's Eq. 9).

    Exact: through all T inner steps, by reverse mode. Memory grows with T by a
    copy of the params a step, with `remat`.

    Args:
        problem: the inner problem.
        params: where the inner steps start.
        pixels: f32[n, ...], the exemplars.
        labels: int32[n].
        indices: int32[T, b], see `unroll`.
        query: the data to do well on.

    Returns:
        f32[n, ...], loss by pixel, and the metrics of `outer_loss`.

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
