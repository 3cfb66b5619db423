"""Tests of mnemonics_jax.experiment.features, by loops in NumPy."""

import numpy as np
import pytest

from mnemonics_jax.experiment import features
from mnemonics_jax.train.evaluation import Embedded

K, SEEN, SLOTS, D = 5, 3, 2, 4


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_space(seed=0):
    random = np.random.default_rng(seed)
    labels = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 0], np.int32)
    images = Embedded(
        unit(random.normal(size=(10, D))).astype(np.float32),
        labels,
        np.ones(10, np.float32),
        np.ones(10, bool),
    )
    slots = random.normal(size=(K * SLOTS, D)).astype(np.float32)
    mask = np.array([[1, 1], [1, 0], [1, 1], [0, 0], [0, 0]], bool)
    space = features.make_snapshot(images, slots, mask, SEEN)
    return images, slots, mask, space


def test_means_and_exemplars_are_those_of_a_loop():
    images, slots, mask, space = make_space()
    for k in range(SEEN):
        own = images.features[images.labels == k].astype(np.float64)
        np.testing.assert_allclose(
            space.means[k], unit(own.mean(axis=0)), atol=1e-6
        )
        for rank in range(SLOTS):
            np.testing.assert_allclose(
                space.exemplars[k, rank],
                unit(slots[k * SLOTS + rank]),
                atol=1e-6,
            )
    np.testing.assert_array_equal(space.mask, mask[:SEEN])


def ratio(feature, label, means):
    distances = np.linalg.norm(means - feature.astype(np.float64), axis=1)
    return np.delete(distances, label).min() / distances[label]


def test_the_distance_to_the_border_is_that_of_a_loop():
    images, _, mask, space = make_space()
    means = space.means.astype(np.float64)
    of_images = [
        ratio(feature, label, means)
        for feature, label in zip(images.features, images.labels, strict=True)
    ]
    of_exemplars = [
        ratio(space.exemplars[k, rank], k, means)
        for k, rank in np.argwhere(mask[:SEEN])
    ]
    found = features.border(space)
    assert found == pytest.approx(
        {
            'exemplars': np.median(of_exemplars),
            'images': np.median(of_images),
        },
        rel=1e-5,
    )
    assert found['images'] > 1 > np.min(of_exemplars)


def test_on_the_border_is_one():
    """Between two means, at equal distances of both."""
    means = np.eye(3, dtype=np.float32)
    vectors = unit(np.float32([[1, 1, 0], [0, 3, 3]]))
    space = features.FeatureSnapshot(
        vectors,
        np.int32([0, 2]),
        means,
        vectors[:, None],
        np.ones((2, 1), bool),
    )
    found = features.border(space._replace(exemplars=vectors[:, None]))
    assert found == pytest.approx({'exemplars': 1, 'images': 1})


def test_without_exemplars_or_with_one_class_there_is_no_border():
    *_, space = make_space()
    assert features.border(space._replace(mask=space.mask & False)) is None
    one = features.FeatureSnapshot(
        space.features[:2],
        np.zeros(2, np.int32),
        space.means[:1],
        space.exemplars[:1],
        space.mask[:1],
    )
    assert features.border(one) is None


@pytest.mark.parametrize(
    ('num_classes', 'size', 'expected'),
    [(2, 30, 30), (2, 450, 100), (200, 60, 50), (20_000, 2, 1)],
)
def test_a_sample_has_so_many_of_each_class_evenly_spaced(
    num_classes, size, expected
):
    """100 of a class, 10,000 in all, one of each at least."""
    labels = np.tile(np.arange(num_classes), size)
    rows = features.sample(labels, num_classes).reshape(num_classes, -1)
    assert rows.shape == (num_classes, expected)
    np.testing.assert_array_equal(
        labels[rows], np.arange(num_classes)[:, None].repeat(expected, 1)
    )
    ranks = rows // num_classes
    gaps = np.diff(ranks, axis=1)
    assert (ranks[:, 0] == 0).all()
    if expected > 1:
        assert gaps.min() >= size // expected
        assert gaps.max() <= -(-size // expected)


def test_a_class_without_test_images_has_no_row_in_the_sample():
    np.testing.assert_array_equal(
        features.sample(np.array([2, 0, 2]), 3), [1, 0, 2]
    )
