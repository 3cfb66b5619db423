"""Class prototypes in feature space: means, herding, k-means."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from mnemonics_jax.core.numerics import unit, unit_on_host

MAX_TRIES = 1000

# Features per chunk when computing distances to all means.
_ROWS = 4096

# Restarts of k-means, the scikit-learn default in PODNet's code.
_NUM_STARTS = 10

# Centres whose directions are closer than _NEAR get offsets of norm _SPREAD,
# both L2 in the space of unit features.
_NEAR = 1e-3
_SPREAD = 0.1


def class_means(features: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the unit-length features of each class, not renormalised.

    Args:
        features: f32[K, n, D], features of each class, padded.
        mask: bool[K, n], true for examples, false for padding.

    Returns:
        f32[K, D]; zeros for a class without examples.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import class_means
        >>> features = jnp.array([[[2.0, 0.0], [0.0, 3.0]]])  # One class.
        >>> class_means(features, jnp.array([[True, True]])).tolist()
        [[0.5, 0.5]]
    """
    weights = mask.astype(features.dtype)
    # A sum, not a matrix product, so that XLA does not store unit features.
    sums = jnp.sum(unit(features) * weights[..., None], axis=1)
    return sums / jnp.maximum(jnp.sum(weights, axis=1), 1)[:, None]


def labelled_means(
    vectors: jax.Array, labels: jax.Array, mask: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Means of vectors by class, without normalisation.

    Args:
        vectors: f32[b, D].
        labels: int32[b] in 0..num_classes - 1.
        mask: bool[b], false for vectors to ignore.
        num_classes: K.

    Returns:
        Means f32[K, D], zeros for a class without vectors, and bool[K], false
        for such a class.
    """
    member = (labels == jnp.arange(num_classes)[:, None]) & mask
    counts = jnp.sum(member, axis=1)
    sums = exact_product(member.astype(vectors.dtype), vectors)
    return sums / jnp.maximum(counts, 1)[:, None], counts > 0


def exact_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x @ y in full precision; accelerators default to 8 or 11 bits."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def class_means_on_host(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """`class_means` of features f32[n, D] with labels int[n], in NumPy.

    Class sizes may differ between phases without recompilation; memory grows
    with the largest class.
    """
    means = np.zeros((num_classes, features.shape[1]), features.dtype)
    for k in np.unique(labels):
        means[k] = unit_on_host(features[labels == k]).mean(axis=0)
    return means


def nme_scores(features: jax.Array, means: jax.Array) -> jax.Array:
    """Scores of the nearest-mean-of-exemplars rule; predict the highest.

    For unit means, the nearest in Euclidean distance has the largest inner
    product, for features of any norm.

    Args:
        features: f32[B, D].
        means: f32[K, D], of any norm; normalised here.

    Returns:
        f32[B, K].

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import nme_scores
        >>> means = jnp.array([[0.5, 0.0], [0.0, 0.2]])
        >>> features = jnp.array([[3.0, 1.0], [1.0, 2.0]])
        >>> nme_scores(features, means).argmax(axis=1).tolist()
        [0, 1]
    """
    return features @ unit(means).T


def border_ratios(
    features: np.ndarray, labels: np.ndarray, means: np.ndarray
) -> np.ndarray:
    """Ratio of distances that locates features relative to the border, f32[n].

    The distance to the nearest mean of another class divided by that to the own
    mean: 1 on the decision border of the nearest-mean rule, > 1 inside the own
    class. A feature that its own mean includes is biased inwards, the more the
    fewer features the mean has.

    Args:
        features: f32[n, D], of unit length.
        labels: int32[n], class of each feature.
        means: f32[K, D], of unit length, K >= 2.
    """
    ratios = np.empty(len(features), features.dtype)
    # The order of sums of several threads may differ between processes.
    with threadpoolctl.threadpool_limits(1):
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            squares = 2 - 2 * features[rows] @ means.T
            distances = np.sqrt(np.maximum(squares, 0))
            own = np.arange(len(distances)), labels[rows]
            nearest = distances[own]
            distances[own] = np.inf
            ratios[rows] = distances.min(axis=1) / np.maximum(nearest, _NEAR)
    return ratios


def herding(features: jax.Array, mask: jax.Array, num: int) -> jax.Array:
    """Ranks examples so that the mean of each prefix is near the class mean.

    iCaRL's herding as implemented by LUCIR and the paper's authors. With unit
    features d_j, their mean mu and initially w = mu, repeat j = argmax
    <w, d_j>; j gets the next rank if it has none; w <- w + mu - d_j either way.
    If 1000 tries rank fewer than `num`, the rest are ordered by <mu, d_j>.

    Args:
        features: f32[n, D], features of one class, padded with finite values.
        mask: bool[n], true for examples, false for padding.
        num: number of examples to rank; static.

    Returns:
        int32[num], indices of examples, best first, padded with -1.

    Example:
        >>> import jax.numpy as jnp
        >>> from mnemonics_jax import herding
        >>> features = jnp.array([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [9, 9]])
        >>> mask = jnp.array([True, True, True, False])  # The last is padding.
        >>> herding(features, mask, 4).tolist()
        [0, 1, 2, -1]
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
        # A repeated pick writes past the end, which `drop` discards.
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


def class_centres(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    num_centres: int,
    *,
    seed: tuple[int, ...],
) -> np.ndarray:
    """k-means centres of the unit-length features of each class, on the host.

    The initial values of PODNet's proxies: the best of 10 runs of Lloyd's
    algorithm from k-means++, each run until convergence.

    A class of at most `num_centres` distinct features has these as centres,
    repeated. Of centres with (almost) the same direction, all but the first get
    random offsets of L2 norm about 0.1, since identical proxies would get
    identical gradients and never separate.

    Args:
        features: f32[n, D], of any norm.
        labels: int32[n].
        num_classes: K.
        num_centres: P.
        seed: integers >= 0. The centres of a class depend only on the seed, its
            label and its features.

    Returns:
        f32[K, P, D], not renormalised; zeros for a class without examples.
    """
    points = unit_on_host(features)
    shape = (num_classes, num_centres, points.shape[1])
    centres = np.zeros(shape, points.dtype)
    # One thread: a fixed order of sums, and no slower at this size.
    with threadpoolctl.threadpool_limits(1):
        for k in np.unique(labels):
            random = np.random.Generator(
                np.random.Philox(np.random.SeedSequence((*seed, int(k))))
            )
            centres[k] = _k_means(points[labels == k], num_centres, random)
    return centres


def _k_means(points, num, random):
    """Centres f32[num, D], in different directions, of points f32[n, D]."""
    from sklearn import cluster, exceptions  # Imported late: takes a second.

    distinct = np.unique(points, axis=0)
    if len(distinct) <= num:
        return _separate(np.resize(distinct, (num, points.shape[1])), random)
    model = cluster.KMeans(
        num,
        n_init=_NUM_STARTS,
        tol=0,
        random_state=int(random.integers(2**32)),
    )
    with warnings.catch_warnings():
        # Raised for points that differ by rounding only.
        warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
        return _separate(model.fit(points).cluster_centers_, random)


def _separate(centres, random):
    """Moves centres [P, D] away from earlier ones in almost their direction."""
    directions = unit_on_host(centres)
    gaps = np.linalg.norm(directions[:, None] - directions, axis=-1)
    repeats = np.any(np.tril(gaps < _NEAR, -1), axis=1, keepdims=True)
    noise = random.standard_normal(centres.shape)
    return centres + repeats * (_SPREAD * centres.shape[1] ** -0.5) * noise
