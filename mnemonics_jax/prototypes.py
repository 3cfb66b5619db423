"""What stands for a class in feature space: means, herding, k-means."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from mnemonics_jax.core.numerics import unit, unit_on_host

MAX_TRIES = 1000

# Features whose distances to all means are in memory at once.
_ROWS = 4096

# Runs of k-means from different starts, of which the best is taken: the default
# of scikit-learn that PODNet's authors ran.
_NUM_STARTS = 10

# Centres whose directions lie nearer to each other than this are moved apart by
# about so much, both as L2 norms beside unit features.
_NEAR = 1e-3
_SPREAD = 0.1


def class_means(features: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the unit-length features of each class, not renormalised.

    Args:
        features: f32[K, n, D], of padded classes.
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
    # A sum and no product of matrices: XLA then keeps no copy of unit length.
    sums = jnp.sum(unit(features) * weights[..., None], axis=1)
    return sums / jnp.maximum(jnp.sum(weights, axis=1), 1)[:, None]


def labelled_means(
    vectors: jax.Array, labels: jax.Array, mask: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Means of vectors by class, as they are.

    Args:
        vectors: f32[b, D].
        labels: int32[b] in 0..num_classes - 1.
        mask: bool[b], false for vectors that do not count.
        num_classes: K.

    Returns:
        f32[K, D], zeros for a class without vectors; bool[K], false for it.
    """
    member = (labels == jnp.arange(num_classes)[:, None]) & mask
    counts = jnp.sum(member, axis=1)
    sums = exact_product(member.astype(vectors.dtype), vectors)
    return sums / jnp.maximum(counts, 1)[:, None], counts > 0


def exact_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x @ y; faster products of accelerators would round to 8 or 11 bits."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def class_means_on_host(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """The same of features f32[n, D] with labels int[n], in NumPy.

    For numbers of examples that differ from phase to phase, in the memory that
    a class takes.
    """
    means = np.zeros((num_classes, features.shape[1]), np.float32)
    for k in np.unique(labels):
        means[k] = unit_on_host(features[labels == k]).mean(axis=0)
    return means


def nme_scores(features: jax.Array, means: jax.Array) -> jax.Array:
    """Scores of the nearest-mean-of-exemplars rule; the highest wins.

    With means of unit length the nearest by Euclidean distance is the one with
    the greatest inner product, whatever the length of the feature.

    Args:
        features: f32[B, D].
        means: f32[K, D], of any length; they are normalised here.

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
    """How far from the border to another class each feature lies, f32[n].

    The distance to the nearest other mean over that to the own mean: 1 on the
    border of the nearest-mean rule, > 1 on the own side of it. An image that a
    mean is made of draws it to itself, the more the fewer there are.

    Args:
        features: f32[n, D], of unit length.
        labels: int32[n], the own means.
        means: f32[K, D], of unit length, K >= 2.
    """
    ratios = np.empty(len(features), np.float32)
    # Several threads might add in another order in another process.
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


def class_centres(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    num_centres: int,
    *,
    seed: tuple[int, ...],
) -> np.ndarray:
    """Centres of k-means on the unit-length features of each class.

    Where PODNet's proxies of a class start. Of 10 runs of Lloyd's algorithm
    from k-means++, each until no example changes its centre, the one with the
    least sum_i min_p |d_i - c_p|^2 over the unit features d_i.

    A class of at most `num_centres` different features has these for centres,
    over and over. Centres of (almost) one direction get random offsets of L2
    norm 0.1 or so, all but the first: proxies all alike would get the same
    gradient in every step, and stay one proxy for ever.

    On the host, for as many examples and classes as there are. All of k-means
    and not of mini-batches, which at the size of a class is no faster.

    Args:
        features: f32[n, D], of any norm.
        labels: int32[n].
        num_classes: K.
        num_centres: P.
        seed: numbers >= 0. The centres of a class follow from them, from its
            label and its features alone.

    Returns:
        f32[K, P, D], not renormalised; zeros for a class without examples.
    """
    points = unit_on_host(features)
    shape = (num_classes, num_centres, points.shape[1])
    centres = np.zeros(shape, np.float32)
    # Several threads add in no fixed order, and gain nothing at this size.
    with threadpoolctl.threadpool_limits(1):
        for k in np.unique(labels):
            random = np.random.Generator(
                np.random.Philox(np.random.SeedSequence((*seed, int(k))))
            )
            centres[k] = _k_means(points[labels == k], num_centres, random)
    return centres


def _k_means(points, num, random):
    """Centres f32[num, D], in different directions, of points f32[n, D]."""
    from sklearn import cluster, exceptions  # It takes a second: late.

    distinct = np.unique(points, axis=0)
    if len(distinct) <= num:
        return _set_apart(np.resize(distinct, (num, points.shape[1])), random)
    model = cluster.KMeans(
        num,
        n_init=_NUM_STARTS,
        tol=0,
        random_state=int(random.integers(2**32)),
    )
    with warnings.catch_warnings():
        # Of points that differ by rounding alone; their centres are set apart.
        warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
        return _set_apart(model.fit(points).cluster_centers_, random)


def _set_apart(centres, random):
    """Moves centres [P, D] away from earlier ones of almost their direction."""
    directions = unit_on_host(centres)
    gaps = np.linalg.norm(directions[:, None] - directions, axis=-1)
    repeats = np.any(np.tril(gaps < _NEAR, -1), axis=1, keepdims=True)
    noise = random.standard_normal(centres.shape)
    return centres + repeats * (_SPREAD * centres.shape[1] ** -0.5) * noise
