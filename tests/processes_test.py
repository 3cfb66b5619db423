"""Two processes against one: real processes, the real command."""

import json
import os
import pathlib
import subprocess

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
TINY = {
    # Spares each process the imports of TensorFlow and scikit-learn.
    'data.source': 'synthetic',
    'data.feed': 'device',
    'data.num_classes': 10,
    'data.train_per_class': 24,
    'data.test_per_class': 16,
    'data.channels': 1,
    'train.epochs': 1,
    'protocol.base_classes': 6,
    'protocol.phases': 1,
    'backbone.name': 'convnet_tiny',
    'exemplars.outer_steps': 3,
    'exemplars.adjust': False,
    'exemplars.inner_steps': 2,
    'finetune.epochs': 1,
}


def run(workdir, processes, devices):
    """Runs the command in so many processes with so many devices each."""
    done = subprocess.run(
        [
            str(ROOT / 'launch' / 'local_processes.sh'),
            str(processes),
            '--config=configs/digits.py',
            f'--workdir={workdir}',
            *(f'--config.{field}={value}' for field, value in TINY.items()),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            'XLA_FLAGS': '--xla_backend_optimization_level=0',
            'DEVICES_PER_PROCESS': str(devices),
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_give_what_one_gives(tmp_path):
    """2 x 1 devices against 1 x 2: the same sums, in another order."""
    output = run(tmp_path / 'two', 2, 1)
    run(tmp_path / 'one', 1, 2)
    # Process 0 alone speaks.
    assert output.count('report: ') == 1
    assert '2 x cpu' in output
    two, one = (
        json.loads((tmp_path / name / 'results.json').read_text())
        for name in ('two', 'one')
    )
    assert two['complete']
    assert [p['num_seen'] for p in two['phases']] == [6, 10]
    for ours, theirs in zip(two['phases'], one['phases'], strict=True):
        for head, counts in theirs['confusion'].items():
            gap = abs(ours['accuracy'][head] - theirs['accuracy'][head])
            assert gap * np.sum(counts) < 1.5
        assert ours['exemplars']['count'] == theirs['exemplars']['count']
        np.testing.assert_allclose(
            ours['exemplars']['drift_grey_levels'],
            theirs['exemplars']['drift_grey_levels'],
            rtol=1e-2,
        )
    lines = (tmp_path / 'two' / 'metrics.jsonl').read_text().splitlines()
    steps = [json.loads(line)['global_step'] for line in lines]
    assert steps == list(range(len(steps)))
