"""Tests of what three classifiers say, on a model that is two matrices."""

import functools

import jax
import numpy as np
import pytest

from mnemonics_jax.core import parallel
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Backbone, ExemplarSet, Variables

K, NUM_SEEN, SLOTS, D = 6, 4, 3, 5
SHAPE = (2, 3, 2)


def embed(variables, images, *, train=False, mask=None):
    """Features are the flattened pixels times a matrix."""
    del train, mask
    flat = images.reshape(images.shape[0], -1)
    features = flat @ variables.params['trunk']['matrix']
    return features, (), variables.batch_stats


def classify(head, features):
    scores = features @ head['rows'].T
    return 2 * scores, scores


BACKBONE = Backbone(init=None, embed=embed, classify=classify)


def make_model(seed):
    """A model that would mostly predict the unseen class K - 1."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(np.prod(SHAPE), D)).astype(np.float32)
    rows = rng.normal(size=(K, D)).astype(np.float32)
    rows[-1] = 9 * np.float32(0.5 * np.ones(np.prod(SHAPE))) @ matrix
    params = {'trunk': {'matrix': matrix}, 'head': {'rows': rows}}
    return Variables(params=params, batch_stats={})


def make_images(seed, *leading):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*leading, *SHAPE), np.uint8)


def make_batches(num=29, size=16):
    """Test data of the classes seen, the last batch padded with junk."""
    images = make_images(7, 2 * size)
    labels = np.arange(2 * size, dtype=np.int32) % NUM_SEEN
    weights = (np.arange(2 * size) < num).astype(np.float32)
    return [
        {
            'image': images[i : i + size],
            'label': labels[i : i + size],
            'weight': weights[i : i + size],
        }
        for i in (0, size)
    ]


def make_exemplars():
    """Unequal counts, class 4 has none, and the very last slot is used."""
    mask = np.arange(SLOTS) < np.array([3, 1, 2, 2, 0, 3])[:, None]
    return ExemplarSet(make_images(8, K, SLOTS), mask)


@pytest.fixture(params=['one_device', 'all_devices'])
def placement(request):
    return request.getfixturevalue(request.param)


@functools.cache
def evaluator_for(placement, mirror=True):
    return evaluation.make_evaluator(BACKBONE, placement, mirror=mirror)


# NumPy, example by example, in float64.


def feature_by_numpy(model, image):
    pixels = image.astype(np.float64) / 255
    return pixels.ravel() @ model.params['trunk']['matrix'].astype(np.float64)


def means_by_numpy(model, exemplars, mirror):
    """Means of unit features, of images and mirrors, averaged: [K, D]."""
    means = np.zeros((K, D))
    for k in range(K):
        views = []
        for flip in (False, True) if mirror else (False,):
            units = []
            for image in exemplars.images[k][exemplars.mask[k]]:
                if flip:
                    # Columns, not colours.
                    image = np.stack([row[::-1] for row in image])
                feature = feature_by_numpy(model, image)
                units.append(feature / np.linalg.norm(feature))
            views.append(sum(units) / len(units) if units else np.zeros(D))
        means[k] = sum(views) / len(views)
    return means


def confusion_by_numpy(models, batches, num_seen):
    """Counts by classifier, and whether masking made any difference."""
    model, finetuned, means = models
    counts = {
        name: np.zeros((num_seen, num_seen), int)
        for name in ('cnn', 'nme', 'finetuned')
    }
    masked = dict.fromkeys(counts, 0)
    for batch in batches:
        for image, label, weight in zip(
            batch['image'], batch['label'], batch['weight'], strict=True
        ):
            if not weight:
                continue
            feature = feature_by_numpy(model, image)
            tuned = feature_by_numpy(finetuned, image)
            unit = means / np.linalg.norm(means, axis=1, keepdims=True)
            scores = {
                'cnn': model.params['head']['rows'] @ feature,
                'nme': -((feature - unit) ** 2).sum(1),
                'finetuned': finetuned.params['head']['rows'] @ tuned,
            }
            for name, values in scores.items():
                counts[name][label, np.argmax(values[:num_seen])] += 1
                masked[name] += np.argmax(values) >= num_seen
    return counts, masked


def make_models(placement):
    """The model, a fine-tuned one, and means, an unseen class' in the midst."""
    model = make_model(0)
    means = np.random.default_rng(5).normal(size=(K, D)).astype(np.float32)
    means[-1] = feature_by_numpy(model, np.full(SHAPE, 128))
    models = (model, make_model(1), means)
    return models, parallel.replicate(placement, models)


# Tests.


def test_confusion_counts_equal_a_loop(placement):
    models, placed = make_models(placement)
    found, _ = evaluation.count_all(
        evaluator_for(placement),
        placed,
        make_batches(),
        num_classes=K,
        num_seen=NUM_SEEN,
    )
    expected, masked = confusion_by_numpy(models, make_batches(), NUM_SEEN)
    assert tuple(found) == evaluation.CLASSIFIERS
    found = {name: counts.confusion for name, counts in found.items()}
    for name, counts in found.items():
        np.testing.assert_array_equal(counts, expected[name])
        # Each real example once, though most look like an unseen class.
        assert counts.sum() == 29
        assert masked[name] > 10
        # Not all alike, so that a mistake in rows or columns shows.
        assert np.count_nonzero(counts) > 4
        assert not np.array_equal(counts, counts.T)
    assert not np.array_equal(found['cnn'], found['nme'])
    assert not np.array_equal(found['cnn'], found['finetuned'])


def test_phases_share_the_programs(one_device):
    evaluator = evaluation.make_evaluator(BACKBONE, one_device, mirror=False)
    models, placed = make_models(one_device)
    for num_seen in (2, NUM_SEEN, K):
        batches = make_batches()
        for batch in batches:
            batch['label'] = batch['label'] % num_seen
        found, _ = evaluation.count_all(
            evaluator, placed, batches, num_classes=K, num_seen=num_seen
        )
        expected, _ = confusion_by_numpy(models, batches, num_seen)
        for name, counts in found.items():
            np.testing.assert_array_equal(counts.confusion, expected[name])
    assert evaluator.count._cache_size() == 1


@pytest.mark.parametrize('mirror', [False, True])
def test_exemplar_means_equal_a_loop(placement, mirror):
    model, exemplars = make_model(0), make_exemplars()
    # 18 slots in batches of 8: the last one is filled up.
    found = evaluation.means_of(
        evaluator_for(placement, mirror),
        parallel.replicate(placement, model),
        parallel.replicate(placement, exemplars),
        batch_size=8,
    )
    expected = means_by_numpy(model, exemplars, mirror)
    assert found.shape == (K, D)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[4], 0)
    other = means_by_numpy(model, exemplars, not mirror)
    assert np.abs(expected - other).max() > 0.1


@pytest.mark.parametrize('batch_size', [5, 18, 32])
def test_the_batch_size_does_not_change_the_means(one_device, batch_size):
    model, exemplars = make_model(0), make_exemplars()
    found = evaluation.means_of(
        evaluator_for(one_device), model, exemplars, batch_size
    )
    expected = means_by_numpy(model, exemplars, mirror=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_exemplar_means_average_views_and_skip_empty_slots():
    features = np.zeros((2, 4, 2), np.float32)
    features[0] = [[2, 0], [0, 3], [5, 0], [9, 9]]
    features[1] = [[0, 1], [0, 1], [5, 0], [9, 9]]
    mask = np.array([[1, 1], [1, 0]], bool)
    found = jax.jit(evaluation.exemplar_means)(features, mask)
    expected = [[0.25, 0.75], [1, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_features_are_those_of_real_examples_in_order(placement):
    model, batches = make_model(0), make_batches()
    # Padding in the middle, too.
    batches[0]['weight'][3] = 0
    found = evaluation.features_of(
        evaluator_for(placement), parallel.replicate(placement, model), batches
    )
    expected = [
        feature_by_numpy(model, image)
        for batch in batches
        for image, weight in zip(batch['image'], batch['weight'], strict=True)
        if weight
    ]
    assert found.shape == (28, D)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_processes_exchange_the_weights_of_all_batches_at_once(
    one_device, monkeypatch
):
    """As the first of two processes, which feeds half of each batch."""
    random = np.random.default_rng(2)
    weights = (random.random((3, 8)) < 0.6).astype(np.float32)
    results = random.normal(size=(3, 8, D)).astype(np.float32)
    given = []

    def gather(placement, x):
        del placement
        given.append(x)
        return np.concatenate([x, weights[:, 4:].T])

    monkeypatch.setattr(parallel, 'gather_batch', gather)
    remaining = iter(results)
    found = evaluation._without_padding(
        one_device,
        lambda placed: jax.numpy.asarray(next(remaining)),
        [{'weight': weight[:4]} for weight in weights],
    )
    expected = [
        row
        for result, weight in zip(results, weights, strict=True)
        for row, is_real in zip(result, weight, strict=True)
        if is_real
    ]
    np.testing.assert_array_equal(found, expected)
    (columns,) = given
    np.testing.assert_array_equal(columns, weights[:, :4].T)


def test_few_results_wait_on_the_device():
    """On an accelerator: each is fetched while the next are computed."""
    waiting, most = set(), []

    class Result:
        def __init__(self, number):
            self.number = number
            waiting.add(number)
            most.append(len(waiting))

        def __array__(self, dtype=None, copy=None):
            waiting.remove(self.number)
            return np.full(2, self.number, dtype)

    class Accelerator:
        platform = 'tpu'

    found = evaluation._fetched(Accelerator(), map(Result, range(9)))
    np.testing.assert_array_equal(found, np.arange(9)[:, None] * [1, 1])
    assert most == [1, 2, *[parallel.AHEAD + 1] * 7]


def test_float_images_are_taken_as_they_are(one_device):
    model, exemplars = make_model(0), make_exemplars()
    as_float = exemplars.replace(
        images=(exemplars.images / 255).astype(np.float32)
    )
    evaluator = evaluator_for(one_device)
    np.testing.assert_allclose(
        evaluation.means_of(evaluator, model, as_float, 18),
        evaluation.means_of(evaluator, model, exemplars, 18),
        atol=1e-6,
    )


@pytest.mark.parametrize('num_seen', [NUM_SEEN, K])
def test_top5_counts_equal_a_loop(placement, num_seen):
    """Of four classes the five best hold all; of six they can miss one."""
    models, placed = make_models(placement)
    found, _ = evaluation.count_all(
        evaluator_for(placement),
        placed,
        make_batches(),
        num_classes=K,
        num_seen=num_seen,
    )
    model, finetuned, means = models
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    expected = {name: np.zeros(num_seen, int) for name in found}
    for batch in make_batches():
        for image, label, weight in zip(*batch.values(), strict=True):
            feature = feature_by_numpy(model, image)
            tuned = feature_by_numpy(finetuned, image)
            scores = {
                'cnn': model.params['head']['rows'] @ feature,
                'nme': unit @ feature,
                'finetuned': finetuned.params['head']['rows'] @ tuned,
            }
            for name, values in scores.items():
                better = np.sum(values[:num_seen] > values[label])
                expected[name][label] += int(weight) * (better < 5)
    for name, counts in found.items():
        np.testing.assert_array_equal(counts.top5, expected[name])
    total = sum(counts.top5.sum() for counts in found.values())
    assert (total == 3 * 29) == (num_seen == NUM_SEEN)
