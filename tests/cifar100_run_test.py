"""CIFAR-100 from files that TFDS writes, through the real command."""

import json

import numpy as np
import pytest
from command import run_module
from data_tfds_test import cifar_examples, write_set

TINY = {
    'data.subset_classes': 20,
    'protocol.base_classes': 10,
    'backbone.name': 'convnet_tiny',
    'train.epochs': 1,
    'train.milestones': '()',
    'exemplars.per_class': 2,
    'exemplars.outer_steps': 3,
    'finetune.epochs': 1,
}


@pytest.mark.slow
def test_learned_exemplars_of_cifar100(tmp_path):
    """10 + 5 x 2 classes; the config file as it is but for sizes."""
    splits = {
        'train': cifar_examples('train', 8),
        'test': cifar_examples('test', 2),
    }
    write_set('cifar100', str(tmp_path / 'tfds'), splits, 'tfrecord')
    workdir = tmp_path / 'run'
    done = run_module(
        'main',
        '--config=configs/cifar100.py:phases=5,adjust=true,transfer=true',
        f'--config.data.dir={tmp_path / "tfds"}',
        f'--workdir={workdir}',
        *(f'--config.{field}={value}' for field, value in TINY.items()),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((workdir / 'results.json').read_text())
    assert results['complete']
    seen = [phase['num_seen'] for phase in results['phases']]
    assert seen == [10, 12, 14, 16, 18, 20]
    for phase in results['phases']:
        assert phase['exemplars']['count'] == 2 * phase['num_seen']
        assert phase['exemplars']['bytes'] == 2 * phase['num_seen'] * 3072
        assert phase['exemplars']['drift_grey_levels'] > 0
        counted = np.sum(phase['confusion']['nme'])
        assert counted == 2 * phase['num_seen']
    assert 'adjust_drift_grey_levels' in results['phases'][1]['exemplars']
    assert (workdir / 'report.html').exists()
