"""Study F: its plug-ins and its table."""

import pathlib
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from experiments import (
    herding_stored,
    results_bytes,
    soft_targets,
    weighted_selection,
)
from mnemonics_jax.methods import lucir
from mnemonics_jax.types import Outputs


def outputs(generator: np.random.Generator) -> Outputs:
    scores = generator.normal(size=(3, 4)).astype(np.float32)
    features = generator.normal(size=(3, 2)).astype(np.float32)
    return Outputs(logits=5 * scores, scores=scores, features=features)


def test_soft_targets_are_those_of_the_model_before_for_old_classes_only():
    generator = np.random.default_rng(0)
    own, before = outputs(generator), outputs(generator)
    labels = np.array([0, 1, 2])
    phase = types.SimpleNamespace(num_old=2, num_seen=3)
    share = 0.25
    defaults = {k: v[0] for k, v in lucir.SETTINGS.items()}
    settings = types.SimpleNamespace(**defaults, share=share)
    terms = soft_targets.make(settings).loss(own, before, labels, phase)
    plain = lucir.make(settings).loss(own, before, labels, phase)
    expected = []
    for i, label in enumerate(labels):
        target = np.eye(3)[label]
        if label < 2:
            soft = np.exp(before.logits[i, :2])
            target = (1 - share) * target
            target[:2] += share * soft / soft.sum()
        logits = own.logits[i, :3].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum())
        expected.append(-(target * log_probs).sum())
    np.testing.assert_allclose(terms['cross_entropy'][0], expected, rtol=1e-5)
    assert terms.keys() == plain.keys()
    for name in ('less_forget', 'margin_ranking'):
        np.testing.assert_array_equal(terms[name], plain[name])


def test_stored_images_are_ranked_by_their_mean_with_those_before():
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    # First 2, the nearest, then 3, since their mean is the target.
    target = np.array([0.69, 0.71])
    assert herding_stored.rank(features, target, 2).tolist() == [2, 3]
    ranks = herding_stored.rank(features, target, 9).tolist()
    assert sorted(ranks) == [0, 1, 2, 3]


def loss_after_steps(
    weights: np.ndarray, features: np.ndarray, labels: np.ndarray
) -> float:
    """The objective of weights, with gradients by central differences."""

    def values(head):
        unit = head / np.linalg.norm(head, axis=1, keepdims=True)
        logits = weighted_selection.SCALE * features @ unit.T
        chosen = logits[np.arange(len(labels)), labels]
        return np.log(np.exp(logits).sum(axis=1)) - chosen

    head = np.tile(features.mean(axis=0), (2, 1))
    for _ in range(weighted_selection.INNER_STEPS):
        gradient = np.zeros_like(head)
        for place in np.ndindex(*head.shape):
            step = np.zeros_like(head)
            step[place] = 1e-5
            ends = [weights @ values(head + s) for s in (step, -step)]
            gradient[place] = (ends[0] - ends[1]) / 2e-5
        head = head - weighted_selection.INNER_LR * gradient
    return values(head).mean()


def test_learned_weights_lower_the_loss_and_those_of_a_class_sum_to_its_share():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = np.eye(4)[labels] + 0.4 * generator.normal(size=(40, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.asarray(
        weighted_selection.learn_weights(
            jnp.asarray(features, jnp.float32), jnp.asarray(labels), 2
        )
    )
    np.testing.assert_allclose(np.bincount(labels, weights), 0.5, rtol=1e-5)
    uniform = np.full(40, 1 / 40)
    losses = [loss_after_steps(w, features, labels) for w in (uniform, weights)]
    assert losses[1] < losses[0] - 0.01


def test_an_image_with_a_wrong_label_gets_more_weight_than_others():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = np.eye(4)[labels] + 0.2 * generator.normal(size=(40, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels[0] = 1
    weights = weighted_selection.learn_weights(
        jnp.asarray(features, jnp.float32), jnp.asarray(labels), 2
    )
    assert weights[0] > 5 * np.median(weights[labels == 1])


@pytest.mark.parametrize(
    ('cnn', 'nme', 'expected'),
    [
        ([0.01, 0.02], [0.0, 0.01], True),
        ([0.01, -0.02], [0.0, 0.01], False),
        ([0.01, 0.02], [0.0, -0.01], False),
        ([0.01], [0.01], False),
    ],
)
def test_a_case_helps_if_every_seed_gains(cnn, nme, expected):
    found = {('tuned', 'cnn'): cnn, ('tuned', 'nme'): nme}
    assert results_bytes.helps(found) == expected
