"""Two processes of two devices each: real processes, the real command.

Here the first process is killed, which the other notices at once. Where the
other is killed it takes the seconds of a heartbeat, see
`python benchmarks/faults.py --processes`.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import compiling
import numpy as np
import pytest

from configs import digits
from mnemonics_jax import experiment
from mnemonics_jax.core import peers
from mnemonics_jax.core.workdir import features_name

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import compare_runs
import faulty_processes
import faulty_run

TINY = {
    **faulty_run.SETTINGS,
    **faulty_run.SYNTHETIC,
    'data.test_per_class': 16,
    'train.batch_size': 32,
    'train.epochs': 1,
    # Phases alike, which share their programs.
    'protocol.base_classes': 5,
    'protocol.phases': 1,
    # The 20 of a phase are shared by four devices.
    'exemplars.per_class': 4,
    'exemplars.outer_steps': 6,
    'exemplars.adjust': False,
    'finetune.epochs': 1,
}


@pytest.fixture(scope='module')
def two_by_two(tmp_path_factory):
    """The work directory of a whole run, and what it printed."""
    workdir = tmp_path_factory.mktemp('two') / 'run'
    done = subprocess.run(
        [
            str(ROOT / 'launch' / 'local_processes.sh'),
            '2',
            '--config=configs/digits.py',
            f'--workdir={workdir}',
            *(f'--config.{field}={value}' for field, value in TINY.items()),
        ],
        cwd=ROOT,
        env=compiling.one_device(
            DEVICES_PER_PROCESS='2', PYTHON=sys.executable
        ),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir, done.stdout


def test_two_processes_give_what_one_gives(two_by_two, tmp_path, one_device):
    """One process with one device: the same sums, in another order."""
    config = digits.get_config()
    config.report = False
    config.update_from_flattened_dict(TINY)
    parts = experiment.prepare(config, tmp_path, one_device)
    one = experiment.run(parts, tmp_path)
    workdir, output = two_by_two
    two = json.loads((workdir / 'results.json').read_text())
    # Process 0 alone speaks.
    assert output.count('report: ') == 1
    assert '4 x cpu' in output
    assert two['complete']
    assert [p['num_seen'] for p in two['phases']] == [5, 10]
    for ours, theirs in zip(two['phases'], one['phases'], strict=True):
        for head, counts in theirs['confusion'].items():
            gap = np.trace(ours['confusion'][head]) - np.trace(counts)
            assert abs(gap) <= 1
        assert ours['exemplars']['count'] == theirs['exemplars']['count']
        np.testing.assert_allclose(
            ours['exemplars']['drift_grey_levels'],
            theirs['exemplars']['drift_grey_levels'],
            rtol=1e-2,
        )
    for phase in range(2):
        check_features(workdir, tmp_path, features_name(phase))
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    steps = [json.loads(line)['global_step'] for line in lines]
    assert steps == list(range(len(steps)))


def check_features(ours, theirs, name):
    """The same images in the same order, and almost the same features."""
    with np.load(ours / name) as two, np.load(theirs / name) as one:
        assert set(two) == set(one)
        for exact in ('labels', 'mask', 'class_names'):
            np.testing.assert_array_equal(two[exact], one[exact])
        for close in ('features', 'means'):
            assert two[close].shape == one[close].shape
            cosines = (two[close].astype(float) * one[close]).sum(-1)
            assert cosines.min() > 0.98


def test_the_loss_of_a_process_ends_the_other_and_changes_no_bit(
    two_by_two, tmp_path
):
    learning = faulty_run.Place(0, faulty_run.STAGES.index('learn'), 3)
    loss = faulty_processes.kill_one(
        tmp_path / 'run', 0, 2, TINY, after=learning
    )
    assert loss.codes[0] == -signal.SIGKILL
    assert loss.codes[1] == peers.LOST  # By itself, not by us.
    # One line, and no page of a stack.
    *_, last = loss.outputs[1].strip().splitlines()
    assert last.startswith(peers.LOST_LINE)
    for dump in ('Traceback', 'stack trace', 'Fatal Python error'):
        assert dump not in loss.outputs[1]
    assert loss.seconds < faulty_run.LIMIT
    assert loss.place >= learning
    # What process 1 alone reads of the last checkpoint cannot be read: both
    # processes take the one before.
    steps = tmp_path / 'run' / 'checkpoints' / 'steps'
    last = max(steps.glob('[0-9]*'), key=lambda path: int(path.name))
    parts = [*(last / 'state_learn' / 'ocdbt.process_1' / 'd').iterdir()]
    for path in parts:
        os.truncate(path, path.stat().st_size // 3)
    assert parts
    again = faulty_processes.start(tmp_path / 'run', 2, 2, TINY)
    output = faulty_processes.finish(again)
    assert f'checkpoint steps/{last.name} cannot be read, moved to' in output
    assert faulty_run.resumed_at(output) < loss.place
    assert compare_runs.differences(tmp_path / 'run', two_by_two[0]) == []


def test_processes_that_disagree_end_with_one_line(tmp_path):
    """Another rate in one of them; nothing is written."""
    workdir = tmp_path / 'run'
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'
    flags = [f'--coordinator={address}', '--num_processes=2']
    both = [
        faulty_run.start(
            workdir,
            {**TINY, 'train.lr': 0.05 + number},
            *flags,
            f'--process_id={number}',
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    errors = [
        line
        for output in outputs
        for line in output.splitlines()
        if not line.startswith('[Gloo]')
    ]
    assert errors == [
        'error: train.lr is 1.05 in process 1 and 0.05 in process 0: must be '
        'equal in all 2 processes'
    ]
    assert not workdir.exists()


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        (
            'JAX_ENABLE_X64',
            '1',
            'JAX_ENABLE_X64 is True in process 1 and False',
        ),
        ('XLA_FLAGS', '', 'number of devices is 1 in process 1 and 2'),
    ],
)
def test_surroundings_that_differ_end_all_with_one_line(
    name, value, words, tmp_path, monkeypatch
):
    """Before the processes compute together, which would abort one of them."""
    workdir, both = tmp_path / 'run', []
    for number, flags in enumerate(faulty_processes.flags_of(2)):
        devices = 2 - number if name == 'XLA_FLAGS' else 1
        if number and value:
            monkeypatch.setenv(name, value)
        both.append(faulty_run.start(workdir, TINY, *flags, devices=devices))
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    (line,) = [
        line
        for output in outputs
        for line in output.splitlines()
        if not line.startswith('[Gloo]')
    ]
    assert (
        line == f'error: {words} in process 0: must be equal in all 2 processes'
    )
    assert not workdir.exists()


def test_compiler_flags_are_compared_except_dumps_and_device_counts(
    monkeypatch,
):
    def of(flags):
        monkeypatch.setenv('XLA_FLAGS', flags)
        return peers.settings()['XLA_FLAGS']

    assert of('') == of('--xla_dump_to=/tmp/1') == 'unset'
    assert of('--xla_force_host_platform_device_count=2') == 'unset'
    assert of('--xla_a=1  --xla_b=2') == of('--xla_b=2 --xla_a=1')
    assert of('--xla_a=1') != of('--xla_a=2')


def test_the_first_mistake_of_any_process_is_that_of_all():
    fine = {'error': '', 'described': {'seed': '1', 'lr': '2'}}
    wrong = {'error': 'lr=0: must be > 0', 'described': {}}
    assert peers.first_mistake([fine, fine]) is None
    assert peers.first_mistake([fine, wrong, wrong]) == (
        'process 1: lr=0: must be > 0'
    )
    assert peers.first_mistake([wrong, fine]) == 'lr=0: must be > 0'
    assert peers.disagreement([fine, fine, fine]) is None
    other = {'error': '', 'described': {'seed': '3', 'lr': '2', 'new': '4'}}
    assert peers.disagreement([fine, fine, other]) == (
        'new is 4 in process 2 and missing in process 0; seed is 3 in process '
        '2 and 1 in process 0: must be equal in all 3 processes'
    )


def test_what_takes_too_long_in_cpp_ends_the_process_with_a_line():
    program = (
        'import time\n'
        'from mnemonics_jax.core import peers\n'
        "with peers.ends_after(0.1, 'error: too late'):\n"
        '    time.sleep(60)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (2, 'error: too late\n')


def test_a_mistake_of_one_process_is_one_line_in_all(tmp_path):
    """Its work directory cannot be made."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'
    both = [
        faulty_run.start(
            [tmp_path / 'run', pathlib.Path('/dev/null/run')][number],
            TINY,
            f'--coordinator={address}',
            '--num_processes=2',
            f'--process_id={number}',
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    for output, words in zip(
        outputs, ('process 1: ', '--workdir='), strict=True
    ):
        (line,) = [x for x in output.splitlines() if 'error' in x]
        assert line.startswith(f'error: {words}')
        assert 'Not a directory' in line
