"""Several processes that do one run: how they start and end together.

A process is one host of a TPU slice, one GPU under SLURM, or what the flags
say. All run the same program on one mesh of all devices. When a process dies,
the others end too, at once or within `HEARTBEAT_SECONDS`, since a sum over all
devices would wait for it forever.
"""

import os
import signal
import socket
import sys
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnemonics_jax.core import cli, peers

# All below the two minutes in which a run has to end when it loses a process.
# How long a process waits for the others at the start:
START_SECONDS = 110
# How long a process may be silent before it counts as dead. A thread outside of
# Python answers, so long computations and compilations do not count as silence:
HEARTBEAT_SECONDS = 60
# How long a process that fails waits for the others to end before it ends them.
# Processes that succeed meet in `leave` first.
END_SECONDS = 60

# The number of processes that a launcher started: SLURM, Open MPI.
_NUM_PROCESSES = ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects this process to the others; call it before devices are touched.

    Without arguments JAX detects the tasks of a SLURM step or of Open MPI and
    the hosts of a Cloud TPU slice. Anywhere else the process runs alone.

    Args:
        coordinator: 'HOST:PORT' of process 0.
        num_processes: number of processes, >= 1.
        process_id: index of this process, 0..num_processes - 1.

    Raises:
        ValueError: only some of the three are given, one is out of range, or
            another program listens on the port of process 0.
    """
    check_flags(coordinator, num_processes, process_id)
    if coordinator is not None:
        if process_id == 0:
            check_port(coordinator)
        connect(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            # Keeps all local devices, even under SLURM.
            cluster_detection_method='deactivate',
        )
    elif may_have_peers():
        connect(local_device_ids=own_gpu())


def may_have_peers() -> bool:
    """Whether JAX is to look for other processes.

    JAX alone would open a port and take only one GPU for a single SLURM task,
    fail in many Kubernetes pods, and connect the hosts of a TPU slice even with
    JAX_PLATFORMS=cpu.
    """
    if any(int(os.environ.get(name, '1')) > 1 for name in _NUM_PROCESSES):
        return True
    # JAX sets this on import where it finds TPUs.
    config: Any = jax.config
    if 'tpu' not in (config.jax_platforms or ''):
        return False
    hosts = os.environ.get(
        'TPU_PROCESS_ADDRESSES', os.environ.get('TPU_WORKER_HOSTNAMES')
    )
    # JAX would try to resolve the name of a single host, which may be 'local'.
    # Without these variables it asks the server that Cloud TPU hosts have.
    several_slices = 'MEGASCALE_NUM_SLICES' in os.environ
    return hosts is None or ',' in hosts or several_slices


def own_gpu() -> list[int] | None:
    """The index of this task's GPU among those visible; None for JAX's choice.

    JAX takes the i-th GPU for the i-th task of a node. Where SLURM hides all
    others (`--gpus-per-task=1`), the only visible one has index 0.
    """
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    return [0] if visible and ',' not in visible else None


def connect(**arguments: Any) -> None:
    """Connects to the other processes, if there are any.

    Args:
        **arguments: arguments of `jax.distributed.initialize`.
    """
    handler = signal.getsignal(signal.SIGTERM)
    missing = (
        'error: some processes of this run did not start within '
        f'{START_SECONDS} s; their output says why'
    )
    # Before they meet: a process too many aborts the others when it connects.
    unwatch = peers.watch()
    try:
        with peers.ends_after(START_SECONDS, missing):
            jax.distributed.initialize(
                # Later than ours: JAX would abort.
                initialization_timeout=2 * START_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=END_SECONDS,
                **arguments,
            )
    except OSError:  # A TPU host without the server that lists a slice's hosts.
        unwatch()
        return
    except ValueError as e:
        unwatch()
        # What JAX raises where it detects no cluster.
        if 'coordinator_address should be defined' not in str(e):
            raise
        return
    # JAX replaces the handler, for a service that is not used here.
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    # On CPU the first sum over processes fails if one of them is thirty seconds
    # late. They are together now, and may not be later.
    try:
        peers.check_devices()
        peers.in_all(lambda: (None, peers.settings()))
    except Exception as e:
        peers.end_if_lost(e)
        if not isinstance(e, ValueError):
            raise
        fail(e)


def is_main() -> bool:
    """Whether this is the process that prints and writes reports."""
    return jax.process_index() == 0


def fail(error: BaseException) -> NoReturn:
    """Ends with an error that all processes have; process 0 prints it."""
    if is_main():
        cli.fail(error)
    sys.exit(2)


def leave() -> None:
    """Waits for all processes, so that they end together.

    Without it, a process that ends early would end the others after
    `END_SECONDS`, while process 0 may still write the report.
    """
    if jax.process_count() > 1:
        try:
            multihost_utils.sync_global_devices('leave')
        except Exception as e:
            peers.end_if_lost(e)
            raise
        peers.note_status(0)


def all_agree(yes: bool) -> bool:
    """Whether `yes` is true in all processes; they wait for each other."""
    if jax.process_count() == 1:
        return yes
    return bool(multihost_utils.process_allgather(np.array(yes)).all())


def check_flags(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Checks the arguments of `join`.

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
            f'{", ".join(missing)}: missing; {", ".join(given)} must be given '
            'together'
        )
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            f'--coordinator={coordinator}: must be HOST:PORT of process 0'
        )
    if num_processes < 1:
        raise ValueError(
            f'--num_processes={num_processes}: must be an integer >= 1'
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f'--process_id={process_id}: must be in 0..{num_processes - 1}'
        )


def check_port(coordinator: str) -> None:
    """Checks that process 0 can listen; JAX would crash or share the port.

    Args:
        coordinator: 'HOST:PORT' of process 0, which is this one.

    Raises:
        ValueError: another program listens on the port.
    """
    try:
        socket.create_server(('', int(coordinator.rpartition(':')[2]))).close()
    except OSError as e:
        raise ValueError(
            f'--coordinator={coordinator}: must be a free port ({e.strerror})'
        ) from e
