"""Large batches as microbatches, one after another, to save memory.

What is stored for the gradient of a function grows with the batch. Computed in
microbatches, each of them again in the backward pass, it grows with these.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def split(tree: Any, size: int) -> Any:
    """Arrays [n, ...] as microbatches [p, size, ...], p = ceil(n / size).

    Row i is in microbatch i mod p: a batch that is split over devices stays
    where it is, since each device has its share of every microbatch. The last
    row is repeated until all are full, see `weights`.
    """

    def one(x):
        num = -(-len(x) // size)
        missing = num * size - len(x)
        padding = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
        x = jnp.pad(x, padding, mode='edge') if missing else x
        return jnp.moveaxis(x.reshape(size, num, *x.shape[1:]), 1, 0)

    return jax.tree.map(one, tree)


def weights(weights: jax.Array, size: int) -> jax.Array:
    """Weights [n] of examples as those of `split`, 0 for repeated rows."""
    missing = -len(weights) % size
    return split(jnp.pad(weights, (0, missing)), size)


def map_microbatches(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, size: int | None
) -> jax.Array:
    """`function` of a batch, one microbatch after another.

    Args:
        function: `[b, ...] -> [b, ...]`, of each row alone.
        x: [n, ...].
        size: rows of a microbatch, >= 1; None, n or more for all at once.

    Returns:
        [n, ...], in the order of `x`.
    """
    if size is None or size >= len(x):
        return function(x)
    function = jax.checkpoint(function, prevent_cse=False)
    results = jax.lax.map(function, split(x, size))
    joined = jnp.moveaxis(results, 0, 1)
    return joined.reshape(-1, *joined.shape[2:])[: len(x)]


def sum_microbatches(function: Callable[[Any], Any], batches: Any) -> Any:
    """Sum of `function` over microbatches, one after another.

    Args:
        function: of a microbatch, to a pytree of arrays.
        batches: pytree of [p, ...], see `split`.
    """
    function = jax.checkpoint(function, prevent_cse=False)
    first = jax.tree.map(lambda x: x[0], batches)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
    )

    def add(total, batch):
        return jax.tree.map(jnp.add, total, function(batch)), None

    return jax.lax.scan(add, zeros, batches)[0]
