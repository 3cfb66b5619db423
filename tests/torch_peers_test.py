"""What is timed against PyTorch computes the same, in float32."""

import pathlib
import sys

import jax
import numpy as np
import pytest

pytest.importorskip('torch', reason='PyTorch is missing: the extra `bench`')
ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import feature_pairs
import problems
import step_pairs
import timing
import torch_peers

# 16 to 64 channels, two blocks that halve the image and one that does not.
SIZES = problems.Sizes('resnet8', image_size=8, batch=6, num_classes=5)


@pytest.fixture(scope='module')
def problem():
    return problems.make_problem(SIZES)


def assert_agrees(pair):
    errors = timing.check('', pair)
    assert errors.keys() == pair.bounds.keys()


@pytest.mark.parametrize('loss', ['cross_entropy', 'lucir'])
def test_training_steps_have_the_peers_losses_and_updates(problem, loss):
    pair = step_pairs.train_steps(problem, num_steps=2, loss=loss)
    assert pair.bounds.keys() == {'losses', 'updates'}
    assert_agrees(pair)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_an_exemplar_step_has_the_peers_pixel_gradient(problem, scope):
    pair = step_pairs.exemplar_step(
        problem, scope=scope, inner_steps=2, num=4, batch=3, query=5
    )
    assert pair.bounds.keys() == {'loss', 'grads'}
    assert_agrees(pair)
    # Exemplars that no minibatch holds would have a gradient of zero.
    assert np.abs(pair.ours.result()['grads']).max(axis=(1, 2, 3)).all()


def test_evaluation_has_the_peers_features_and_predictions(problem):
    pair = feature_pairs.evaluation(problem, num_batches=2, per_class=3)
    assert_agrees(pair)
    predictions = pair.ours.result()['nme']
    assert len(predictions) == 2 * SIZES.batch
    assert len(set(predictions.tolist())) > 1


@pytest.mark.parametrize(('count', 'num'), [(20, 6), (5, 5)])
def test_herding_has_the_peers_ranks(count, num):
    random = np.random.default_rng(0)
    features = random.standard_normal((3, count, 8)).astype(np.float32)
    pair = feature_pairs.herding(features, num)
    assert_agrees(pair)
    for row in pair.peer.result()['ranks']:
        assert len(set(row)) == num


def test_work_that_differs_is_refused(problem):
    arrays = problems.draw(problem, 1, SIZES.batch)
    ours, other = (
        torch_peers.train_steps(
            problems.make_network(problem, variables), *arrays, lr=0.1
        )
        for variables in (problem.variables, problem.reference)
    )
    pair = timing.Pair(ours, other, {'losses': problems.BOUND})
    with pytest.raises(ValueError, match='step: losses differs by'):
        timing.check('step', pair)


def test_a_peers_run_resumes_from_the_last(problem):
    arrays = problems.draw(problem, 1, SIZES.batch)
    network = problems.make_network(problem)
    peer = torch_peers.train_steps(network, *arrays, lr=0.1)
    results = []
    for _ in range(2):
        peer.run()
        results.append(peer.result())
    first, last = (jax.tree.leaves(r['params']) for r in results)
    assert results[1]['losses'] < results[0]['losses']
    assert all((a != b).any() for a, b in zip(first, last, strict=True))
