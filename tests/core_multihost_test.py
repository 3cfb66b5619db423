"""Several processes that do one run, with real ones where that matters."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys

import compiling
import jax
import pytest

from mnemonics_jax.core import multihost, peers

ROOT = pathlib.Path(__file__).parent.parent
VALUES = {'coordinator': '127.0.0.1:1234', 'num_processes': 2, 'process_id': 1}
SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '1',
}
# The start of each process; argv: a folder, then the arguments of `join`.
JOIN = """
import os, pathlib, sys, time
import jax
import numpy as np
from mnemonics_jax.core import multihost, parallel

multihost.HEARTBEAT_SECONDS = 4
multihost.END_SECONDS = 4

folder, *values = sys.argv[1:]
if values:
    multihost.join(values[0], int(values[1]), int(values[2]))
else:
    multihost.join(None, None, None)
placement = parallel.make_placement()
index = jax.process_index()


def total():
    batch = np.arange(2, dtype=np.float32) + 10 * (1 + index)
    return float(jax.numpy.sum(parallel.shard_batch(placement, batch)))
"""
# Process 0 is late; its report is there when process 1 continues.
LEAVE = (
    JOIN
    + """
found = [jax.process_count(), jax.device_count(), jax.local_device_count()]
assert found == [2, 4, 2], found
assert total() == 10 + 11 + 20 + 21
report = pathlib.Path(folder, 'report')
if multihost.is_main():
    time.sleep(1.25 * multihost.END_SECONDS if values else 0)
    report.write_text('written')
multihost.leave()
print('left', multihost.is_main(), report.read_text())
"""
)
LOOP = (
    JOIN
    + """
total()
print('ready', flush=True)
while True:
    total()
"""
)
FAIL = (
    JOIN
    + """
total()
if index == 1:
    raise KeyError('no such thing')
while True:
    total()
"""
)

# Process 1 is killed when the work of both is done.
LOST_LATE = (
    JOIN
    + """
import signal

total()
multihost.leave()
if index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
"""
)
# Process 1 ends between the two exchanges in which they compare their settings.
LOST_EARLY = (
    """
import os, signal, sys
from jax.experimental import multihost_utils

exchange = multihost_utils.process_allgather


def exchange_once(x):
    multihost_utils.process_allgather = lambda _: os.kill(
        os.getpid(), signal.SIGKILL
    )
    return exchange(x)


if sys.argv[-1] == '1':
    multihost_utils.process_allgather = exchange_once
"""
    + JOIN
)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def processes(code, folder, environments=None):
    """Two processes of two devices each, joined by flags or by variables."""
    port = free_port()
    running = []
    for i in range(2):
        values = [f'127.0.0.1:{port}', '2', str(i)]
        env = {
            **os.environ,
            'XLA_FLAGS': compiling.QUICKLY
            + ' --xla_force_host_platform_device_count=2',
            'PYTHONPATH': str(ROOT),
        }
        if environments:
            values = []
            env |= {'JAX_COORDINATOR_PORT': str(port), **environments[i]}
        running.append(
            subprocess.Popen(
                [sys.executable, '-c', code, str(folder), *values],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def outputs(running):
    return [process.communicate(timeout=100)[0] for process in running]


@pytest.mark.parametrize('found_by', ['flags', 'slurm'])
def test_two_processes_share_a_mesh_and_leave_together(found_by, tmp_path):
    environments = None
    if found_by == 'slurm':
        environments = [
            {**SLURM, 'SLURM_PROCID': i, 'SLURM_LOCALID': i} for i in '01'
        ]
    with processes(LEAVE, tmp_path, environments) as running:
        printed = outputs(running)
        assert 'left True written' in printed[0], printed[0]
        assert 'left False written' in printed[1], printed[1]
        assert [process.returncode for process in running] == [0, 0]


@pytest.mark.slow
def test_a_terminated_process_ends_the_other(tmp_path):
    """JAX leaves SIGTERM to the program."""
    with processes(LOOP, tmp_path) as running:
        for process in running:
            while 'ready' not in (line := process.stdout.readline()):
                assert line, 'ended early'
        running[1].terminate()
        printed = outputs(running)[0]
        assert running[1].returncode == -signal.SIGTERM
        assert running[0].returncode == peers.LOST
        assert peers.LOST_LINE in printed


def test_a_process_lost_while_they_connect_is_one_line(tmp_path):
    with processes(LOST_EARLY, tmp_path) as running:
        printed = outputs(running)[0]
        assert running[1].returncode == -signal.SIGKILL
        assert running[0].returncode == peers.LOST
        *_, last = printed.strip().splitlines()
        assert last.startswith(peers.LOST_LINE)
        assert 'Traceback' not in printed


@pytest.mark.slow
def test_a_process_lost_after_the_work_is_no_failure_of_the_other(tmp_path):
    with processes(LOST_LATE, tmp_path) as running:
        printed = outputs(running)[0]
        assert [each.returncode for each in running] == [0, -signal.SIGKILL]
        assert 'stack trace' not in printed
        assert peers.LOST_LINE not in printed


@pytest.mark.slow
def test_an_error_in_a_process_ends_the_other(tmp_path):
    with processes(FAIL, tmp_path) as running:
        printed = outputs(running)
        assert "KeyError: 'no such thing'" in printed[1]
        assert all(process.returncode for process in running)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'coordinator': None}, '--coordinator: missing; '),
        (
            {'num_processes': None, 'process_id': None},
            '--num_processes, --process_id: missing; ',
        ),
        ({'coordinator': 'host'}, '--coordinator=host: must be HOST:PORT'),
        ({'coordinator': ':12'}, '--coordinator=:12: must be HOST:PORT'),
        ({'coordinator': 'a:70000'}, '--coordinator=a:70000: must be'),
        ({'num_processes': 0}, '--num_processes=0: must be an integer >= 1'),
        ({'process_id': 2}, '--process_id=2: must be in 0..1'),
        ({'process_id': -1}, '--process_id=-1: must be in 0..1'),
    ],
)
def test_wrong_flags_are_refused(change, words):
    with pytest.raises(ValueError) as caught:
        multihost.join(**{**VALUES, **change})
    assert str(caught.value).startswith(words)
    assert '\n' not in str(caught.value)


def test_a_port_in_use_is_refused():
    with socket.create_server(('', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'
        with pytest.raises(ValueError, match=f'--coordinator={address}: .*use'):
            multihost.join(address, 1, 0)


@pytest.fixture
def joined(monkeypatch):
    """The calls of JAX's `initialize`, which does nothing; no cluster here."""
    calls = []
    monkeypatch.setattr(
        jax.distributed, 'initialize', lambda **k: calls.append(k)
    )
    for name in list(os.environ):
        if name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'MEGASCALE_', 'CUDA_')):
            monkeypatch.delenv(name)
    return calls


@pytest.mark.parametrize(
    ('variables', 'platforms', 'asks'),
    [
        ({}, None, False),
        ({**SLURM, 'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'}, None, False),
        (SLURM, 'cpu', True),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, None, True),
        ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, None, False),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'cpu', False),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'tpu,cpu', True),
        ({'TPU_PROCESS_ADDRESSES': 'a:1,b:1'}, 'tpu,cpu', True),
        ({'TPU_PROCESS_ADDRESSES': 'local'}, 'tpu,cpu', False),
        (
            {'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '2'},
            'tpu,cpu',
            True,
        ),
        ({}, 'tpu,cpu', True),
    ],
)
def test_jax_looks_for_others_only_where_there_may_be_some(
    variables, platforms, asks, joined, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = jax.config.jax_platforms
    jax.config.update('jax_platforms', platforms)
    try:
        multihost.join(None, None, None)
    finally:
        jax.config.update('jax_platforms', before)
    assert len(joined) == asks
    assert multihost.is_main()
    multihost.leave()  # Returns at once: there is nobody to wait for.


@pytest.mark.parametrize(
    ('platforms', 'variables'),
    [
        # The batch script of a job with several tasks is in no step.
        ('cpu', {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2'}),
        # A TPU host with no server that lists the hosts of a slice.
        ('tpu,cpu', {'JAX_FORCE_TPU_INIT': '1'}),
    ],
)
def test_a_process_runs_alone_where_jax_finds_no_other(platforms, variables):
    """JAX itself, in a new process: it has to be asked before its first use."""
    code = """
import os
from mnemonics_jax.core import multihost
os.environ.pop('TPU_SKIP_MDS_QUERY', None)
multihost.join(None, None, None)
print('alone')
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env={
            **os.environ,
            'JAX_PLATFORMS': platforms,
            'GCE_METADATA_IP': f'127.0.0.1:{free_port()}',
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == 'alone\n', done.stderr


@pytest.mark.parametrize(
    ('visible', 'ids'), [('', None), ('0,1', None), ('3', [0])]
)
def test_a_slurm_task_takes_its_only_gpu(visible, ids, joined, monkeypatch):
    for name, value in {**SLURM, 'CUDA_VISIBLE_DEVICES': visible}.items():
        monkeypatch.setenv(name, value)
    multihost.join(None, None, None)
    assert [call['local_device_ids'] for call in joined] == [ids]


def test_the_loss_of_a_process_is_noticed_within_two_minutes(joined):
    multihost.join(**VALUES)
    (call,) = joined
    for name in ('heartbeat_timeout_seconds', 'shutdown_timeout_seconds'):
        assert 30 <= call[name] < 120
    # Ours ends first, with a line.
    assert 30 <= multihost.START_SECONDS < 120
    assert call['initialization_timeout'] > multihost.START_SECONDS
