"""Several processes as one: how they find each other, and end together.

A process is one host of a TPU slice, one GPU under SLURM, or what the flags of
the command line say. All of them run the same program on one mesh of all
devices. A process that dies takes the others with it, in seconds or within
`HEARTBEAT_SECONDS`, since they would wait for its part of a sum for ever.
"""

import os
import signal
import socket
import urllib.error
import urllib.request
from typing import Any

import jax
from jax.experimental import multihost_utils

# Each of these is less than the two minutes in which a run has to stop when a
# process is lost. How long processes may differ in starting:
START_SECONDS = 110
# How long one may be silent before it counts as dead. A thread outside of
# Python answers, so long computations and compilations are no silence:
HEARTBEAT_SECONDS = 60
# How long one that ends, by an error say, waits for the others to end too
# before it takes them down. Those that ended well meet in `leave` before.
END_SECONDS = 60

# Cloud's list of the hosts of a TPU slice, on a server inside each host.
HOSTS_PATH = '/computeMetadata/v1/instance/attributes/worker-network-endpoints'


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process one of several; call it before devices are touched.

    Without values: under SLURM with several tasks, and on a Cloud TPU slice of
    several hosts, JAX finds the others by itself. Anywhere else this process
    stays alone, and nothing is waited for.

    Args:
        coordinator: 'HOST:PORT' of process 0, for all to meet at.
        num_processes: how many there are, >= 1.
        process_id: which of 0..num_processes - 1 this one is.

    Raises:
        ValueError: only some of the three are given, or one is out of range, or
            the port of process 0 is taken.
    """
    check_flags(coordinator, num_processes, process_id)
    if coordinator is not None:
        if process_id == 0:
            check_port(coordinator)
        connect(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            # All local devices, also where SLURM would be found.
            cluster_detection_method='deactivate',
        )
    elif num_slurm_tasks() > 1:
        connect(
            cluster_detection_method='slurm',
            local_device_ids=slurm_device_ids(),
        )
    elif num_tpu_hosts() > 1:
        connect()


def connect(**arguments: Any) -> None:
    """Meets the other processes.

    Args:
        **arguments: for `jax.distributed.initialize`.
    """
    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(
        initialization_timeout=START_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=END_SECONDS,
        **arguments,
    )
    # JAX notes SIGTERM for a service that nothing here asks, and goes on.
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    # On CPU the first sum over processes fails where one of them comes to it
    # thirty seconds late. Now they are together; later they may not be.
    multihost_utils.sync_global_devices('join')


def is_main() -> bool:
    """Whether this is the process that prints and writes reports."""
    return jax.process_index() == 0


def leave() -> None:
    """Waits until all processes have come here, to end together.

    Without it, a process that ends early would take the others for stuck after
    `END_SECONDS`, while process 0 may still write its report.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('leave')


def check_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Checks what `join` is given.

    Raises:
        ValueError: only some of the three are given, or one is out of range.
    """
    given = {
        '--coordinator': coordinator,
        '--num_processes': num_processes,
        '--process_id': process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            f'{", ".join(missing)}: missing; allowed: '
            f'{", ".join(given)} together, or none of them'
        )
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            f'--coordinator={coordinator}: allowed: HOST:PORT of process 0'
        )
    if num_processes < 1:
        raise ValueError(
            f'--num_processes={num_processes}: allowed: a whole number >= 1'
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f'--process_id={process_id}: allowed: 0..{num_processes - 1}, '
            'below --num_processes'
        )


def check_port(coordinator: str) -> None:
    """Checks that process 0 can listen; JAX would crash, or share the port.

    Args:
        coordinator: 'HOST:PORT' of this process.

    Raises:
        ValueError: another program listens on the port.
    """
    try:
        socket.create_server(('', int(coordinator.rpartition(':')[2]))).close()
    except OSError as e:
        raise ValueError(
            f'--coordinator={coordinator}: the port cannot be listened on '
            f'({e.strerror}); allowed: a free one'
        ) from e


def num_slurm_tasks() -> int:
    """Tasks of the SLURM step that this process is one of; 1 outside of one."""
    # A batch script, or a shell inside an allocation, is in no step.
    in_step = {'SLURM_JOB_ID', 'SLURM_PROCID', 'SLURM_STEP_NODELIST'}
    if not in_step <= os.environ.keys():
        return 1
    return int(os.environ.get('SLURM_NTASKS', '1'))


def slurm_device_ids() -> list[int] | None:
    """Which of the GPUs that this task sees are its own; None for JAX's choice.

    JAX takes the i-th for the i-th task of a node. Where SLURM has hidden all
    but one (`--gpus-per-task=1`), that one is the 0-th.
    """
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    return [0] if visible and ',' not in visible else None


def num_tpu_hosts() -> int:
    """Hosts of the TPU slices that this process runs on; 1 where there is none.

    Reads what JAX reads: variables where Kubernetes sets them, else the list
    of hosts from the server inside the host.
    """
    # JAX sets this when imported where there are TPUs and their library; with
    # JAX_PLATFORMS=cpu a host of a slice computes alone.
    config: Any = jax.config
    if 'tpu' not in (config.jax_platforms or ''):
        return 1
    hosts = tpu_hosts_by_variable()
    if hosts is None:
        hosts = tpu_hosts_by_server()
    num_slices = int(os.environ.get('MEGASCALE_NUM_SLICES', '1'))
    return len(hosts.split(',')) * num_slices


def tpu_hosts_by_variable() -> str | None:
    """Hosts of this slice, separated by commas, where a variable has them."""
    path = os.environ.get('TPU_PROCESS_ADDRESSES_PATH')
    if path:
        with open(path) as file:
            return file.read()
    return os.environ.get(
        'TPU_PROCESS_ADDRESSES', os.environ.get('TPU_WORKER_HOSTNAMES')
    )


def tpu_hosts_by_server() -> str:
    """Hosts of this slice, separated by commas; empty where no server is."""
    if 'TPU_SKIP_MDS_QUERY' in os.environ:
        return ''
    server = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
    request = urllib.request.Request(
        f'http://{server}{HOSTS_PATH}', headers={'Metadata-Flavor': 'Google'}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ''
