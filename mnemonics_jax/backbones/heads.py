"""Classifier heads, and operations on their rows.

A head has a row for each of the K classes from the start: one vector, or P
vectors (proxies) in the head 'local_similarity'. The rows of old, new and
unseen classes are given by counts, which may be traced, so that all phases
share one compiled program.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax import types
from mnemonics_jax.core.numerics import norms, unit

# The parameters whose leading axis is the class axis.
_ROW_PARAMS = ('kernel', 'bias')

# Proxies per class of the head 'local_similarity', as in PODNet.
NUM_PROXIES = 10


class Head(NamedTuple):
    """A classifier as pure functions.

    Attributes:
        init: `(key, num_classes K, num_features D) -> params`.
        apply: `(params, features f32[B,D]) -> (logits, scores)`, both f32[B,K].
    """

    init: Callable[[jax.Array, int, int], types.Params]
    apply: Callable[[types.Params, jax.Array], tuple[jax.Array, jax.Array]]


def make_head(name: str) -> Head:
    """Returns the head `name`, one of `HEADS`.

    Raises:
        ValueError: there is no such head.
    """
    if name not in HEADS:
        raise ValueError(f'head={name!r}: must be one of {", ".join(HEADS)}')
    return HEADS[name]


def _uniform_rows(key, *shape):
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _init_cosine(key, num_classes, num_features):
    """Rows uniform in +-1/sqrt(D), and the learnable scale sigma = 1."""
    kernel = _uniform_rows(key, num_classes, num_features)
    return {'kernel': kernel, 'sigma': jnp.ones((), jnp.float32)}


def _init_local_similarity(key, num_classes, num_features):
    """Proxies uniform in +-1/sqrt(D), and sigma (PODNet's eta) = 1."""
    kernel = _uniform_rows(key, num_classes, NUM_PROXIES, num_features)
    return {'kernel': kernel, 'sigma': jnp.ones((), jnp.float32)}


def _apply_cosine(params, features):
    """Scores are cosines of features and rows; logits are sigma * scores."""
    scores = unit(features) @ unit(params['kernel']).T
    return params['sigma'] * scores, scores


def _apply_local_similarity(params, features):
    """PODNet's classifier: sum_p s_kp d_kp with s_k = softmax(d_k).

    d = 2 cos - 2, in [-4, 0], is the negative squared distance of unit vectors,
    as in the authors' code. In the paper d = cos: half as sharp a softmax.
    """
    cosines = jnp.einsum('bd,kpd->bkp', unit(features), unit(params['kernel']))
    similarities = 2 * cosines - 2
    weights = jax.nn.softmax(similarities, axis=-1)
    scores = jnp.sum(weights * similarities, axis=-1)
    return params['sigma'] * scores, scores


def _init_linear(key, num_classes, num_features):
    """Rows and biases uniform in +-1/sqrt(D)."""
    kernel_key, bias_key = jax.random.split(key)
    bias = _uniform_rows(bias_key, num_classes, num_features)[:, 0]
    kernel = _uniform_rows(kernel_key, num_classes, num_features)
    return {'kernel': kernel, 'bias': bias}


def _apply_linear(params, features):
    logits = features @ params['kernel'].T + params['bias']
    return logits, logits


HEADS = {
    'cosine': Head(_init_cosine, _apply_cosine),
    'linear': Head(_init_linear, _apply_linear),
    'local_similarity': Head(_init_local_similarity, _apply_local_similarity),
}


def rows_between(
    num_classes: int, low: jax.Array | int, high: jax.Array | int
) -> jax.Array:
    """Mask bool[K] of rows low..high-1; `low` and `high` may be traced."""
    rows = jnp.arange(num_classes)
    return (rows >= low) & (rows < high)


def row_params(head: types.Params) -> types.Params:
    """Returns the parameters with a row per class: all but sigma."""
    return {name: head[name] for name in _ROW_PARAMS if name in head}


def rows_alone(params: types.Params) -> types.Params:
    """Params, or their gradients, with zeros for all but the head's rows."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return {**zeros, 'head': {**zeros['head'], **row_params(params['head'])}}


def redraw_rows(
    key: jax.Array,
    head: types.Params,
    low: jax.Array | int,
    high: jax.Array | int,
) -> types.Params:
    """Redraws rows low..high-1, as if their classes had not been learned.

    Each row, or each of its proxies, gets a direction uniform on the sphere and
    keeps its norm; its bias becomes 0. Differentiable with respect to the head,
    through the norms.

    Args:
        key: PRNG key of the directions.
        head: parameters of a head with K rows.
        low: int32[], first row to redraw.
        high: int32[], one past the last row.

    Returns:
        The head with those rows replaced.
    """
    kernel = head['kernel']
    noise = _normal(key, kernel.shape, kernel.dtype)
    return _replace_rows(head, unit(noise) * norms(kernel), low, high)


def _normal(
    key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
    """Standard normal numbers, in float32 those of `jax.random.normal`.

    In float64 they come from the same float32 bits, so that both precisions
    draw alike but for rounding. In float32 a program may round the inverse
    error function otherwise than another program: a float64 run on several
    devices would then not be that on one.
    """
    low = np.nextafter(np.float32(-1), np.float32(0))
    draws = jax.random.uniform(key, shape, jnp.float32, low, 1)
    return np.sqrt(2).astype(dtype) * jax.lax.erf_inv(draws.astype(dtype))


def imprint(
    head: types.Params,
    centres: jax.Array,
    num_old: jax.Array | int,
    num_seen: jax.Array | int,
) -> types.Params:
    """Initialises the rows of new classes from centres of their features.

    As in the authors' code, rows num_old..num_seen-1 become the class means,
    scaled to the mean L2 norm of the old classes' rows, or of all rows if there
    are no old classes. New biases become 0.

    Proxies become the centres of k-means on the features of their class, as in
    PODNet, with the same scaling. They must differ, see
    `prototypes.class_centres`.

    Args:
        head: parameters of a head with K rows.
        centres: f32[K, D], or f32[K, P, D] for a head with proxies, of any
            norm; only rows of new classes are used.
        num_old: int32[], number of classes of all earlier phases.
        num_seen: int32[], `num_old` plus the classes of this phase.

    Returns:
        The head with the new rows replaced.
    """
    kernel = head['kernel']
    num_averaged = jnp.where(num_old > 0, num_old, kernel.shape[0])
    lengths = norms(kernel)
    norm = jnp.mean(lengths, where=_mask_like(lengths, 0, num_averaged))
    return _replace_rows(head, unit(centres) * norm, num_old, num_seen)


def row_mask_updates(
    updates: types.Params, low: jax.Array | int, high: jax.Array | int
) -> types.Params:
    """Zeroes the updates of rows outside low..high-1, but not that of sigma.

    Masking updates rather than gradients also stops momentum and weight decay
    of frozen rows, those of old and unseen classes.

    Args:
        updates: optax updates of a head with K rows.
        low: int32[], first row to update.
        high: int32[], one past the last row.

    Returns:
        Updates of the same structure.
    """
    masked = {
        name: jnp.where(_mask_like(rows, low, high), rows, 0)
        for name, rows in row_params(updates).items()
    }
    return {**updates, **masked}


def _replace_rows(head, kernel, low, high):
    """Replaces rows low..high-1 by those of `kernel`, with biases of 0."""
    replaced = {'kernel': kernel, 'bias': 0}
    rows = {
        name: jnp.where(_mask_like(old, low, high), replaced[name], old)
        for name, old in row_params(head).items()
    }
    return {**head, **rows}


def _mask_like(rows, low, high):
    mask = rows_between(rows.shape[0], low, high)
    return mask.reshape(-1, *[1] * (rows.ndim - 1))
