"""Tries on two processes of one run: that disagree, are alone, or are ended."""

import contextlib
import pathlib
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import compare_runs
import faulty_processes
import numpy as np
from forked import End, Fork
from hostile_runs import (
    HANG,
    LINE,
    MAIN,
    SAME,
    SILENT,
    TRACEBACK,
    Fixtures,
    Try,
    flags_of,
)

from mnemonics_jax.core import multihost

# Seconds in which processes must find each other, in place of `multihost`'s:
# no option sets them.
START_SECONDS = 15
# Seconds after which a run has surely begun to learn exemplars.
MOMENT = 25.0
ONE_DEVICE = '--xla_force_host_platform_device_count=1'
# Programs of several devices are compiled at each start: fast.
XLA = f'{ONE_DEVICE} --xla_backend_optimization_level=0'

# What the second process has otherwise.
FIELDS = (
    ('train.lr', '0.3'),
    ('seed', '7'),
    ('protocol.class_order_seed', '5'),
    ('exemplars.strategy', 'herding'),
    ('exemplars.per_class', '1'),
    ('weight_transfer', 'true'),
    ('report', 'false'),
    ('data.train_per_class', '11'),
    ('data.source', 'digits'),
    ('checkpoint.every_steps', '3'),
    ('train.lr', 'nan'),
    ('train.batch_size', '3'),
    ('method.name', 'nothing'),
)
VARIABLES = (
    ('JAX_ENABLE_X64', '1'),
    ('JAX_DISABLE_JIT', '1'),
    ('JAX_THREEFRY_PARTITIONABLE', '0'),
    ('JAX_DEFAULT_MATMUL_PRECISION', 'bfloat16'),
    ('XLA_FLAGS', '--xla_no_such_flag=1'),
    ('XLA_FLAGS', ONE_DEVICE.replace('=1', '=2')),
    ('MNEMONICS_JAX_CACHE', '/dev/null'),
    ('MNEMONICS_JAX_CACHE', 'off'),
)


def start(
    folder: pathlib.Path,
    flags: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]] = ({}, {}),
) -> list[Fork]:
    """Starts processes, each with its flags and environment."""
    # Read in the fork.
    before, multihost.START_SECONDS = multihost.START_SECONDS, START_SECONDS
    try:
        return [
            Fork(
                MAIN,
                own,
                folder / f'log_{number}',
                environment={'XLA_FLAGS': XLA, **environments[number]},
            )
            for number, own in enumerate(flags)
        ]
    finally:
        multihost.START_SECONDS = before


def flags_of_two(
    run: pathlib.Path, **second: Any
) -> tuple[list[str], list[str]]:
    """Command lines of two processes; the second has other fields."""
    first, other = faulty_processes.flags_of(2)
    return flags_of(run) + first, flags_of(run, **second) + other


def undisturbed(fixtures: Fixtures) -> pathlib.Path:
    """The work directory of a run of two processes, made at its first use."""
    run = fixtures.finished.parent / 'two'
    if not run.exists():
        forks = start(run.parent / 'log_two', flags_of_two(run))
        ends = [fork.end(600) for fork in forks]
        assert [end.status for end in ends] == [0, 0], ends
    return run


def errors_of(end: End) -> list[str]:
    """What it said on stderr that is not the news of a library."""
    lines = [line for line in end.err.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith('[Gloo]')]


def judge(
    ends: Sequence[End], run: pathlib.Path, fixtures: Fixtures
) -> str | None:
    """The outcome of processes that all end by themselves; None if stopped."""
    if any(end.hung for end in ends):
        return HANG
    if any(end.dumped for end in ends):
        return TRACEBACK
    statuses = {end.status for end in ends}
    if statuses == {0}:
        whole = undisturbed(fixtures)
        return SILENT if compare_runs.differences(run, whole) else SAME
    if statuses == {75}:
        return None
    # Mistakes that all have are told by the first process alone.
    told = ends[0].status == 2 and ends[0].refused
    for end in ends:
        silent = end.status == 2 and told and not errors_of(end)
        one = end.refused and len(errors_of(end)) == 1
        if not silent and not (one and end.status in (2, 3)):
            return TRACEBACK
    return LINE


def disagreement(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Two processes of which the second is told something else."""
    run, environments = folder / 'run', [{}, {}]
    kind = random.integers(3)
    flags = [*flags_of_two(run)]
    if kind == 0:
        name, value = FIELDS[random.integers(len(FIELDS))]
        what = f'{name}={value} in one process'
        flags = [*flags_of_two(run, **{name: value})]
    elif kind == 1:
        name, value = VARIABLES[random.integers(len(VARIABLES))]
        what = f'{name}={value} in one process'
        environments[1] = {name: value}
    else:
        changed = ('workdir', 'coordinator', 'num_processes')
        name = changed[random.integers(3)]
        value = {
            'workdir': folder / 'elsewhere',
            'coordinator': '127.0.0.1:9',
            'num_processes': 3,
        }[name]
        what = f'--{name}={value} in one process'
        flags[1] = [*flags[1], f'--{name}={value}']
    if random.integers(2):  # The first one is the one that differs.
        what += ' (the first)'
        own = [flag for flag in flags[0] if 'process_id' in flag]
        other = [flag for flag in flags[1] if 'process_id' in flag]
        flags = [flags[1] + own, flags[0] + other]
        environments.reverse()
    ends = [fork.end() for fork in start(folder, flags, environments)]
    return what, judge(ends, run, fixtures) or TRACEBACK


@contextlib.contextmanager
def _listening(port: int) -> Iterator[None]:
    with socket.create_server(('', port)):
        yield


def alone(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Processes that do not find each other."""
    run = folder / 'run'
    flags = flags_of_two(run)
    port = int(flags[0][-3].rpartition(':')[2])
    in_use: contextlib.AbstractContextManager = contextlib.nullcontext()
    number = int(random.integers(2))
    kind = random.integers(5)
    if kind == 0:
        what, chosen = f'process {number} alone', [flags[number]]
    elif kind == 1:
        what, chosen = f'process {number} twice', [flags[number]] * 2
    elif kind == 2:
        what, chosen = 'a process too many', [*flags, flags[1]]
    elif kind == 3:
        what, chosen = 'port in use', [*flags]
        in_use = _listening(port)
    else:
        what, chosen = 'port in use, process 1 alone', [flags[1]]
        in_use = _listening(port)
    with in_use:
        forks = start(folder, chosen, [{}] * len(chosen))
        ends = [fork.end() for fork in forks]
    return what, judge(ends, run, fixtures) or TRACEBACK


def one_ended(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Ends one of two processes at a drawn moment; then both are rerun."""
    run = folder / 'run'
    number = (signal.SIGKILL, signal.SIGTERM)[random.integers(2)]
    victim, seconds = int(random.integers(2)), random.uniform(0, MOMENT)
    what = f'{number.name} to process {victim} after {seconds:.1f} s'
    forks = start(folder, flags_of_two(run))
    forks[victim].wait_for(lambda: False, seconds)
    forks[victim].send_signal(number)
    ends = [fork.end() for fork in forks]
    # By the signal before there is a handler; 75 in the grace after it.
    excused = (0, -number, 75 if number == signal.SIGTERM else 0)
    left = [end for end in ends if end.status not in excused]
    outcome = judge(left, run, fixtures) if left else None
    if outcome in (HANG, TRACEBACK, SILENT):
        return what, outcome
    again = [fork.end() for fork in start(folder, flags_of_two(run))]
    return what, judge(again, run, fixtures) or TRACEBACK


def processes(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Two processes that disagree, miss each other, or lose one another."""
    kinds = (disagreement, disagreement, alone, one_ended)
    return kinds[random.integers(4)](random, folder, fixtures)
