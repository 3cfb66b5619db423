"""A run that diverges ends with one line, and can go on with a lower rate."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest
from command import assert_refused, call_main

from mnemonics_jax.report import embedding, runs, setup
from mnemonics_jax.train import checkpoint, evaluation

# Weights are multiplied by 1 - rate * WEIGHT_DECAY in each of the two steps of
# a phase: by 0.9, or by -1e17. Then the losses of both steps are finite, and
# the features after them are not.
WEIGHT_DECAY = 1e8
LOW, HIGH = 1e-9, 9e8
RESTART = '--config.checkpoint.on_changed_lr=restart_phase'
FIELDS = {
    'backbone.name': 'convnet_tiny',
    'data.source': 'synthetic',
    'data.feed': 'device',
    'data.num_classes': 4,
    'data.image_size': 8,
    'data.train_per_class': 8,
    'data.test_per_class': 4,
    'data.channels': 1,
    'protocol.base_classes': 2,
    'protocol.phases': 1,
    'method.name': 'finetune',
    'weight_transfer': False,
    'exemplars.strategy': 'none',
    'exemplars.adjust': False,
    'train.epochs': 1,
    'train.batch_size': 8,
    'train.milestones': '()',
    'train.weight_decay': WEIGHT_DECAY,
    'evaluate.batch_size': 8,
    'checkpoint.every_steps': 1,
    'report': False,
}


def run(workdir, rate, *flags, **fields):
    given = {**FIELDS, **fields, 'train.lr': rate}
    return call_main(
        f'--workdir={workdir}',
        *(f'--config.{name}={value}' for name, value in given.items()),
        *flags,
    )


def starts(workdir):
    return json.loads((workdir / 'config.json').read_text())['starts']


@pytest.fixture(name='diverged', scope='module')
def _diverged(tmp_path_factory):
    """A run that diverged in phase 1, what it said, and what it copied."""
    workdir = tmp_path_factory.mktemp('diverged') / 'run'
    first = run(workdir, LOW, '--config.protocol.stop_after_phase=0')
    assert first.returncode == 0, first.stderr
    base = shutil.copytree(workdir, workdir.parent / 'base')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        done = run(workdir, HIGH, RESTART)
    return workdir, base, done


def test_weights_that_overflow_after_the_last_loss_are_one_line(diverged):
    workdir, _, done = diverged
    assert_refused(
        done,
        'phase 1: ',
        'are not finite',
        'checkpoints: phases/0, ',
        'a lower learning rate',
        RESTART,
    )
    assert checkpoint.ends(workdir) == [0]


def test_the_phase_is_begun_anew_with_a_lower_rate(diverged):
    workdir, base, _ = diverged
    assert any(name.startswith('steps/') for name in checkpoint.whole(workdir))
    refused = run(workdir, LOW)
    assert_refused(refused, f'train.lr: {LOW!r} here, {HIGH!r} there', RESTART)
    done = run(workdir, LOW, RESTART)
    assert done.returncode == 0, done.stderr
    assert run(base, LOW).returncode == 0
    ours, theirs = (
        jax.tree.leaves(checkpoint.read_end(place, 1)[0])
        for place in (workdir, base)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    rates = [start.get('new_rates') for start in starts(workdir)]
    assert rates == [
        None,
        {'train.lr': [LOW, HIGH]},
        {'train.lr': [HIGH, LOW]},
    ]
    # Of a rate that is the same there is no more to say: it resumes as ever.
    assert 'already finished' in run(workdir, LOW, RESTART).stdout
    said = setup.warnings(runs.read(workdir, 'run'))
    assert f'From phase 1 on: train.lr {LOW} instead of {HIGH}.' in said
    other = run(
        workdir.parent / 'other', LOW, **{'train.base_run': str(workdir)}
    )
    assert_refused(other, 'train.base_run: ', 'from phase 1 on')


@pytest.mark.parametrize(
    ('value', 'sound'),
    [(0.0, True), (-1e16, True), (1e18, False), (np.nan, False)],
)
def test_features_must_have_a_length(value, sound):
    features = np.ones((2, 3, 4), np.float32)
    features[1, 2, 3] = value
    assert evaluation.are_sound(features) is sound


def test_stored_features_that_are_not_finite_are_not_drawn(tmp_path):
    content = {
        'features': np.ones((3, 2), np.float16),
        'labels': np.zeros(3, np.int32),
        'means': np.ones((1, 2), np.float32),
        'exemplars': np.zeros((1, 0, 2), np.float16),
        'mask': np.zeros((1, 0), bool),
        'class_names': np.array(['a']),
    }
    (tmp_path / 'features').mkdir()
    found = runs.Run('run', tmp_path, {}, {}, {}, [], [])
    for value in (1, np.nan):
        content['features'][1, 1] = value
        np.savez(tmp_path / 'features' / 'phase_0.npz', **content)
        stored = embedding.stored(found, 0)
        assert (stored is None) == np.isnan(value)
