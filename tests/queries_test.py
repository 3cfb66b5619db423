"""Balanced queries: who joins, and how much each class counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.bilevel import Layout
from mnemonics_jax.bilevel.outer import Query
from mnemonics_jax.data import augment
from mnemonics_jax.exemplars import queries
from mnemonics_jax.exemplars.inner_problem import Context
from mnemonics_jax.types import ExemplarSet, Phase
from tests import bilevel_test as small

SIZE = 4


def by_hand(labels, weights, num_old, num_seen):
    """Class by class."""
    found = np.zeros(len(labels))
    present = {k for k, w in zip(labels, weights, strict=True) if w > 0}
    for low, high in ((0, num_old), (num_old, num_seen)):
        here = sorted(present & set(range(low, high)))
        for k in here:
            rows = (labels == k) & (weights > 0)
            found[rows] = (high - low) / len(here) / rows.sum()
    return found


@pytest.mark.parametrize(
    ('num_old', 'labels', 'weights'),
    [
        (2, [0, 1, 1, 2, 2, 2, 4, 3], [1] * 8),
        (2, [0, 0, 0, 2, 2, 3, 3, 4], [1, 1, 1, 1, 1, 1, 1, 0]),
        (0, [4, 4, 4, 0, 1, 1, 2, 2], [1] * 7 + [0]),
        (3, [3, 3, 4, 3, 4, 4, 4, 4], [1] * 8),
        (3, [0, 1, 2, 3, 4, 0, 0, 0], [0] * 8),
    ],
)
def test_each_class_counts_alike(num_old, labels, weights):
    """And where some are missing, old and new ones as there are."""
    labels, weights = np.int32(labels), np.float32(weights)
    phase = Phase(*np.int32([1, num_old, 5]))
    found = queries.class_weights(labels, weights, phase)
    expected = by_hand(labels, weights, num_old, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def memory_of(num_old, slots=3, num_classes=5):
    """Exemplar j of class k is of grey 10 k + j + 1."""
    grey = 10 * np.arange(num_classes)[:, None] + np.arange(slots) + 1
    mask = np.zeros((num_classes, slots), bool)
    mask[:num_old, :2] = True
    images = np.ones((num_classes, slots, SIZE, SIZE, 1)) * np.where(
        mask, grey, 0
    ).reshape(num_classes, slots, 1, 1, 1)
    return ExemplarSet(images.astype(np.uint8), mask)


def balanced(held, size, settings=None):
    settings = settings or small.settings('head')
    context = Context(small.make_model('cosine'), settings, Layout())
    query = Query(
        np.full((size, SIZE, SIZE, 1), 0.9, np.float32),
        np.int32(3 + np.arange(size) % 2),
        np.ones(size, np.float32),
    )
    phase = Phase(*np.int32([1, 3, 5]))
    key = jax.random.key(0)
    return jax.jit(
        lambda query, held: queries.balance(context, query, held, phase, key)
    )(query, held)


@pytest.mark.parametrize('size', [4, 20])
def test_old_exemplars_join_with_their_labels(size):
    found = balanced(memory_of(3), size)
    kept = np.asarray(found.weights) > 0
    assert kept[:size].all()
    grey = np.round(np.asarray(found.images)[size:, 0, 0, 0] * 255)[kept[size:]]
    labels = np.asarray(found.labels)[size:][kept[size:]]
    # All six of them, or as many as there are real images; each at most once.
    assert len(set(grey)) == len(grey) == min(size, 6)
    np.testing.assert_array_equal(labels, grey // 10)
    assert set(grey % 10) <= {1, 2}
    total = jax.ops.segment_sum(found.weights, found.labels, 5)
    np.testing.assert_allclose(total[:3].sum(), 3, rtol=1e-6)
    np.testing.assert_allclose(total[3:], 1, rtol=1e-6)


def test_without_a_memory_new_classes_count_alike():
    found = balanced(None, 5)
    assert len(found.labels) == 5
    total = jax.ops.segment_sum(found.weights, found.labels, 5)
    # All that is seen: without old rows nothing stands for old classes.
    np.testing.assert_allclose(total[3:], 1, rtol=1e-6)
    assert jnp.sum(found.weights) == pytest.approx(2)


def test_old_exemplars_are_augmented_as_in_training():
    settings = small.settings('head')._replace(
        augmentation=augment.Augmentation(pad=2)
    )
    found = balanced(memory_of(3), 20, settings)
    old = np.asarray(found.images)[20:][np.asarray(found.weights)[20:] > 0]
    # A shift of a grey square shows the black around it.
    assert np.any(old == 0)
    assert np.any(old > 0)
    real = np.asarray(found.images)[:20]
    np.testing.assert_array_equal(real, np.float32(0.9))
