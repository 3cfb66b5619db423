"""Kills a run at many moments, and compares its end with an undisturbed one's.

    python benchmarks/faults.py --moments=100 \
        --out=benchmarks/results/faults_cpu.json

The run is the real command on the digits, of three phases with every stage,
saving every three steps. It is started, ended by a signal, started again by
the same command, and so on; what it wrote in the end has to be that of a run
nobody disturbed, bit for bit, but for wall-clock times. A last chain is asked
to stop, by SIGTERM and SIGINT. tests/faults_test.py does the same with few
moments.
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

import faulty_run
from faulty_run import STAGES, Fault

PER_CHAIN = 20
STOPS = [signal.SIGTERM] * 5 + [signal.SIGINT]


def count_by_stage(faults: Sequence[Fault]) -> dict[str, int]:
    """How many processes went on in which stage."""
    return dict(
        collections.Counter(
            STAGES[f.resumed.stage]
            if f.resumed.stage >= 0
            else 'start of a phase'
            for f in faults
        )
    )


def measure(scratch: pathlib.Path, count: int) -> dict[str, Any]:
    """Runs with `count` kills in chains, one with requests to stop."""
    began = time.perf_counter()
    places = faulty_run.run_whole(scratch / 'whole', {})
    alone = time.perf_counter() - began
    sizes = [min(PER_CHAIN, count - n) for n in range(0, count, PER_CHAIN)]
    chains = [[signal.SIGKILL] * size for size in sizes] + [STOPS]
    faults, unlike = [], []
    for seed, signals in enumerate(chains):
        workdir = scratch / f'chain_{seed}'
        moments = faulty_run.draw_moments(places, len(signals), seed)
        faults += faulty_run.disturb(workdir, moments, signals, {})
        unlike.append(faulty_run.differences(workdir, scratch / 'whole'))
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


def main() -> None:
    """Kills, compares, and writes what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--moments', type=int, default=100)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    # Here, for it starts JAX: the runs are to have the machine for themselves.
    import record

    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{scratch}/cache')
        figures = measure(pathlib.Path(scratch), arguments.moments)
    sizes = {'every_steps': faulty_run.EVERY_STEPS}
    command = f'python benchmarks/faults.py --moments={arguments.moments}'
    record.write(arguments.out, command, {**sizes, **figures})
    if any(figures['differences_by_chain']):
        sys.exit(1)


if __name__ == '__main__':
    main()
