"""A run that is killed and started again ends as if it had not been."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from mnemonics_jax.progress import read_records

ROOT = pathlib.Path(__file__).parent.parent
# `--config.x=y` on top of configs/digits.py: seconds a phase.
TINY = {
    'data.source': 'synthetic',
    'data.num_classes': 6,
    'data.train_per_class': 12,
    'data.test_per_class': 6,
    'data.channels': 1,
    'backbone.name': 'convnet_tiny',
    'protocol.base_classes': 2,
    'protocol.phases': 2,
    'train.epochs': 2,
    'exemplars.adjust': True,
    'exemplars.per_class': 4,
    'exemplars.outer_steps': 4,
    'exemplars.adjust_steps': 4,
    'exemplars.inner_steps': 2,
    'exemplars.query_batch': 8,
    'finetune.epochs': 1,
    'finetune.batch_size': 8,
    'finetune.carry': True,
}


def start(workdir: pathlib.Path) -> subprocess.Popen:
    """Starts the real command on one device."""
    flags = [f'--config.{name}={value}' for name, value in TINY.items()]
    return subprocess.Popen(
        [
            sys.executable,
            '-m',
            'mnemonics_jax.main',
            '--config=configs/digits.py',
            f'--workdir={workdir}',
            *flags,
        ],
        cwd=ROOT,
        env={**os.environ, 'XLA_FLAGS': ''},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def without_seconds(workdir: pathlib.Path) -> dict:
    """Results but for the wall-clock times, which no rerun repeats."""
    results = json.loads((workdir / 'results.json').read_text())
    for phase in results['phases']:
        del phase['seconds']
    return results


def test_killed_after_a_phase_and_resumed_is_bit_for_bit_the_same(tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    finish(start(whole))

    process = start(killed)
    checkpoint = killed / 'checkpoints' / 'phases' / '0'
    deadline = time.monotonic() + 300
    # Orbax renames a checkpoint into place when it is complete.
    while not checkpoint.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    interrupted = without_seconds(killed)
    assert len(interrupted['phases']) < 3
    assert not interrupted['complete']

    output = finish(start(killed))
    assert 'resuming after phase' in output
    assert without_seconds(killed) == without_seconds(whole)
    for phase in range(3):
        name = f'exemplars/phase_{phase}.npz'
        with np.load(killed / name) as ours, np.load(whole / name) as theirs:
            for field in theirs.files:
                np.testing.assert_array_equal(ours[field], theirs[field])
    ours, theirs = (
        read_records(folder / 'metrics.jsonl') for folder in (killed, whole)
    )
    assert ours == theirs
    assert len(ours) > 10
