"""Gradients of the outer loss with respect to the pixels.

All have the signature of `bilevel.pixel_gradient`, the exact gradient. Let Phi
be one inner step and g the gradient of the query loss at the adapted params.
If the inner steps have converged, theta = Phi(theta, E), the implicit function
theorem gives

    dL / dE = (dPhi / dE)^T u,    (I - dPhi / dtheta)^T u = g.

| name | method | memory | steps differentiated |
|---|---|---|---|
| `unroll` | exact, through all T (the paper, Eq. 9) | T params | T |
| `truncated` | through the last `terms` only | `terms` params | `terms` |
| `neumann` | u = sum, k < `terms`, of (dPhi/dtheta)^Tk g | one step | `terms` |
| `cg` | u by `terms` conjugate gradients | one step | `terms` |

`neumann` and `cg` are wrong where the inner problem has not converged, however
many terms they use. `cg` also assumes a positive definite Hessian of the inner
loss, which a network need not have; `neumann` does not, but converges as slowly
as the inner steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax.bilevel import arguments
from mnemonics_jax.bilevel.inner import (
    InnerProblem,
    embed,
    on_every_device,
    sum_over,
    unroll,
)
from mnemonics_jax.bilevel.outer import Query, outer_loss, pixel_gradient
from mnemonics_jax.core.numerics import shares, weighted_sum

Hypergradient = Callable[
    [InnerProblem, Any, jax.Array, jax.Array, jax.Array, Query],
    tuple[jax.Array, dict[str, jax.Array]],
]
# The same signature, returning the loss f32[] instead of its gradient.
OuterLoss = Hypergradient
NAMES = ('unroll', 'truncated', 'neumann', 'cg')


def make_hypergradient(name: str, terms: int) -> Hypergradient:
    """Makes a hypergradient by name.

    Args:
        name: one of `NAMES`.
        terms: > 0, terms of the approximation; ignored by `unroll`.

    Returns:
        `(problem, params, pixels, labels, indices, query) -> (grads, metrics)`,
        as `bilevel.pixel_gradient`.

    Raises:
        ValueError: `name` is unknown, or `terms` is not positive.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from mnemonics_jax import InnerProblem, Query, make_hypergradient
        >>> def loss_fn(params, inputs, labels):
        ...     return 0.5 * (inputs @ params - labels) ** 2
        >>> problem = InnerProblem(loss_fn, optax.sgd(0.5))
        >>> query = Query(jnp.ones((1, 1)), jnp.array([2]), jnp.ones(1))
        >>> gradient = make_hypergradient('cg', terms=1)
        >>> grads, _ = gradient(  # The converged param is 1 / x: (1 - 2) * -1.
        ...     problem, jnp.ones(1), jnp.ones((1, 1)), jnp.array([1]),
        ...     jnp.zeros((20, 1), int), query,
        ... )
        >>> grads.tolist()
        [[1.0]]
    """
    if name not in NAMES:
        raise ValueError(
            f'hypergradient={name!r}: must be one of {", ".join(NAMES)}'
        )
    if name == 'unroll':
        return pixel_gradient
    arguments.check_count('terms', terms)
    if name == 'truncated':
        return functools.partial(truncated, terms=terms)
    solve = {'neumann': neumann_series, 'cg': conjugate_gradients}[name]
    return functools.partial(implicit, solve=functools.partial(solve, terms))


def make_outer_loss(name: str, terms: int) -> OuterLoss:
    """`bilevel.outer_loss` with the named hypergradient as its gradient.

    Other loss terms can be added before the sum is differentiated.

    Args:
        name: one of `NAMES`; `unroll` is `bilevel.outer_loss` itself.
        terms: see `make_hypergradient`.

    Returns:
        `(problem, params, pixels, labels, indices, query) -> (loss, metrics)`,
        differentiable once, with respect to the pixels only.

    Raises:
        ValueError: as `make_hypergradient`.
    """
    gradient = make_hypergradient(name, terms)
    if name == 'unroll':
        return outer_loss

    def loss_of(
        problem: InnerProblem,
        params: Any,
        pixels: jax.Array,
        labels: jax.Array,
        indices: jax.Array,
        query: Query,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        fixed = jax.lax.stop_gradient(pixels)
        grads, metrics = jax.lax.stop_gradient(
            gradient(problem, params, fixed, labels, indices, query)
        )
        # Adds zero to the value and `grads` to the gradient.
        return metrics['outer_loss'] + jnp.vdot(grads, pixels - fixed), metrics

    return loss_of


def truncated(
    problem: InnerProblem,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    query: Query,
    *,
    terms: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The gradient through the last `terms` inner steps; exact if T <= terms.

    Earlier steps update the params but are treated as constant.

    Raises:
        ValueError: the inner transform has a state, see `check_stateless`.
    """
    check_stateless(problem.tx, params)
    first = max(0, len(indices) - terms)
    inputs = jax.lax.stop_gradient(embed(problem, pixels))
    params, losses = unroll(problem, params, inputs, labels, indices[:first])
    grads, metrics = pixel_gradient(
        problem, params, pixels, labels, indices[first:], query
    )
    if first:
        metrics = {**metrics, 'inner_loss_first': losses[0]}
    return grads, metrics


def implicit(
    problem: InnerProblem,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    query: Query,
    *,
    solve: Callable[..., Any],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The gradient by the implicit function theorem, at the adapted params.

    Phi is one step on the union of all minibatches, each exemplar weighted by
    how often it occurs in them.

    Args:
        problem: the inner problem.
        params: initial params of the inner steps.
        pixels: f32[n, ...].
        labels: int32[n].
        indices: int32[T, b], T > 0.
        query: data of the outer loss.
        solve: `(step_vjp, is_trained, g) -> u`.

    Raises:
        ValueError: there is no inner step, or the transform has a state.
    """
    check_stateless(problem.tx, params)
    if not len(indices):
        raise ValueError('inner_steps=0: must be an integer >= 1')
    weights = counts(indices, len(labels))

    def query_loss(adapted: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        no_steps = indices[:0]
        return outer_loss(problem, adapted, pixels, labels, no_steps, query)

    inputs, embed_vjp = jax.vjp(functools.partial(embed, problem), pixels)
    adapted, losses = unroll(problem, params, inputs, labels, indices)
    grads, metrics = jax.grad(query_loss, has_aux=True)(adapted)
    _, vjp = jax.vjp(
        lambda params, rows: inner_step(problem, params, rows, labels, weights),
        adapted,
        inputs,
    )
    u = solve(lambda v: vjp(v)[0], trained(problem.tx, adapted), grads)
    (pixel_grads,) = embed_vjp(vjp(u)[1])
    ends = {'inner_loss_first': losses[0], 'inner_loss': losses[-1]}
    return pixel_grads, {**metrics, **ends}


def check_stateless(tx: optax.GradientTransformation, params: Any) -> None:
    """Raises ValueError if an inner transform has state.

    Truncation and the theorem need steps that depend on the params only.
    """
    if jax.tree.leaves(jax.eval_shape(tx.init, params)):
        raise ValueError(
            'inner transform with state: must be stateless, such as optax.sgd '
            "without momentum, or use hypergradient='unroll'"
        )


def counts(indices: jax.Array, num: int) -> jax.Array:
    """Occurrences f32[num] of each exemplar in int32[T, b]; -1 is padding."""
    flat = jnp.asarray(indices).reshape(-1)
    return jnp.zeros(num).at[flat].add(jnp.where(flat >= 0, 1.0, 0.0))


def inner_step(
    problem: InnerProblem,
    params: Any,
    inputs: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> Any:
    """Params after one step on all weighted inputs: Phi in the module text."""
    if problem.replicate:
        alike = on_every_device(problem, inner_step)
        return alike(params, inputs, jnp.asarray(labels), weights)

    def part_loss(params, rows, weights):
        values = problem.loss_fn(params, problem.layout.split(rows[0]), rows[1])
        return weighted_sum(values, weights)

    grads = sum_over(
        problem,
        lambda *part: jax.grad(part_loss)(params, *part),
        (inputs, jnp.asarray(labels)),
        shares(weights),
    )
    updates, _ = problem.tx.update(grads, problem.tx.init(params), params)
    return optax.apply_updates(params, updates)


def trained(tx: optax.GradientTransformation, params: Any) -> Any:
    """1 where a transform changes params, 0 where it freezes them."""
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    return jax.tree.map(lambda x: (x != 0).astype(x.dtype), updates)


def neumann_series(
    terms: int, step_vjp: Callable[[Any], Any], is_trained: Any, grads: Any
) -> Any:
    """u as the sum of the first `terms` terms of the Neumann series."""
    keep = functools.partial(jax.tree.map, jnp.multiply, is_trained)

    def add(carry, _):
        total, term = carry
        term = keep(step_vjp(term))
        return (jax.tree.map(jnp.add, total, term), term), None

    start = keep(grads)
    (total, _), _ = jax.lax.scan(add, (start, start), length=terms - 1)
    return total


def conjugate_gradients(
    terms: int, step_vjp: Callable[[Any], Any], is_trained: Any, grads: Any
) -> Any:
    """u by at most `terms` steps of conjugate gradients from 0."""
    keep = functools.partial(jax.tree.map, jnp.multiply, is_trained)

    def apply(u):
        return keep(jax.tree.map(jnp.subtract, u, step_vjp(u)))

    # Without a tolerance, steps after convergence divide zero by zero.
    dtype = jnp.result_type(*jax.tree.leaves(grads))
    tol = float(jnp.finfo(dtype).eps) ** 0.75
    u, _ = jax.scipy.sparse.linalg.cg(
        apply, keep(grads), tol=tol, maxiter=terms
    )
    return u
