"""The inner update: a temporary model trained on the exemplars (Eq. 8).

    theta'(E) = T steps of  theta' <- theta' - a2 grad_theta' L(theta'; E)

The inner problem is any `loss_fn(params, inputs, labels) -> f32[b]` of
per-example losses. `inputs` are the pixels, or the output of an `embed`
function on them: if the inner steps freeze the first part of the model, that
part runs once instead of in every step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax.bilevel import microbatch
from mnemonics_jax.core.numerics import shares, weighted_sum

LossFn = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Layout(NamedTuple):
    """Placement of arrays on several devices; the default does nothing.

    Attributes:
        split: shards the rows of a batch [b, ...] over the devices.
        spread: converts [n, ...] to the form that `take` indexes.
        take: `(spread array, int32[b]) -> [b, ...]`, sharded as by `split`.
        share: shards the rows of an array that is kept from step to step.
        by_rows: `(function) -> function` that each device applies to its own
            rows; both are `[n, ...] -> [n, ...]`, row by row.
        alike: `(function) -> function` that every device computes by itself on
            replicated arguments, without any exchange.
    """

    split: Callable[[jax.Array], jax.Array] = lambda batch: batch
    spread: Callable[[jax.Array], jax.Array] = lambda x: x
    take: Callable[[jax.Array, jax.Array], jax.Array] = lambda x, i: x[i]
    share: Callable[[jax.Array], jax.Array] = lambda x: x
    by_rows: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda f: f
    alike: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda f: f


class InnerProblem(NamedTuple):
    """How the temporary model is trained on the exemplars.

    Attributes:
        loss_fn: `(params, inputs [b, ...], labels int32[b]) -> f32[b]`.
        tx: optax transform of the inner steps; `optax.sgd(a2)` in the paper.
        embed: `pixels [n, ...] -> inputs [n, ...]`, row by row; None for the
            identity.
        remat: recompute each inner step in the backward pass instead of storing
            it; each step then costs no more memory than a copy of the params.
        layout: placement of minibatches and query.
        microbatch: rows per microbatch, None for all. Minibatches and query are
            computed in microbatches, the last one padded; with `embed`, only
            the embedding is.
        replicate: whether every device takes the inner steps by itself, on all
            of `inputs`, instead of its share of each minibatch. For small
            inputs, such as features: exchanges would take longer.
    """

    loss_fn: LossFn
    tx: optax.GradientTransformation
    embed: Callable[[jax.Array], jax.Array] | None = None
    remat: bool = True
    layout: Layout = Layout()
    microbatch: int | None = None
    replicate: bool = False


def embed(problem: InnerProblem, pixels: jax.Array) -> jax.Array:
    """Inputs of `loss_fn` for pixels f32[n, ...]."""
    if problem.embed is None:
        return pixels
    return map_rows(problem.embed, pixels, problem.microbatch, problem.layout)


def map_rows(
    function: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    size: int | None,
    layout: Layout,
) -> jax.Array:
    """Applies `function` row by row, on all devices and in microbatches.

    Args:
        function: `[b, ...] -> [b, ...]`; what it closes over is not
            differentiated.
        x: [n, ...].
        size: rows per microbatch on all devices together, None for all.
        layout: placement of the rows.
    """
    num = 1 if size is None else max(1, -(-len(x) // size))

    def map_own(rows: jax.Array) -> jax.Array:
        own = -(-len(rows) // num)
        return microbatch.map_microbatches(function, rows, own)

    return layout.by_rows(map_own)(x)


def sum_over(
    problem: InnerProblem,
    function: Callable[[Any, jax.Array], Any],
    batch: Any,
    weights: jax.Array,
) -> Any:
    """Sum of `function` over the microbatches of a batch.

    Args:
        problem: sets the microbatch size.
        function: `(batch, weights) -> pytree`, a weighted sum over rows.
        batch: pytree of arrays [b, ...].
        weights: [b].
    """
    size = problem.microbatch
    if problem.embed is not None or size is None or size >= len(weights):
        return function(batch, weights)
    parts = microbatch.split(batch, size), microbatch.weights(weights, size)
    return microbatch.sum_microbatches(lambda part: function(*part), parts)


def on_every_device(
    problem: InnerProblem, function: Callable[..., Any]
) -> Callable[..., Any]:
    """`(problem, *arrays)`, a function, on every device; takes the arrays."""
    alone = problem._replace(layout=Layout(), replicate=False)
    return problem.layout.alike(functools.partial(function, alone))


def unroll(
    problem: InnerProblem,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
) -> tuple[Any, jax.Array]:
    """Trains `params` on `inputs` by T differentiable steps (the paper, Eq. 8).

    The steps run in a `lax.scan`, each under `jax.checkpoint` if
    `problem.remat`. Reverse mode of any order, no forward mode.

    Args:
        problem: the inner problem.
        params: pytree, initial params.
        inputs: f32[n, ...], embedded exemplars.
        labels: int32[n].
        indices: int32[T, b], the exemplars in each step's minibatch; -1 is
            padding. T = 0 returns `params`.

    Returns:
        The trained params, and the loss before each step, f32[T].

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
    # NumPy arrays cannot be indexed by traced indices.
    inputs, labels = jnp.asarray(inputs), jnp.asarray(labels)
    if problem.replicate:
        return on_every_device(problem, unroll)(params, inputs, labels, indices)
    inputs = problem.layout.spread(inputs)

    def part_loss(params, index, weights):
        # -1 reads the last row, which has weight 0.
        batch = problem.layout.take(inputs, index)
        values = problem.loss_fn(params, batch, labels[index])
        return weighted_sum(values, weights)

    def step(carry, index):
        params, opt_state = carry
        # Sum gradients, not losses: the outer derivative then goes through a
        # plain sum over microbatches.
        loss, grads = sum_over(
            problem,
            lambda *part: jax.value_and_grad(part_loss)(params, *part),
            index,
            shares(index >= 0),
        )
        updates, opt_state = problem.tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    if problem.remat:
        # Inside scan, XLA cannot merge it with the forward pass anyway.
        step = jax.checkpoint(step, prevent_cse=False)
    start = (params, problem.tx.init(params))
    (params, _), losses = jax.lax.scan(step, start, indices)
    return params, losses
