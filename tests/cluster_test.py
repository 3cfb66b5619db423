"""Joining several processes, with real ones, and their end."""

import contextlib
import http.server
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import compiling
import jax
import pytest

from mnemonics_jax.core import multihost

ROOT = pathlib.Path(__file__).parent.parent
VALUES = {'coordinator': '127.0.0.1:1234', 'num_processes': 2, 'process_id': 1}
SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '1',
}
# What a process does; argv: the three values of `join` or nothing, after it.
JOIN = """
import os, pathlib, sys, time
import jax
import numpy as np
from mnemonics_jax.core import multihost, parallel

multihost.HEARTBEAT_SECONDS = 4
multihost.END_SECONDS = 4
connect = jax.distributed.initialize


def connect_hosts(**arguments):
    connect(**arguments)
    jax.config.update('jax_platforms', 'cpu')


if 'JAX_FORCE_TPU_INIT' in os.environ:
    # JAX has seen that there are no TPUs, but finds the hosts all the same.
    del os.environ['TPU_SKIP_MDS_QUERY']
    jax.distributed.initialize = connect_hosts
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
# Process 0 may be late; what it has written is there when the others go on.
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


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def processes(code, folder, environments=None):
    """Two processes of two devices each; found by flags, or by variables."""
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


@contextlib.contextmanager
def tpu_servers(num=2):
    """Addresses of what a slice's hosts ask about themselves, one each."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for i in range(num):
            replies = {
                'agent-worker-number': str(i),
                'worker-network-endpoints': ','.join(['127.0.0.1'] * num),
                'tpu-env': "ACCELERATOR_TYPE: 'v4-16'",
            }

            class Handler(http.server.BaseHTTPRequestHandler):
                known = replies

                def do_GET(self):
                    key = self.path.rpartition('/attributes/')[2]
                    self.send_response(200 if key in self.known else 404)
                    self.end_headers()
                    self.wfile.write(self.known.get(key, '').encode())

                def log_message(self, *args):
                    pass

            server = stack.enter_context(
                http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
            )
            threading.Thread(
                target=server.serve_forever, args=(0.02,), daemon=True
            ).start()
            stack.callback(server.shutdown)
            addresses.append(f'127.0.0.1:{server.server_port}')
        yield addresses


def outputs(running):
    return [process.communicate(timeout=100)[0] for process in running]


@pytest.mark.parametrize('found_by', ['flags', 'slurm', 'tpu'])
def test_two_processes_share_a_mesh_and_leave_together(found_by, tmp_path):
    with contextlib.ExitStack() as stack:
        environments = None
        if found_by == 'slurm':
            environments = [
                {**SLURM, 'SLURM_PROCID': i, 'SLURM_LOCALID': i} for i in '01'
            ]
        elif found_by == 'tpu':
            environments = [
                {'GCE_METADATA_IP': address, 'JAX_FORCE_TPU_INIT': '1'}
                | {'JAX_PLATFORMS': 'tpu,cpu'}
                for address in stack.enter_context(tpu_servers())
            ]
        running = stack.enter_context(processes(LEAVE, tmp_path, environments))
        printed = outputs(running)
        assert 'left True written' in printed[0], printed[0]
        assert 'left False written' in printed[1], printed[1]
        assert [process.returncode for process in running] == [0, 0]


@pytest.mark.parametrize(
    ('victim', 'number'), [(0, signal.SIGKILL), (1, signal.SIGTERM)]
)
def test_a_killed_process_takes_the_other_with_it(victim, number, tmp_path):
    """By SIGTERM too, unless something in the process waits for it."""
    with processes(LOOP, tmp_path) as running:
        for process in running:
            while 'ready' not in (line := process.stdout.readline()):
                assert line, 'ended early'
        running[victim].send_signal(number)
        printed = outputs(running)[1 - victim]
        assert running[victim].returncode == -number
        assert running[1 - victim].returncode not in (0, None)
        assert 'another task died' in printed


def test_an_error_in_a_process_takes_the_other_with_it(tmp_path):
    with processes(FAIL, tmp_path) as running:
        printed = outputs(running)
        assert "KeyError: 'no such thing'" in printed[1]
        assert all(process.returncode for process in running)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'coordinator': None}, ['--coordinator: missing', '--process_id']),
        ({'num_processes': None}, ['--num_processes: missing']),
        (
            {'num_processes': None, 'process_id': None},
            ['--num_processes, --process_id: missing', 'or none of them'],
        ),
        ({'coordinator': 'host'}, ['--coordinator=host: allowed: HOST:PORT']),
        ({'coordinator': ':12'}, ['--coordinator=:12: allowed: HOST:PORT']),
        ({'coordinator': 'a:70000'}, ['--coordinator=a:70000']),
        ({'num_processes': 0}, ['--num_processes=0: allowed']),
        ({'process_id': 2}, ['--process_id=2: allowed: 0..1']),
        ({'process_id': -1}, ['--process_id=-1: allowed: 0..1']),
    ],
)
def test_what_does_not_describe_a_process_is_refused(change, words):
    with pytest.raises(ValueError) as caught:
        multihost.join(**{**VALUES, **change})
    for word in words:
        assert word in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(('', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'
        with pytest.raises(ValueError, match=f'--coordinator={address}: .*use'):
            multihost.join(address, 1, 0)


@pytest.fixture
def joined(monkeypatch):
    """What JAX is asked for, in place of it; no cluster around."""
    asked = []
    monkeypatch.setattr(
        jax.distributed, 'initialize', lambda *a, **k: asked.append(k)
    )
    for name in list(os.environ):
        if name.startswith(('SLURM_', 'TPU_', 'MEGASCALE_', 'CUDA_')):
            monkeypatch.delenv(name)
    # Whoever asks the network waits in vain.
    monkeypatch.setenv('GCE_METADATA_IP', f'127.0.0.1:{free_port()}')
    return asked


@pytest.fixture
def on_tpu():
    before = jax.config.jax_platforms
    jax.config.update('jax_platforms', 'tpu,cpu')
    yield
    jax.config.update('jax_platforms', before)


def join_with(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    multihost.join(None, None, None)


@pytest.mark.parametrize(
    'variables',
    [
        {},
        {**SLURM, 'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'},
        # A batch script of a job with several tasks, outside of its steps.
        {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2'},
        # A slice of TPUs whose processes are told to leave them alone.
        {'TPU_WORKER_HOSTNAMES': 'a,b'},
    ],
)
def test_a_process_stays_alone(variables, joined, monkeypatch):
    with tpu_servers() as addresses:
        join_with(monkeypatch, {**variables, 'GCE_METADATA_IP': addresses[0]})
    assert not joined
    assert multihost.is_main()
    multihost.leave()  # At once: there is nobody to wait for.


@pytest.mark.parametrize(
    'variables',
    [
        {},  # Nobody answers.
        {'TPU_WORKER_HOSTNAMES': 'localhost'},
        {'TPU_PROCESS_ADDRESSES': 'local:8471'},
    ],
)
def test_a_single_tpu_host_stays_alone(variables, joined, on_tpu, monkeypatch):
    join_with(monkeypatch, variables)
    assert not joined


def test_a_tpu_host_that_the_server_calls_single_stays_alone(
    joined, on_tpu, monkeypatch
):
    with tpu_servers(1) as addresses:
        join_with(monkeypatch, {'GCE_METADATA_IP': addresses[0]})
    assert not joined


@pytest.mark.parametrize(
    'variables',
    [
        {'TPU_WORKER_HOSTNAMES': 'a,b'},
        {'TPU_PROCESS_ADDRESSES': 'a:1,b:1'},
        {'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '2'},
    ],
)
def test_hosts_of_a_slice_join_by_variables(
    variables, joined, on_tpu, monkeypatch
):
    join_with(monkeypatch, variables)
    assert len(joined) == 1


def test_hosts_of_a_slice_join_by_a_file(joined, on_tpu, monkeypatch, tmp_path):
    (tmp_path / 'hosts').write_text('a:1,b:1\n')
    variables = {'TPU_PROCESS_ADDRESSES_PATH': str(tmp_path / 'hosts')}
    join_with(monkeypatch, variables)
    assert len(joined) == 1


@pytest.mark.parametrize(
    ('visible', 'ids'), [(None, None), ('0,1', None), ('3', [0])]
)
def test_a_slurm_task_takes_a_gpu_that_it_sees(
    visible, ids, joined, monkeypatch
):
    visible = {} if visible is None else {'CUDA_VISIBLE_DEVICES': visible}
    join_with(monkeypatch, {**SLURM, **visible})
    assert [asked['local_device_ids'] for asked in joined] == [ids]


def test_the_loss_of_a_process_is_noticed_within_two_minutes(joined):
    multihost.join(**VALUES)
    (asked,) = joined
    for name in (
        'initialization_timeout',
        'heartbeat_timeout_seconds',
        'shutdown_timeout_seconds',
    ):
        assert 30 <= asked[name] < 120
