"""Kills runs at many moments and compares them with uninterrupted ones.

    python benchmarks/faults.py --out=benchmarks/results/faults_cpu.json

A run is the real command on digits, with all stages, saving every three steps.
It is repeatedly ended, at drawn moments, and restarted by the same command:

    SIGKILL             one of its processes; others must end with status 3
    SIGTERM             all of its processes, which must end with status 75
    SIGKILL twice       the second one soon after the restart

The final files must equal those of an uninterrupted run bit for bit, except for
wall-clock times. `KINDS` lists the runs. Their processes are forks, which need
not import everything at each start. tests/faults_test.py does the same with few
moments, and starts each process anew.

    python benchmarks/faults.py --processes \
        --out=benchmarks/results/faults_processes_cpu.json

runs two processes with two devices each, kills the first (in another run the
second) in the middle of a stage, and measures how long the other keeps running.
tests/processes_test.py kills only the first.
"""

import argparse
import collections
import functools
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import compare_runs  # noqa: E402
import faulty_processes  # noqa: E402
import faulty_run  # noqa: E402
import forked  # noqa: E402
import numpy as np  # noqa: E402
from faulty_run import STAGES, Ending, Fault, Running  # noqa: E402

MAIN = 'mnemonics_jax.main'
PER_CHAIN = 10
# Of what a run prints.
LAST_LINE = 'max forgetting: '
XLA = '--xla_force_host_platform_device_count=1'


class Kind(NamedTuple):
    """A kind of run, and how often it is ended.

    Attributes:
        fields: configuration fields on top of `faulty_run.SETTINGS`.
        processes: number of processes, of one device each.
        kills: number of single SIGKILLs.
        stops: number of SIGTERMs.
        doubles: number of times that SIGKILL is sent twice.
        soon: seconds, at most, from a restart to the second SIGKILL: about
            twice what it takes to the first checkpoint.
    """

    fields: dict[str, Any]
    processes: int
    kills: int
    stops: int
    doubles: int
    soon: float


KINDS = {
    'raw': Kind({}, 1, 60, 10, 10, 2.5),
    'jpeg': Kind(
        {'exemplars.storage': 'jpeg', 'exemplars.adjust': False},
        1,
        20,
        5,
        5,
        2.5,
    ),
    # Compiles at each start, see `parallel.avoid_cached_collectives`.
    'raw on two processes': Kind(
        {'protocol.phases': 1, 'report': False}, 2, 20, 5, 5, 15.0
    ),
}


def count_by_stage(faults: Sequence[Fault]) -> dict[str, int]:
    """Number of resumed processes by stage."""
    return dict(
        collections.Counter(
            STAGES[f.resumed.stage]
            if f.resumed.stage >= 0
            else 'start of a phase'
            for f in faults
        )
    )


def draw_endings(kind: Kind, random: np.random.Generator) -> list[Ending]:
    """The ends of a kind of run, in a drawn order."""
    endings = [Ending(signal.SIGTERM, None)] * kind.stops
    for number in range(kind.kills + kind.doubles):
        again = round(float(random.uniform(0, kind.soon)), 3)
        victim = int(random.integers(kind.processes))
        second = again if number < kind.doubles else None
        endings.append(Ending(signal.SIGKILL, victim, second))
    return [endings[i] for i in random.permutation(len(endings))]


def begin(workdir: pathlib.Path, kind: Kind, **more: Any) -> list[Running]:
    """Starts the processes of a run; `more` are fields by name."""
    fields = {**kind.fields, **more}
    arguments = faulty_run.arguments_of(workdir, fields)
    flags: list[list[str]] = [[]]
    xla = XLA
    if kind.processes > 1:
        flags = faulty_processes.flags_of(kind.processes)
        xla += ' --xla_backend_optimization_level=0'  # Compiles fast.
    return [
        forked.Fork(
            MAIN,
            [*arguments, *own],
            workdir.parent / f'log_{number}',
            environment={'XLA_FLAGS': xla},
        )
        for number, own in enumerate(flags)
    ]


def is_right(fault: Fault) -> bool:
    """Whether all processes ended as they are to."""
    # A restart may lose its process before both are there.
    others = [{3}, {2, 3}]
    for number, codes in enumerate(fault.codes):
        # The signal may come when the work is done.
        done = any(LAST_LINE in text for text in fault.outputs[number])
        for process, code in enumerate(codes):
            if done and code == 0:
                continue
            if fault.ending.signal == signal.SIGTERM:
                right = {75}
            elif process == fault.ending.victim:
                right = {-signal.SIGKILL}
            else:
                right = others[number]
            if code not in right:
                return False
    stacks = ('Traceback (most recent', 'stack trace', 'Fatal Python')
    texts = [text for outputs in fault.outputs for text in outputs]
    return not any(stack in text for stack in stacks for text in texts)


def measure(
    scratch: pathlib.Path, kind: Kind, seed: int, scale: float
) -> dict[str, Any]:
    """Ends runs of a kind in chains, and compares each with a whole run."""
    began = time.perf_counter()
    whole = scratch / 'whole'
    keep: dict[str, Any] = faulty_run.KEEP_ALL
    for process in begin(whole, kind, **keep):
        faulty_run.finish(process)
    places = faulty_run.places_on_disk(whole)
    alone = time.perf_counter() - began
    random = np.random.default_rng(seed)
    endings = draw_endings(kind, random)
    endings = endings[: round(scale * len(endings))]
    faults: list[Fault] = []
    unlike = []
    while chain := endings[len(faults) : len(faults) + PER_CHAIN]:
        first = len(faults)
        workdir = scratch / f'chain_{first}'
        moments = faulty_run.draw_moments(places, len(chain), seed + first)
        faults += faulty_run.interrupt(
            functools.partial(begin, workdir, kind), workdir, moments, chain
        )
        unlike.append(compare_runs.differences(workdir, whole))
        print(f'{len(faults)} ends, differences: {unlike}', flush=True)
    wrong = [fault for fault in faults if not is_right(fault)]
    for fault in wrong:
        print(f'wrong: {fault}', flush=True)
    return {
        **figures_of(faults, places),
        'wrong_ends': len(wrong),
        'differences_by_chain': unlike,
        'checkpoints_of_the_whole_run': len(places),
        'seconds_of_the_whole_run': round(alone, 1),
        'seconds': round(time.perf_counter() - began, 1),
    }


def figures_of(
    faults: Sequence[Fault], places: Sequence[faulty_run.Place]
) -> dict[str, Any]:
    """Counts of what happened."""
    doubles = [fault for fault in faults if fault.ending.again is not None]
    singles = [fault for fault in faults if fault.ending.again is None]
    ends = faulty_run.ends_of_loops(places)
    return {
        'ends': {
            **collections.Counter(f.ending.signal.name for f in singles),
            'SIGKILL twice': len(doubles),
        },
        'second_before_a_checkpoint': sum(not f.late for f in doubles),
        # Of all processes of a start; the second one of two kills apart.
        'statuses': dict(
            collections.Counter(str(f.codes)[1:-1] for f in faults)
        ),
        'resumed_in': count_by_stage(faults),
        'resumed_between_loops': sum(f.resumed in ends for f in faults),
    }


def measure_kinds(
    scratch: pathlib.Path, seed: int, scale: float
) -> dict[str, Any]:
    """The figures of all `KINDS`."""
    forked.warm_up()
    found = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        print(name, flush=True)
        folder = scratch / f'kind_{number}'
        folder.mkdir()
        found[name] = measure(folder, kind, seed + 1000 * number, scale)
    return {'seed': seed, **found}


def measure_processes(scratch: pathlib.Path) -> dict[str, Any]:
    """Runs with two processes: uninterrupted, and with either one killed."""
    fields = {'exemplars.outer_steps': 6, 'train.epochs': 1}
    faulty_processes.finish(
        faulty_processes.start(scratch / 'whole', 2, 2, fields)
    )
    found = {}
    for number in range(2):
        workdir = scratch / f'killed_{number}'
        loss = faulty_processes.kill_one(workdir, number, 2, fields)
        output = faulty_processes.finish(
            faulty_processes.start(workdir, 2, 2, fields)
        )
        found[f'killed_{number}'] = {
            'seconds_until_the_other_ended': loss.seconds,
            'codes': loss.codes,
            'last_checkpoint': str(loss.place),
            'resumed_in': str(faulty_run.resumed_at(output)),
            'differences': compare_runs.differences(workdir, scratch / 'whole'),
        }
        print(found, flush=True)
    return found


def main() -> None:
    """Kills, compares, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--scale', type=float, default=1.0, help='part of the ends to make'
    )
    parser.add_argument('--processes', action='store_true')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    # No `TemporaryDirectory`, which every fork would remove at its end.
    scratch = pathlib.Path(tempfile.mkdtemp())
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{scratch}/cache')
    # Caches all programs, so that restarts are quick.
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    command = 'python benchmarks/faults.py '
    try:
        if args.processes:
            figures = measure_processes(scratch)
            command += '--processes'
            bad = any(found['differences'] for found in figures.values())
        else:
            figures = measure_kinds(scratch, args.seed, args.scale)
            command += f'--seed={args.seed} --scale={args.scale:g}'
            bad = any(
                figures[name]['wrong_ends']
                or any(figures[name]['differences_by_chain'])
                for name in KINDS
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    # Imported late, since it starts JAX, of which no fork is to be made.
    import record

    sizes = {'every_steps': faulty_run.EVERY_STEPS}
    record.write(args.out, command, {**sizes, **figures})
    sys.exit(bad)


if __name__ == '__main__':
    main()
