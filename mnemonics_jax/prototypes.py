"""Class means of features: NME classification and herding."""

import jax
import jax.numpy as jnp

from mnemonics_jax.numerics import unit

MAX_TRIES = 1000


def class_means(
    features: jax.Array, labels: jax.Array, weights: jax.Array, num_classes: int
) -> jax.Array:
    """Mean of the unit-length features of each class, not renormalised.

    Args:
        features: f32[n, D].
        labels: int32[n].
        weights: f32[n], >= 0; 0 for padding.
        num_classes: K.

    Returns:
        f32[K, D]; zeros for a class without examples.
    """
    weighted = unit(features) * weights[:, None]
    sums = jax.ops.segment_sum(weighted, labels, num_classes)
    counts = jax.ops.segment_sum(weights, labels, num_classes)
    return sums / jnp.where(counts > 0, counts, 1)[:, None]


def nme_scores(features: jax.Array, means: jax.Array) -> jax.Array:
    """Scores of the nearest-mean-of-exemplars rule; the highest wins.

    With means of unit length the nearest by Euclidean distance is the one with
    the greatest inner product, whatever the length of the feature.

    Args:
        features: f32[B, D].
        means: f32[K, D], of any length; they are normalised here.

    Returns:
        f32[B, K].
    """
    return features @ unit(means).T


def herding(features: jax.Array, mask: jax.Array, num: int) -> jax.Array:
    """Ranks examples so that each prefix's mean stays near the class mean.

    The rule of iCaRL as LUCIR and the paper's authors run it: with unit
    features d_j, mean mu and w = mu at first, repeat j = argmax <w, d_j>; a j
    not yet ranked gets the next rank; w <- w + mu - d_j in any case. If 1000
    tries rank fewer than `num`, the rest follow in the order of <mu, d_j>.

    Args:
        features: f32[n, D], of one class, padded with any finite values.
        mask: bool[n], true for examples, false for padding.
        num: how many to rank; static.

    Returns:
        int32[num], indices of examples, best first; -1 beyond their number.
    """
    features = unit(features)
    weights = mask.astype(features.dtype)
    mean = weights @ features / jnp.maximum(jnp.sum(weights), 1)
    size = min(num, features.shape[0])
    wanted = jnp.minimum(size, jnp.sum(mask))

    def wants_more(carry):
        _, _, _, count, tries = carry
        return (count < wanted) & (tries < MAX_TRIES)

    def pick(carry):
        order, used, direction, count, tries = carry
        j = jnp.argmax(jnp.where(mask, features @ direction, -jnp.inf))
        fresh = ~used[j]
        # A repeated pick writes behind the end, where `drop` discards it.
        slot = jnp.where(fresh, count, size)
        order = order.at[slot].set(j.astype(jnp.int32), mode='drop')
        direction = direction + mean - features[j]
        return order, used.at[j].set(True), direction, count + fresh, tries + 1

    start = (
        jnp.full((size,), -1, jnp.int32),
        jnp.zeros_like(mask),
        mean,
        jnp.zeros((), jnp.int32),
        jnp.zeros((), jnp.int32),
    )
    order, used, _, count, _ = jax.lax.while_loop(wants_more, pick, start)
    left = jnp.where(mask & ~used, features @ mean, -jnp.inf)
    rest = jnp.argsort(-left).astype(jnp.int32)[:size]
    position = jnp.arange(size)
    filled = jnp.where(
        position < count, order, rest[jnp.clip(position - count, 0)]
    )
    filled = jnp.where(position < wanted, filled, -1)
    return jnp.pad(filled, (0, num - size), constant_values=-1)
