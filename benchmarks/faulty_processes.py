"""A run of several processes of which one is killed.

Of benchmarks/faults.py and tests/processes_test.py.
"""

import pathlib
import signal
import socket
import subprocess
import time
from typing import NamedTuple

import faulty_run
from faulty_run import Fields, Place

# In which the others have to end by themselves.
LIMIT = 120  # Seconds.


class Loss(NamedTuple):
    """What became of a run of which a process was killed.

    Attributes:
        seconds: until the last of the others had ended.
        codes: exit codes of all processes; None for one that did not end.
        place: the last checkpoint then.
        output: of process 0.
    """

    seconds: float
    codes: list[int | None]
    place: Place
    output: str


def start(
    workdir: pathlib.Path, num: int, devices: int, fields: Fields
) -> list[subprocess.Popen]:
    """Starts so many processes of the real command with so many devices."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'
    return [
        faulty_run.start(
            workdir,
            fields,
            f'--coordinator={address}',
            f'--num_processes={num}',
            f'--process_id={number}',
            devices=devices,
        )
        for number in range(num)
    ]


def finish(processes: list[subprocess.Popen]) -> str:
    """What process 0 prints until all end well.

    Raises:
        RuntimeError: one does not.
    """
    outputs = [faulty_run.finish(process) for process in processes]
    return outputs[0]


def kill_one(
    workdir: pathlib.Path, number: int, devices: int, fields: Fields
) -> Loss:
    """Runs two processes and kills one after the first checkpoint of a loop."""
    processes = start(workdir, 2, devices, fields)
    faulty_run.wait_for(processes[0], workdir, Place(0, 0))
    processes[number].send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    while time.monotonic() < killed_at + LIMIT:
        if all(process.poll() is not None for process in processes):
            break
        time.sleep(0.05)
    seconds = time.monotonic() - killed_at
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
    output = processes[0].communicate()[0]
    processes[1].communicate()
    place = max(faulty_run.places_on_disk(workdir))
    return Loss(round(seconds, 1), codes, place, output)
