"""Losses, one value per example; whoever calls them reduces.

`num_old` and `num_seen` are counts of classes and may be traced: classes are
positions in the class order, so old and seen classes are prefixes.
"""

import jax
import jax.numpy as jnp

from mnemonics_jax.numerics import unit


def mask_logits(logits: jax.Array, num_classes: jax.Array) -> jax.Array:
    """Logits f32[B, K] with those of classes >= `num_classes` at -1e9.

    The value is finite, so a batch without any class yields numbers and not
    NaN; beside logits of usual size its exponential is zero, so masked classes
    get no gradient.
    """
    seen = jnp.arange(logits.shape[-1]) < num_classes
    return jnp.where(seen, logits, -1e9)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, num_seen: jax.Array
) -> jax.Array:
    """Softmax cross entropy over the classes seen (L_c; the paper, Eq. 2).

    Args:
        logits: f32[B, K].
        labels: int32[B], below `num_seen`.
        num_seen: int32[], classes in the softmax.

    Returns:
        f32[B] in nats, >= 0.
    """
    log_probs = jax.nn.log_softmax(mask_logits(logits, num_seen))
    return -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]


def distillation(
    logits: jax.Array,
    ref_logits: jax.Array,
    num_old: jax.Array,
    temperature: float = 2.0,
) -> jax.Array:
    """KL(reference || model) of softened softmaxes over the old classes (L_d).

    The paper's Eq. 3 is the cross entropy of the same two distributions; it
    differs by the reference's entropy, a constant.

    Args:
        logits: f32[B, K], of the model under training.
        ref_logits: f32[B, K], of the previous phase's model.
        num_old: int32[], classes in both softmaxes; 0 gives zeros.
        temperature: > 0, divides both.

    Returns:
        f32[B] in nats, >= 0.
    """
    log_probs, ref_log_probs = (
        jax.nn.log_softmax(mask_logits(values / temperature, num_old))
        for values in (logits, ref_logits)
    )
    ref_probs = jnp.exp(ref_log_probs)
    return jnp.sum(ref_probs * (ref_log_probs - log_probs), axis=-1)


def less_forget(features: jax.Array, ref_features: jax.Array) -> jax.Array:
    """1 - cosine of each feature with the reference's (L_lf of LUCIR).

    Args:
        features: f32[B, D].
        ref_features: f32[B, D].

    Returns:
        f32[B] in [0, 2]; 1, with a finite gradient, for a zero feature.
    """
    return 1 - jnp.sum(unit(features) * unit(ref_features), axis=-1)


def margin_ranking(
    scores: jax.Array,
    labels: jax.Array,
    num_old: jax.Array,
    num_seen: jax.Array,
    *,
    margin: float = 0.5,
    top_k: int = 2,
) -> jax.Array:
    """Hinge of the true class against the nearest new classes (L_mr of LUCIR).

    Means something for examples of old classes only: weigh it with
    `labels < num_old`.

    Args:
        scores: f32[B, K], cosines, before the learnable scale.
        labels: int32[B].
        num_old: int32[], classes of earlier phases.
        num_seen: int32[], classes seen.
        margin: the least distance asked for.
        top_k: how many of the new classes with the highest scores count; all of
            them where there are fewer.

    Returns:
        f32[B], >= 0, the mean over the new classes that count.
    """
    classes = jnp.arange(scores.shape[-1])
    new = (classes >= num_old) & (classes < num_seen)
    truth = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    top_k = min(top_k, scores.shape[-1])
    rivals, _ = jax.lax.top_k(jnp.where(new, scores, -jnp.inf), top_k)
    counts = jnp.arange(top_k) < num_seen - num_old
    # The score of an absent rival is -inf: its hinge and gradient are zero.
    hinge = jax.nn.relu(margin - truth + rivals)
    return jnp.sum(hinge, axis=-1) / jnp.maximum(jnp.sum(counts), 1)
