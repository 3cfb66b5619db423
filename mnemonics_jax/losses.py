"""Losses with one value per example; the caller reduces.

`num_old` and `num_seen` are numbers of classes and may be traced. Classes are
positions in the class order, so old and seen classes are prefixes.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax.core.numerics import norms, unit


def mask_logits(logits: jax.Array, num_classes: jax.Array | int) -> jax.Array:
    """Sets logits f32[B, K] of classes >= `num_classes` to -1e9.

    The value is finite, so that `num_classes` = 0 does not give NaN. Next to
    logits of usual size its softmax probability is 0, as is its gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> losses.mask_logits(jnp.array([[1.0, 2.0, 3.0]]), 2).tolist()
        [[1.0, 2.0, -1000000000.0]]
    """
    seen = jnp.arange(logits.shape[-1]) < num_classes
    return jnp.where(seen, logits, -1e9)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, num_seen: jax.Array | int
) -> jax.Array:
    """Softmax cross entropy over the classes seen (L_c; the paper, Eq. 2).

    Args:
        logits: f32[B, K].
        labels: int32[B], below `num_seen`.
        num_seen: number of classes in the softmax, int32[].

    Returns:
        f32[B] in nats, >= 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> logits = jnp.array([[2.0, 2.0, 9.0], [0.0, 3.0, 0.0]])
        >>> labels = jnp.array([0, 1])  # The third class is not seen.
        >>> values = losses.cross_entropy(logits, labels, num_seen=2)
        >>> [round(float(v), 3) for v in values]
        [0.693, 0.049]
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

    The paper's cross entropy of the two distributions differs by the entropy of
    the reference, a constant.

    Args:
        logits: f32[B, K], logits of the trained model.
        ref_logits: f32[B, K], logits of the previous phase's model.
        num_old: number of classes in both softmaxes, int32[]; 0 gives zeros.
        temperature: > 0, divides both logits.

    Returns:
        f32[B] in nats, >= 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> logits = jnp.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0]])
        >>> before = jnp.array([[1.0, 2.0, 7.0], [1.0, 2.0, 7.0]])
        >>> values = losses.distillation(logits, before, num_old=2)
        >>> [round(float(v), 3) for v in values]
        [0.0, 0.122]
    """
    log_probs, ref_log_probs = (
        jax.nn.log_softmax(mask_logits(values / temperature, num_old))
        for values in (logits, ref_logits)
    )
    return optax.losses.kl_divergence_with_log_targets(log_probs, ref_log_probs)


def less_forget(features: jax.Array, ref_features: jax.Array) -> jax.Array:
    """1 - cosine of each feature with the reference's.

    L_lf of LUCIR, and L_POD-flat of PODNet as its authors compute it.

    Args:
        features: f32[B, D].
        ref_features: f32[B, D].

    Returns:
        f32[B] in [0, 2]; 1, with a finite gradient, for a zero feature.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> features = jnp.array([[3.0, 0.0], [0.0, 2.0]])
        >>> before = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        >>> losses.less_forget(features, before).tolist()
        [0.0, 1.0]
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
    """Hinge loss against the highest-scoring new classes (L_mr of LUCIR).

    Defined for examples of old classes only: use `labels < num_old` as weights.

    Args:
        scores: f32[B, K], cosines, before the learnable scale.
        labels: int32[B].
        num_old: number of classes of earlier phases, int32[].
        num_seen: number of classes seen, int32[].
        margin: required margin of the true class.
        top_k: number of highest-scoring new classes to average over; all if
            there are fewer.

    Returns:
        f32[B], >= 0, the mean over these new classes.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> scores = jnp.array([[0.9, 0.1, 0.0], [0.4, 0.3, 0.0]])
        >>> labels = jnp.array([0, 0])
        >>> values = losses.margin_ranking(
        ...     scores, labels, num_old=1, num_seen=3
        ... )
        >>> [round(float(v), 3) for v in values]  # (0.5 - 0.4 + 0.3 + 0.1) / 2
        [0.0, 0.25]
    """
    classes = jnp.arange(scores.shape[-1])
    new = (classes >= num_old) & (classes < num_seen)
    truth = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    top_k = min(top_k, scores.shape[-1])
    rivals, _ = jax.lax.top_k(jnp.where(new, scores, -jnp.inf), top_k)
    counts = jnp.arange(top_k) < num_seen - num_old
    # A missing rival has score -inf, so its hinge and gradient are zero.
    hinge = jax.nn.relu(margin - truth + rivals)
    return jnp.sum(hinge, axis=-1) / jnp.maximum(jnp.sum(counts), 1)


def nca(
    logits: jax.Array, labels: jax.Array, num_seen: jax.Array | int
) -> jax.Array:
    """Neighbourhood component analysis (PODNet's L_LSC).

    -log(exp(o_y) / (sum_{k != y} exp(o_k) + max_k exp(o_k))), k over the
    classes seen: cross entropy with the largest logit for o_y in the sum.

    This is the form of the authors' code. Their paper has a hinge, no maximum
    in the sum, and a margin on s_y alone, in logits eta s: by its gradient a
    learnable eta falls below 0, where the hinge is flat. The code subtracts the
    margin from all scores, so that it cancels.

    Args:
        logits: f32[B, K], scores times the learnable scale.
        labels: int32[B], below `num_seen`.
        num_seen: number of classes in the sum, int32[].

    Returns:
        f32[B], >= 0; zeros if only one class is seen.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> logits = jnp.array([[2.0, 0.0], [0.0, 2.0]])
        >>> values = losses.nca(logits, jnp.array([0, 0]), num_seen=2)
        >>> [round(float(v), 3) for v in values]  # The second: log(2 e^2)
        [0.127, 2.693]
    """
    seen = mask_logits(logits, num_seen)
    is_truth = jnp.arange(logits.shape[-1]) == labels[:, None]
    largest = jnp.max(seen, axis=-1, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(is_truth, largest, seen), axis=-1)
    return total - jnp.take_along_axis(seen, labels[:, None], axis=-1)[:, 0]


def pod_spatial(
    maps: tuple[jax.Array, ...], ref_maps: tuple[jax.Array, ...]
) -> jax.Array:
    """Distance of map profiles over height and width (PODNet's L_POD).

    Each map is squared and summed over width and over height; the two sums are
    concatenated and normalised. The paper states squared distances of sums that
    are neither squared nor normalised. This is the form of the authors' code,
    for which the paper's weights were chosen.

    Args:
        maps: maps of each stage, f32[B, h, w, c].
        ref_maps: maps of the reference, in the same shapes.

    Returns:
        f32[B] in [0, sqrt(2)] (to 1e-6), L2 distances averaged over stages.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> top = jnp.zeros((1, 2, 2, 1)).at[0, 0].set(1.0)
        >>> left = jnp.zeros((1, 2, 2, 1)).at[0, :, 0].set(1.0)
        >>> values = losses.pod_spatial((top,), (left,))
        >>> [round(float(v), 3) for v in values]  # 2 / sqrt(6)
        [0.816]
    """
    distances = [
        norms(_profiles(ours) - _profiles(theirs))[:, 0]
        for ours, theirs in zip(maps, ref_maps, strict=True)
    ]
    return functools.reduce(jnp.add, distances) / len(distances)


def _profiles(feature_map: jax.Array) -> jax.Array:
    """Normalised sums f32[B, (h + w) c] of squares over width and height."""
    squares = feature_map * feature_map
    sums = [jnp.sum(squares, axis=axis) for axis in (2, 1)]
    return unit(jnp.concatenate([s.reshape(len(s), -1) for s in sums], axis=-1))
