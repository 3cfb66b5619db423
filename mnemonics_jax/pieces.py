"""Large batches in pieces, so that few images are in work at once.

What is kept for the gradient of a function grows with the batch. In pieces one
after another, each computed again in the backward pass, it is that of a piece.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def split(tree: Any, size: int) -> Any:
    """Arrays [n, ...] as pieces [p, size, ...], p = ceil(n / size).

    Row i lies in piece i mod p: a batch that is split over devices stays where
    it is, each device having its share of every piece. The last row is repeated
    as often as pieces need to be full, see `weights`.
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


def map_pieces(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, size: int | None
) -> jax.Array:
    """`function` of a batch, piece by piece.

    Args:
        function: `[b, ...] -> [b, ...]`, of each row alone.
        x: [n, ...].
        size: rows of a piece, >= 1; None, n or more for all at once.

    Returns:
        [n, ...], in the order of `x`.
    """
    if size is None or size >= len(x):
        return function(x)
    function = jax.checkpoint(function, prevent_cse=False)
    results = jax.lax.map(function, split(x, size))
    joined = jnp.moveaxis(results, 0, 1)
    return joined.reshape(-1, *joined.shape[2:])[: len(x)]


def sum_pieces(function: Callable[[Any], Any], pieces: Any) -> Any:
    """Sum of `function` over pieces, one after another.

    Args:
        function: of a piece, to a pytree of arrays.
        pieces: pytree of [p, ...], see `split`.
    """
    function = jax.checkpoint(function, prevent_cse=False)
    first = jax.tree.map(lambda x: x[0], pieces)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first)
    )

    def add(total, piece):
        return jax.tree.map(jnp.add, total, function(piece)), None

    return jax.lax.scan(add, zeros, pieces)[0]
