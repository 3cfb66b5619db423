"""Time and memory of the phases of a long run, and memory at CIFAR-100's size.

    python benchmarks/long_runs.py --out=benchmarks/results/long_runs_cpu.json

One run has 50 classes and then 50 phases of one class, on synthetic images,
with the small network of growth.py. In the other, the default network learns
exemplars of images as many and as large as CIFAR-100's, in the first two phases
with one epoch and two outer steps each; `peak_bytes` is the largest resident
memory of its process.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import growth
import record
import start

from mnemonics_jax import experiment

POINT = {**growth.BASE, 'classes': 100, 'phases': 50}
CIFAR = (
    '--config=configs/cifar100.py:phases=5,exemplars=mnemonics',
    '--config.data.source=synthetic',
    '--config.data.num_classes=100',
    '--config.data.train_per_class=500',
    '--config.data.test_per_class=100',
    '--config.data.image_size=32',
    '--config.train.epochs=1',
    '--config.train.milestones=()',
    '--config.finetune.epochs=1',
    '--config.exemplars.outer_steps=2',
    '--config.protocol.stop_after_phase=1',
)


def run_phases(workdir: str) -> None:
    """The run of many phases; prints its seconds, in all and by phase."""
    begun = time.perf_counter()
    chosen, placement = growth.configure(POINT)
    parts = experiment.prepare(chosen, workdir, placement)
    results = experiment.run(parts, workdir)
    found = {
        'seconds': time.perf_counter() - begun,
        'seconds_a_phase': [p['seconds']['total'] for p in results['phases']],
    }
    print(json.dumps(found))


def resident_bytes(child: subprocess.Popen[str], path: pathlib.Path) -> Any:
    """Resident bytes of a run's process after each phase, until it ends.

    Read from outside, since reading costs time and memory, too.
    """
    found: list[int] = []
    page, changed = os.sysconf('SC_PAGE_SIZE'), 0.0
    while child.poll() is None:
        time.sleep(0.02)
        if path.exists() and path.stat().st_mtime != changed:
            changed = path.stat().st_mtime
            memory = pathlib.Path(f'/proc/{child.pid}/statm').read_text()
            done = len(json.loads(path.read_text())['phases'])
            if memory and done > len(found):
                found.append(page * int(memory.split()[1]))
    return found


def measure_phases() -> dict[str, Any]:
    """Time and memory of each phase, in a process without cached programs."""
    with tempfile.TemporaryDirectory() as workdir:
        child = subprocess.Popen(
            [sys.executable, __file__, f'--child={workdir}'],
            env={
                **os.environ,
                'PYTHONPATH': str(growth.ROOT),
                'JAX_PLATFORMS': 'cpu',
                'JAX_ENABLE_COMPILATION_CACHE': 'false',
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        resident = resident_bytes(child, pathlib.Path(workdir, 'results.json'))
        output, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f'the run of many phases: status {child.returncode}')
    seconds = json.loads(output.splitlines()[-1])
    return {'point': POINT, **seconds, 'resident_bytes': resident}


def main() -> None:
    """Measures both and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('--child', metavar='WORKDIR', help='in this process')
    arguments = parser.parse_args()
    if arguments.child:
        run_phases(arguments.child)
        return
    if not arguments.out:
        parser.error('--out: must be given')
    before = os.getloadavg()[0]
    figures = {'load_average': before, 'many_phases': measure_phases()}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder, 'run')
        figures['cifar100'] = start.start(place, *CIFAR, whole=True)
    record.write(arguments.out, 'python benchmarks/long_runs.py', figures)


if __name__ == '__main__':
    main()
