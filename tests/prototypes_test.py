"""Tests of mnemonics_jax.prototypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from sklearn import cluster

from mnemonics_jax import prototypes
from mnemonics_jax.exemplars.strategies import herding as herding_strategy

class_means = jax.jit(prototypes.class_means)
nme_scores = jax.jit(prototypes.nme_scores)
herd = jax.jit(prototypes.herding, static_argnums=2)


def herd_all(num):
    """Herding of many padded classes in one call."""
    return functools.partial(herding_strategy.rank_by_herding, num=num)


def means_by_loop(features, mask):
    means = np.zeros((len(features), features.shape[-1]))
    for mean, rows, kept in zip(means, features, mask, strict=True):
        members = [
            row / np.linalg.norm(row)
            for row, is_example in zip(rows, kept, strict=True)
            if is_example
        ]
        if members:
            mean[:] = sum(members) / len(members)
    return means


def test_class_means_equal_a_loop():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8, 4)).astype(np.float32)
    mask = rng.uniform(size=(5, 8)) < 0.7
    mask[3] = False
    expected = means_by_loop(features, mask)
    found = class_means(features, mask)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[3], 0)

    labels = np.repeat(np.arange(5), 8).reshape(5, 8)
    order = rng.permutation(mask.sum())
    found = prototypes.class_means_on_host(
        features[mask][order], labels[mask][order], 5
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[3], 0)


def test_class_means_see_directions_only_and_are_not_renormalised():
    features = np.float32([[[3, 0], [0, 0.1]], [[5, 0], [7, 7]]])
    found = class_means(features, np.array([[True, True], [True, False]]))
    np.testing.assert_allclose(found, [[0.5, 0.5], [1, 0]], atol=1e-6)


def test_nme_is_the_nearest_mean_of_unit_length():
    rng = np.random.default_rng(1)
    means = rng.normal(size=(6, 3)) * rng.uniform(0.1, 9, size=(6, 1))
    features = rng.normal(size=(200, 3)) * rng.uniform(0.1, 9, size=(200, 1))
    scores = nme_scores(jnp.float32(features), jnp.float32(means))
    assert scores.shape == (200, 6)
    unit_means = means / np.linalg.norm(means, axis=1, keepdims=True)
    nearest = [
        np.argmin([((f - mean) ** 2).sum() for mean in unit_means])
        for f in features
    ]
    np.testing.assert_array_equal(np.argmax(scores, axis=1), nearest)
    assert set(nearest) == set(range(6))


def test_nme_does_not_see_how_long_vectors_are():
    rng = np.random.default_rng(2)
    means, features = rng.normal(size=(2, 5, 3)).astype(np.float32)
    lengths = rng.uniform(0.1, 9, size=(5, 1)).astype(np.float32)
    scores = nme_scores(features, means)
    np.testing.assert_allclose(
        nme_scores(features, lengths * means), scores, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        nme_scores(lengths * features, means),
        lengths * scores,
        rtol=1e-4,
        atol=1e-6,
    )


# Herding.


def herding_by_loop(features, mask, num, max_tries=1000):
    """The rule as a loop in float64.

    Returns:
        The ranks (-1 beyond the examples) and the least distance between the
        best and the second best that a pick had: about 0 is a tie, which
        rounding may break either way.
    """
    members = [i for i in range(len(mask)) if mask[i]]
    unit = {
        i: features[i].astype(float) / np.linalg.norm(features[i].astype(float))
        for i in members
    }
    ranks, gap = [], np.inf
    if members:
        mean = sum(unit.values()) / len(members)
        direction = mean
    for _ in range(max_tries):
        if len(ranks) >= min(num, len(members)):
            break
        products = {i: float(direction @ unit[i]) for i in members}
        best = max(members, key=lambda i: (products[i], -i))
        others = [products[i] for i in members if i != best]
        gap = min([gap, *(products[best] - other for other in others)])
        if best not in ranks:
            ranks.append(best)
        direction = direction + mean - unit[best]
    rest = [i for i in members if i not in ranks]
    rest.sort(key=lambda i: (-float(mean @ unit[i]), i))
    ranks = (ranks + rest)[:num]
    return np.array(ranks + [-1] * (num - len(ranks))), gap


def random_classes(dtype):
    """48 classes of 3 to 12 examples between padding, [48, 12, D] and mask."""
    rng = np.random.default_rng(3)
    offset = rng.normal(size=(48, 1, 3)) * np.linspace(0, 2, 48)[:, None, None]
    features = rng.normal(size=(48, 12, 3)) + offset
    mask = np.zeros((48, 12), bool)
    for k in range(48):
        mask[k, rng.permutation(12)[: 3 + k % 10]] = True
    return features.astype(dtype), mask


@pytest.mark.parametrize('num', [4, 15])
def test_herding_equals_a_loop(num):
    features, mask = random_classes(np.float64)
    with jax.enable_x64(True):
        found = np.asarray(herd_all(num)(features, mask))
    assert found.shape == (48, num)
    compared = 0
    for k in range(48):
        expected, gap = herding_by_loop(features[k], mask[k], num)
        if gap > 1e-8:
            np.testing.assert_array_equal(found[k], expected)
            compared += 1
    assert compared >= 40


def test_herding_in_single_precision_equals_a_loop():
    features, mask = random_classes(np.float32)
    found = np.asarray(herd_all(4)(features, mask))
    assert found.dtype == np.int32
    compared = 0
    for k in range(48):
        expected, gap = herding_by_loop(features[k], mask[k], 4)
        if gap > 1e-5:
            np.testing.assert_array_equal(found[k], expected)
            compared += 1
    assert compared >= 40


def test_herding_ranks_each_example_once_and_no_padding():
    features, mask = random_classes(np.float32)
    found = np.asarray(herd_all(15)(features, mask))
    for ranks, members in zip(found, mask, strict=True):
        count = members.sum()
        assert (
            sorted(ranks[:count].tolist()) == np.flatnonzero(members).tolist()
        )
        assert np.all(ranks[count:] == -1)


def test_a_shorter_ranking_is_the_beginning_of_a_longer_one():
    features, mask = random_classes(np.float32)
    longer = np.asarray(herd_all(15)(features, mask))
    np.testing.assert_array_equal(herd_all(4)(features, mask), longer[:, :4])


def test_padding_does_not_change_the_ranking():
    features, mask = random_classes(np.float32)
    changed = np.where(mask[..., None], features, 100).astype(np.float32)
    found = herd_all(4)(changed, mask)
    np.testing.assert_array_equal(found, herd_all(4)(features, mask))


# Axes have unit length and few binary digits, so that every product and sum is
# exact and ties are ties: the lowest index wins.
X, Y, Z = np.eye(3)
EXACT = {
    'one example': ([X], [0]),
    'a tie': ([X, Y], [0, 1]),
    # A copy is never picked while its original is there; it comes last.
    'nothing but copies': ([Z, Z, Z, Z], [0, 1, 2, 3]),
    'the odd one before copies': ([Y] * 7 + [X], [0, 7, 1, 2, 3, 4, 5, 6]),
    'copies in order of the mean': (
        [Y, Y, X, X, X, X, X, Z],
        [2, 0, 7, 3, 4, 5, 6, 1],
    ),
    # The mean is zero and the first two cancel for ever.
    'opposites': ([X, -X, Y, -Y], [0, 1, 2, 3]),
}


@pytest.mark.parametrize('case', EXACT)
def test_herding_by_hand(case):
    points, ranks = EXACT[case]
    num = len(points)
    features = np.zeros((8, 3), np.float32)
    features[8 - num :] = points
    mask = np.arange(8) >= 8 - num
    expected, _ = herding_by_loop(features, mask, 8)
    by_hand = [rank + 8 - num for rank in ranks] + [-1] * (8 - num)
    assert expected.tolist() == by_hand
    np.testing.assert_array_equal(herd(features, mask, 8), by_hand)


@pytest.mark.parametrize(('num', 'second'), [(1024, 1023), (2048, 1)])
def test_herding_gives_up_after_1000_tries(num, second):
    # w grows away from the copies by 1/num a try, so that the last example is
    # first preferred at try num/2 + 1.
    features = np.tile(np.float32(X), (num, 1))
    features[-1] = Y
    found = herd(features, np.ones(num, bool), 2)
    np.testing.assert_array_equal(found, [0, second])


def test_herding_of_nothing_ranks_nothing():
    found = herd(np.ones((8, 3), np.float32), np.zeros(8, bool), 8)
    np.testing.assert_array_equal(found, np.full(8, -1))


def test_means_of_herded_prefixes_are_nearer_than_random_ones():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(40, 8)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    ranks = np.asarray(herd(jnp.float32(features), np.ones(40, bool), 10))
    mean = unit.mean(0)
    for num in (2, 5, 10):
        herded = np.linalg.norm(unit[ranks[:num]].mean(0) - mean)
        others = [
            np.linalg.norm(unit[rng.permutation(40)[:num]].mean(0) - mean)
            for _ in range(200)
        ]
        assert herded < np.quantile(others, 0.1)


# Centres of k-means.

SEED = (5, 1, 0)


def find_centres(features, labels, num=4, seed=SEED, num_classes=3):
    return prototypes.class_centres(
        features, labels, num_classes, num, seed=seed
    )


def directions(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def noise_classes():
    """Classes 0 and 2, 400 examples each, mixed, of different lengths."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(800, 5)) + rng.normal(size=5)
    features *= rng.uniform(0.1, 9, size=(800, 1))
    return features.astype(np.float32), rng.permutation(np.repeat([0, 2], 400))


def nearest(points, centres):
    gaps = points[:, None].astype(float) - centres
    squares = (gaps**2).sum(-1)
    return squares.argmin(1), squares.min(1).sum()


def lloyd(points, start):
    """Inertia that the plain algorithm reaches from a start."""
    centres, before = start.astype(float), np.inf
    while True:
        owners, inertia = nearest(points, centres)
        if inertia >= before:
            return inertia
        before = inertia
        for p in set(owners.tolist()):
            centres[p] = points[owners == p].mean(0)


def smallest_gap(centres):
    """Between directions of two centres."""
    gaps = np.linalg.norm(
        directions(centres)[:, None] - directions(centres), axis=-1
    )
    return gaps[~np.eye(len(gaps), dtype=bool)].min()


def test_each_centre_is_the_mean_of_the_unit_features_nearest_to_it():
    features, labels = noise_classes()
    found = find_centres(features, labels)
    assert found.shape == (3, 4, 5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1], 0)
    for k in (0, 2):
        points = directions(features[labels == k])
        owners, _ = nearest(points, found[k])
        assert set(owners) == set(range(4))
        means = [points[owners == p].mean(0) for p in range(4)]
        np.testing.assert_allclose(found[k], means, atol=1e-5)


def test_centres_are_as_near_as_the_best_of_plain_loops():
    features, labels = noise_classes()
    found = find_centres(features, labels)
    rng = np.random.default_rng(6)
    for k in (0, 2):
        points = directions(features[labels == k])
        reached = [
            lloyd(points, points[rng.permutation(len(points))[:4]])
            for _ in range(20)
        ]
        _, inertia = nearest(points, found[k])
        assert inertia < 1.002 * min(reached)


def test_groups_far_apart_are_found():
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(10), rng.integers(3, 20, 10))
    points = np.eye(12)[groups] + 0.02 * rng.normal(size=(len(groups), 12))
    labels = np.zeros(len(groups), np.int32)
    found = find_centres(points.astype(np.float32), labels, 10)[0]
    means = [directions(points)[groups == p].mean(0) for p in range(10)]
    order = np.argmax(found, axis=1)
    assert sorted(order) == list(range(10))
    np.testing.assert_allclose(found, np.array(means)[order], atol=1e-6)


def test_centres_follow_from_the_seed_and_their_own_class():
    features, labels = noise_classes()
    found = find_centres(features, labels)
    np.testing.assert_array_equal(find_centres(features, labels), found)
    changed = np.where(labels[:, None] == 0, features[::-1], features)
    other = find_centres(changed, labels)
    np.testing.assert_array_equal(other[2], found[2])
    assert np.any(other[0] != found[0])
    alone = find_centres(features[labels == 2], labels[labels == 2])
    np.testing.assert_array_equal(alone[2], found[2])
    # A single example: its other centres are random.
    one = features[:1], np.int32([0])
    again = find_centres(*one)
    np.testing.assert_array_equal(find_centres(*one), again)
    assert np.any(find_centres(*one, seed=(5, 2, 0))[0] != again[0])
    assert np.any(find_centres(features[:1], np.int32([1]))[1] != again[0])


def test_k_means_runs_on_one_thread(monkeypatch):
    """More would add up in an order that is not fixed."""
    fit, threads = cluster.KMeans.fit, []

    def spy(model, points):
        pools = threadpoolctl.threadpool_info()
        threads.extend(pool['num_threads'] for pool in pools)
        return fit(model, points)

    monkeypatch.setattr(cluster.KMeans, 'fit', spy)
    with threadpoolctl.threadpool_limits(2):
        find_centres(*noise_classes())
        after = threadpoolctl.threadpool_info()
    assert set(threads) == {1}
    assert 2 in [pool['num_threads'] for pool in after]


@pytest.mark.parametrize('copies', [1, 5])
@pytest.mark.parametrize('count', [1, 3, 10])
def test_few_different_examples_are_the_centres(count, copies):
    points = np.random.default_rng(9).normal(size=(count, 16))
    points = np.repeat(directions(points), copies, axis=0).astype(np.float32)
    found = find_centres(points, np.zeros(len(points), np.int32), 10)[0]
    expected = np.unique(points, axis=0)
    np.testing.assert_allclose(found[:count], expected, atol=1e-6)
    # The others lie around the same examples.
    apart = np.linalg.norm(found - np.resize(expected, (10, 16)), axis=1)
    assert np.all((apart[count:] > 0.05) & (apart[count:] < 0.2))
    assert smallest_gap(found) > 0.03


def test_examples_that_differ_by_rounding_get_centres_apart():
    rng = np.random.default_rng(10)
    points = np.repeat(directions(rng.normal(size=(3, 16))), 20, axis=0)
    points += 1e-7 * rng.normal(size=points.shape)
    labels = np.zeros(len(points), np.int32)
    found = find_centres(points.astype(np.float32), labels, 10)[0]
    assert smallest_gap(found) > 0.03
    # Each of the three has a centre that was not moved.
    gaps = np.linalg.norm(points[::20, None] - found, axis=-1)
    assert np.all(gaps.min(axis=1) < 1e-5)


def test_a_class_without_direction_gets_finite_centres():
    zeros = np.zeros((4, 16), np.float32)
    found = find_centres(zeros, np.zeros(4, np.int32), 10)[0]
    assert np.all(np.isfinite(found))
    assert np.all(np.linalg.norm(found[1:], axis=1) > 0.05)
