"""Computing large batches in microbatches, one after another, to save memory.

The backward pass recomputes each microbatch, so activation memory grows with
the microbatch instead of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def split(tree: Any, size: int) -> Any:
    """Arrays [n, ...] as microbatches [p, size, ...], p = ceil(n / size).

    Row i is in microbatch i mod p, so that a batch sharded over devices is not
    moved: each device has a share of every microbatch. The last row is repeated
    as padding, see `weights`.
    """

    def one(x):
        num = -(-len(x) // size)
        missing = num * size - len(x)
        padding = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
        x = jnp.pad(x, padding, mode='edge') if missing else x
        return jnp.moveaxis(x.reshape(size, num, *x.shape[1:]), 1, 0)

    return jax.tree.map(one, tree)


def weights(weights: jax.Array, size: int) -> jax.Array:
    """Weights [n] of examples, split as by `split`, with 0 for padding."""
    missing = -len(weights) % size
    return split(jnp.pad(weights, (0, missing)), size)


def map_microbatches(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, size: int | None
) -> jax.Array:
    """Applies `function` to a batch, one microbatch after another.

    Args:
        function: `[b, ...] -> [b, ...]`, row by row.
        x: [n, ...].
        size: rows per microbatch, >= 1; None or >= n for all at once.

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
        function: `(microbatch) -> pytree of arrays`.
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
