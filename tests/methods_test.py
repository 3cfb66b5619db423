"""Tests of mnemonics_jax.methods: the contract of all, the numbers of each."""

import functools

import jax
import numpy as np
import pytest

from mnemonics_jax import config, methods
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Outputs, Phase

B, K, D = 8, 9, 4
MAPS = [(3, 4, 2), (2, 1, 5)]
# Phases 0, 1 and 3: base classes only, some old, all classes seen.
PHASES = [(0, 0, 4), (1, 4, 6), (3, 7, K)]


def settings(name, **changes):
    section = config.default_config().method
    section[name].update(changes)
    return section


def make_phase(phase):
    return Phase(*np.int32(phase))


def make_outputs(seed):
    rng = np.random.default_rng(seed)
    scores = np.tanh(0.5 * rng.normal(size=(B, K)))
    features = rng.normal(size=(B, D))
    maps = tuple(rng.normal(size=(B, *shape)) for shape in MAPS)
    outputs = Outputs(3 * scores, scores, features, maps)
    return jax.tree.map(np.float32, outputs)


def make_labels(num_seen):
    labels = np.random.default_rng(2).permutation(B) % num_seen
    return labels.astype(np.int32)


def make_reference(phase):
    outputs = make_outputs(1)
    return jax.tree.map(np.zeros_like, outputs) if phase[0] == 0 else outputs


@functools.cache
def total_loss(method):
    """Jitted `(outputs, reference, labels, phase)` -> loss, terms, gradients.

    The gradients are those in the outputs and in the reference.
    """

    def total(outputs, ref_outputs, labels, phase):
        terms = method.loss(outputs, ref_outputs, labels, phase)
        return sum(weighted_mean(*term) for term in terms.values()), terms

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


@functools.cache
def make(name, **changes):
    return methods.make_method(name, settings(name, **changes))


def run(method, phase, labels=None):
    """The loss, its terms and gradients on random outputs."""
    labels = make_labels(phase[2]) if labels is None else labels
    (loss, terms), gradients = total_loss(method)(
        make_outputs(0), make_reference(phase), labels, make_phase(phase)
    )
    return loss, terms, gradients


# NumPy, from the definitions.


def cross_entropy(outputs, labels, num_seen):
    logits = outputs.logits[:, :num_seen].astype(float)
    log_sums = np.log(np.exp(logits).sum(1))
    return log_sums - logits[np.arange(B), labels]


def divergence(outputs, ref_outputs, num_old, temperature):
    probs = [
        np.exp(each.logits[:, :num_old].astype(float) / temperature)
        for each in (ref_outputs, outputs)
    ]
    p, q = (each / each.sum(1, keepdims=True) for each in probs)
    return (p * np.log(p / q)).sum(1)


def one_minus_cosine(outputs, ref_outputs):
    f, r = outputs.features.astype(float), ref_outputs.features.astype(float)
    lengths = np.linalg.norm(f, axis=1) * np.linalg.norm(r, axis=1)
    return 1 - (f * r).sum(1) / lengths


def hinges(outputs, labels, num_old, num_seen, margin, top_k):
    new = np.sort(outputs.scores[:, num_old:num_seen].astype(float))
    nearest = new[:, ::-1][:, :top_k]
    truth = outputs.scores[np.arange(B), labels].astype(float)
    return np.maximum(margin - truth[:, None] + nearest, 0).mean(1)


# The contract of every method.


@pytest.mark.parametrize('name', methods.method_names())
@pytest.mark.parametrize('phase', PHASES)
def test_terms_are_finite_values_and_weights_of_examples(name, phase):
    loss, terms, (gradient, _) = run(make(name), phase)
    assert terms
    assert all(isinstance(term, str) for term in terms)
    for values, weights in terms.values():
        assert values.shape == weights.shape == (B,)
        assert np.all(np.isfinite(values))
        assert np.all(np.isfinite(weights))
        assert np.all(weights >= 0)
    assert loss > 0
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
    assert np.any(gradient.logits != 0) or np.any(gradient.scores != 0)


@pytest.mark.parametrize('name', methods.method_names())
@pytest.mark.parametrize('phase', PHASES)
def test_unseen_classes_get_no_gradient(name, phase):
    _, _, (gradient, _) = run(make(name), phase)
    assert np.all(gradient.logits[:, phase[2] :] == 0)
    assert np.all(gradient.scores[:, phase[2] :] == 0)


@pytest.mark.parametrize('name', methods.method_names())
def test_the_reference_is_read_if_the_method_says_so(name):
    method = make(name)
    _, _, (_, gradient) = run(method, PHASES[1])
    is_read = any(np.any(g != 0) for g in jax.tree.leaves(gradient))
    assert is_read == method.uses_reference


@pytest.mark.parametrize('name', methods.method_names())
def test_phases_share_a_program(name):
    method = make(name)
    for phase in PHASES:
        run(method, phase)
    assert total_loss(method)._cache_size() == 1


@pytest.mark.parametrize('name', methods.method_names())
def test_a_method_says_how_it_is_judged(name):
    method = make(name)
    assert method.predictor in evaluation.CLASSIFIERS
    assert isinstance(method.uses_reference, bool)


@pytest.mark.parametrize('name', ['finetune', 'icarl', 'lucir'])
def test_the_base_phase_is_plain_cross_entropy(name):
    loss, _, _ = run(make(name), PHASES[0])
    values = cross_entropy(make_outputs(0), make_labels(4), 4)
    np.testing.assert_allclose(loss, values.mean(), rtol=1e-5)


# Each method.


@pytest.mark.parametrize('phase', PHASES)
def test_finetune_is_cross_entropy_over_classes_seen(phase):
    loss, terms, _ = run(make('finetune'), phase)
    expected = cross_entropy(make_outputs(0), make_labels(phase[2]), phase[2])
    assert list(terms) == ['cross_entropy']
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert make('finetune').predictor == 'cnn'


@pytest.mark.parametrize('phase', PHASES[1:])
def test_icarl_adds_distillation_of_the_old_classes(phase):
    _, num_old, num_seen = phase
    method = make('icarl', distill_weight=0.7, temperature=3.0)
    loss, _, _ = run(method, phase)
    outputs, reference = make_outputs(0), make_reference(phase)
    expected = cross_entropy(outputs, make_labels(num_seen), num_seen)
    expected += 0.7 * divergence(outputs, reference, num_old, 3.0)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert method.predictor == 'nme'


def test_icarl_weighs_as_the_authors_code_by_default():
    loss, _, _ = run(make('icarl'), PHASES[1])
    outputs, reference = make_outputs(0), make_reference(PHASES[1])
    expected = cross_entropy(outputs, make_labels(6), 6)
    # beta T^2 = 0.25 * 4.
    expected += 0.25 * 2**2 * divergence(outputs, reference, 4, 2.0)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize('phase', PHASES[1:])
def test_lucir_is_the_sum_of_its_three_terms(phase):
    _, num_old, num_seen = phase
    method = make(
        'lucir', lambda_base=3.0, margin=0.6, margin_weight=0.8, top_k=2
    )
    loss, terms, _ = run(method, phase)
    outputs, reference = make_outputs(0), make_reference(phase)
    labels = make_labels(num_seen)
    is_old = labels < num_old
    assert is_old.any()
    assert not is_old.all()
    scale = 3.0 * np.sqrt(num_old / (num_seen - num_old))
    parts = {
        'cross_entropy': cross_entropy(outputs, labels, num_seen).mean(),
        'less_forget': scale * one_minus_cosine(outputs, reference).mean(),
        # The mean over old examples, not over the batch.
        'margin_ranking': 0.8
        * hinges(outputs, labels, num_old, num_seen, 0.6, 2)[is_old].mean(),
    }
    assert set(terms) == set(parts)
    for name, expected in parts.items():
        assert expected > 0
        np.testing.assert_allclose(
            weighted_mean(*terms[name]), expected, rtol=1e-5
        )
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-5)
    assert method.predictor == 'cnn'


@pytest.mark.parametrize(
    ('num_old', 'num_seen', 'expected'),
    [(1, 2, 5), (4, 5, 10), (8, 9, 200**0.5)],
)
def test_lambda_of_lucir_grows_with_the_ratio_of_old_to_new(
    num_old, num_seen, expected
):
    phase = (1, num_old, num_seen)
    _, terms, _ = run(make('lucir'), phase)
    plain = one_minus_cosine(make_outputs(0), make_reference(phase))
    np.testing.assert_allclose(
        terms['less_forget'][0], expected * plain, rtol=1e-4
    )


def test_the_margin_counts_examples_of_old_classes_only():
    labels = np.int32([0, 3, 4, 5, 5, 1, 4, 2])
    _, terms, (gradient, _) = run(make('lucir'), PHASES[1], labels)
    is_old = labels < 4
    np.testing.assert_array_equal(terms['margin_ranking'][1], is_old)
    # Scores count in no other term.
    assert np.all(gradient.scores[~is_old] == 0)
    assert np.any(gradient.scores[is_old] != 0)
    assert np.all(gradient.features != 0)


def test_the_margin_is_silent_in_a_batch_without_old_examples():
    labels = np.full(B, 5, np.int32)
    _, terms, (gradient, _) = run(make('lucir'), PHASES[1], labels)
    assert weighted_mean(*terms['margin_ranking']) == 0
    assert np.all(gradient.scores == 0)


# Names.


def test_methods_are_found_by_their_files():
    names = methods.method_names()
    assert names == sorted(names)
    assert {'finetune', 'icarl', 'lucir'} <= set(names)


def test_an_unknown_method_is_named_in_one_line():
    with pytest.raises(ValueError, match='no_such_method') as error:
        methods.make_method('no_such_method', {})
    message = str(error.value)
    assert message.startswith("method.name='no_such_method': ")
    assert '\n' not in message
    assert all(name in message for name in methods.method_names())
