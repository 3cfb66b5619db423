"""Small array functions that many modules share."""

import jax
import jax.numpy as jnp
import numpy as np

# Added to squared norms: the relative error is below rounding for every real
# feature, and the first derivative at a zero feature is finite.
_EPSILON = 1e-12


def norms(vectors: jax.Array) -> jax.Array:
    """L2 norms [..., 1] of vectors [..., D], at least 1e-6."""
    squares = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return jnp.sqrt(squares + _EPSILON)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., D] divided by their L2 norms; zero stays zero."""
    return vectors / norms(vectors)


def unit_on_host(vectors: np.ndarray) -> np.ndarray:
    """`unit` in NumPy, where the number of vectors differs between phases."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean of f32[b] `values` by `weights` >= 0; 0 if all weights are 0."""
    weights = weights.astype(values.dtype)
    total = jnp.sum(weights)
    return weighted_sum(values, weights) / jnp.where(total > 0, total, 1)


def weighted_sum(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum of f32[b] `values` by `weights` >= 0."""
    # where() keeps a non-finite value of a padded example out of the sum.
    kept = jnp.where(weights > 0, values, 0)
    return jnp.sum(kept * weights.astype(values.dtype))


def shares(weights: jax.Array) -> jax.Array:
    """`weights` >= 0 divided by their sum; zeros if all are 0."""
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)
