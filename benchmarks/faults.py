"""Kills a run at many moments and compares it with an uninterrupted run.

    python benchmarks/faults.py --moments=100 \
        --out=benchmarks/results/faults_cpu.json

The run is the real command on digits, with three phases and all stages, saving
every three steps. It is repeatedly killed by a signal and restarted by the same
command. The final files must equal those of an uninterrupted run bit for bit,
except for wall-clock times. A last chain sends SIGTERM and SIGINT instead.
tests/faults_test.py does the same with few moments.

    python benchmarks/faults.py --processes \
        --out=benchmarks/results/faults_processes_cpu.json

runs two processes with two devices each, kills the first (in another run the
second) in the middle of a stage, and measures how long the other keeps running.
tests/processes_test.py kills only the first.
"""

import argparse
import collections
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import compare_runs
import faulty_processes
import faulty_run
from faulty_run import STAGES, Fault

PER_CHAIN = 20
STOPS = [signal.SIGTERM] * 5 + [signal.SIGINT]


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


def measure(scratch: pathlib.Path, count: int) -> dict[str, Any]:
    """Runs chains with `count` kills, and one with requests to stop."""
    began = time.perf_counter()
    places = faulty_run.run_whole(scratch / 'whole', {})
    alone = time.perf_counter() - began
    sizes = [min(PER_CHAIN, count - n) for n in range(0, count, PER_CHAIN)]
    chains = [[signal.SIGKILL] * size for size in sizes] + [STOPS]
    faults, unlike = [], []
    for seed, signals in enumerate(chains):
        workdir = scratch / f'chain_{seed}'
        moments = faulty_run.draw_moments(places, len(signals), seed)
        faults += faulty_run.interrupt(workdir, moments, signals, {})
        unlike.append(compare_runs.differences(workdir, scratch / 'whole'))
        print(f'{len(faults)} ends, differences: {unlike}', flush=True)
    ends = faulty_run.ends_of_loops(places)
    return {
        'seeds': [*range(len(chains))],
        'num_ends': len(faults),
        'ends': dict(
            collections.Counter(f'{f.sent.name}: {f.code}' for f in faults)
        ),
        'resumed_in': count_by_stage(faults),
        'resumed_between_loops': sum(f.resumed in ends for f in faults),
        'differences_by_chain': unlike,
        'checkpoints_of_the_whole_run': len(places),
        'seconds_of_the_whole_run': round(alone, 1),
        'seconds': round(time.perf_counter() - began, 1),
    }


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--moments', type=int, default=100)
    parser.add_argument('--processes', action='store_true')
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    # Imported late, since it starts JAX and slows the runs.
    import record

    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{scratch}/cache')
        command, folder = 'python benchmarks/faults.py ', pathlib.Path(scratch)
        if arguments.processes:
            figures = measure_processes(folder)
            command += '--processes'
            unlike = [found['differences'] for found in figures.values()]
        else:
            figures = measure(folder, arguments.moments)
            command += f'--moments={arguments.moments}'
            unlike = figures['differences_by_chain']
    sizes = {'every_steps': faulty_run.EVERY_STEPS}
    record.write(arguments.out, command, {**sizes, **figures})
    if any(unlike):
        sys.exit(1)


if __name__ == '__main__':
    main()
