"""Kills one process of a run of several.

Used by benchmarks/faults.py and tests/processes_test.py.
"""

import pathlib
import signal
import socket
import subprocess
import time
from typing import NamedTuple

import faulty_run
from faulty_run import Fields, Place

# The first checkpoint in a loop.
FIRST = Place(0, 0)


class Loss(NamedTuple):
    """Outcome of a run of which one process was killed.

    Attributes:
        seconds: seconds until the last of the other processes exited.
        codes: exit codes of all processes; None for one that did not exit.
        place: place of the last checkpoint.
        outputs: outputs of all processes.
    """

    seconds: float
    codes: list[int | None]
    place: Place
    outputs: list[str]


def flags_of(num: int) -> list[list[str]]:
    """For each of `num` processes the flags by which it finds the others."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'
    shared = [f'--coordinator={address}', f'--num_processes={num}']
    return [[*shared, f'--process_id={number}'] for number in range(num)]


def start(
    workdir: pathlib.Path, num: int, devices: int, fields: Fields
) -> list[subprocess.Popen]:
    """Starts `num` processes of the real command with `devices` devices."""
    return [
        faulty_run.start(workdir, fields, *flags, devices=devices)
        for flags in flags_of(num)
    ]


def finish(processes: list[subprocess.Popen]) -> str:
    """Waits for all processes and returns the output of process 0.

    Raises:
        RuntimeError: a process failed.
    """
    outputs = [faulty_run.finish(process) for process in processes]
    return outputs[0]


def kill_one(
    workdir: pathlib.Path,
    number: int,
    devices: int,
    fields: Fields,
    after: Place = FIRST,
) -> Loss:
    """Runs two processes and kills one after a checkpoint at a place."""
    processes = start(workdir, 2, devices, fields)
    if not faulty_run.wait_for(processes[0], workdir, after):
        raise RuntimeError(f'finished before {after}')
    killed_at = time.monotonic()
    ending = faulty_run.Ending(signal.SIGKILL, number)
    codes, outputs = faulty_run.end(processes, ending)
    seconds = time.monotonic() - killed_at
    place = max(faulty_run.places_on_disk(workdir))
    return Loss(round(seconds, 1), codes, place, outputs)
