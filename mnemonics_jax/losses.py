"""Losses, one value per example; whoever calls them reduces.

`num_old` and `num_seen` are counts of classes and may be traced: classes are
positions in the class order, so old and seen classes are prefixes.
"""

import functools

import jax
import jax.numpy as jnp

from mnemonics_jax.core.numerics import norms, unit


def mask_logits(logits: jax.Array, num_classes: jax.Array | int) -> jax.Array:
    """Logits f32[B, K] with those of classes >= `num_classes` at -1e9.

    The value is finite, so a batch without any class yields numbers and not
    NaN; beside logits of usual size its exponential is zero, so masked classes
    get no gradient.

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
        num_seen: int32[], classes in the softmax.

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

    The paper writes the cross entropy of the same two distributions; it differs
    by the reference's entropy, a constant.

    Args:
        logits: f32[B, K], of the model under training.
        ref_logits: f32[B, K], of the previous phase's model.
        num_old: int32[], classes in both softmaxes; 0 gives zeros.
        temperature: > 0, divides both.

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
    ref_probs = jnp.exp(ref_log_probs)
    return jnp.sum(ref_probs * (ref_log_probs - log_probs), axis=-1)


def less_forget(features: jax.Array, ref_features: jax.Array) -> jax.Array:
    """1 - cosine of each feature with the reference's (L_lf of LUCIR).

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
    # The score of an absent rival is -inf: its hinge and gradient are zero.
    hinge = jax.nn.relu(margin - truth + rivals)
    return jnp.sum(hinge, axis=-1) / jnp.maximum(jnp.sum(counts), 1)


def nca(
    scores: jax.Array,
    sigma: jax.Array,
    labels: jax.Array,
    num_seen: jax.Array,
    *,
    margin: float = 0.6,
) -> jax.Array:
    """Hinge of neighbourhood component analysis with a margin (PODNet's L_LSC).

    relu(-log(exp(sigma (s_y - margin)) / sum_{k != y} exp(sigma s_k))), k among
    the classes seen; PODNet calls sigma eta and the margin delta.

    In `sigma * margin` sigma counts as a constant. Its gradient there, +margin,
    would carry a learnable sigma that starts at 1 through 0 in a few steps, and
    on to where the loss is zero and predictions are wrong. The authors' code
    does not meet this: it takes the margin from all scores, so that it cancels.
    Nor has it the hinge, and the largest score stands in for s_y in the sum.

    Args:
        scores: f32[B, K], before the learnable scale.
        sigma: f32[], the learnable scale.
        labels: int32[B], below `num_seen`.
        num_seen: int32[], classes in the sum.
        margin: how far, in units of scores, the true class shall lead.

    Returns:
        f32[B], >= 0; zeros where only one class is seen.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> scores = jnp.array([[0.9, 0.1], [0.2, 0.1]])
        >>> labels = jnp.array([0, 0])
        >>> values = losses.nca(scores, jnp.array(2.0), labels, num_seen=2)
        >>> [round(float(v), 3) for v in values]  # 2 (0.1 - 0.2 + 0.6)
        [0.0, 1.0]
    """
    is_truth = jnp.arange(scores.shape[-1]) == labels[:, None]
    rivals = mask_logits(sigma * scores, num_seen)
    # Finite like the mask of unseen classes, for a sum without any term.
    rivals = jax.nn.logsumexp(jnp.where(is_truth, -1e9, rivals), axis=-1)
    truth = jnp.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]
    slack = jax.lax.stop_gradient(sigma) * margin
    return jax.nn.relu(rivals - sigma * truth + slack)


def pod_spatial(
    maps: tuple[jax.Array, ...], ref_maps: tuple[jax.Array, ...]
) -> jax.Array:
    """Distance of the maps' profiles over height and width (PODNet's L_POD).

    A map is squared and summed over its width, and over its height; the two
    sums together get unit length. The paper states squared distances of sums
    neither squared nor normalised; this is the form of the authors' code, which
    the paper's weights belong to.

    Args:
        maps: of each stage f32[B, h, w, c].
        ref_maps: of the reference, in the same shapes.

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


def pod_flat(features: jax.Array, ref_features: jax.Array) -> jax.Array:
    """Squared L2 distance of unit features (PODNet's L_POD-flat).

    That is 2 - 2 cosine. The authors' code has half of it, 1 - cosine, which is
    `less_forget`.

    Args:
        features: f32[B, D].
        ref_features: f32[B, D].

    Returns:
        f32[B] in [0, 4]; 1, with a finite gradient, if one feature is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import losses
        >>> features = jnp.array([[3.0, 0.0], [0.0, 2.0]])
        >>> before = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        >>> losses.pod_flat(features, before).tolist()
        [0.0, 2.0]
    """
    return jnp.sum((unit(features) - unit(ref_features)) ** 2, axis=-1)


def _profiles(feature_map: jax.Array) -> jax.Array:
    """Unit sums f32[B, (h + w) c] of squares over width and over height."""
    squares = feature_map * feature_map
    sums = [jnp.sum(squares, axis=axis) for axis in (2, 1)]
    return unit(jnp.concatenate([s.reshape(len(s), -1) for s in sums], axis=-1))
