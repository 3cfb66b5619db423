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
import threading
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


def follow(
    workdir: pathlib.Path, ended: threading.Event, found: list[int]
) -> None:
    """Appends the resident bytes of this process after each phase."""
    path = workdir / 'results.json'
    page = os.sysconf('SC_PAGE_SIZE')
    while not ended.wait(0.05):
        count = path.exists() and len(json.loads(path.read_text())['phases'])
        if count > len(found):
            pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
            found.append(page * int(pages))


def measure_phases() -> dict[str, Any]:
    """Seconds and resident memory of each phase, in this process."""
    resident: list[int] = []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as workdir:
        arguments = (pathlib.Path(workdir), ended, resident)
        follower = threading.Thread(target=follow, args=arguments)
        follower.start()
        begun = time.perf_counter()
        chosen, placement = growth.configure(POINT)
        parts = experiment.prepare(chosen, workdir, placement)
        results = experiment.run(parts, workdir)
        seconds = time.perf_counter() - begun
        time.sleep(0.2)  # The follower sees the last phase, too.
        ended.set()
        follower.join()
    phases = [each['seconds']['total'] for each in results['phases']]
    return {
        'point': POINT,
        'seconds': seconds,
        'seconds_a_phase': phases,
        'resident_bytes': resident,
    }


def measure_apart() -> dict[str, Any]:
    """`measure_phases` in a process of its own, without cached programs."""
    done = subprocess.run(
        [sys.executable, __file__, '--child'],
        env={
            **os.environ,
            'PYTHONPATH': str(growth.ROOT),
            'JAX_PLATFORMS': 'cpu',
            'JAX_ENABLE_COMPILATION_CACHE': 'false',
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures both and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('--child', action='store_true', help='in this process')
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_phases()))
        return
    if not arguments.out:
        parser.error('--out: must be given')
    before = os.getloadavg()[0]
    figures = {'load_average': before, 'many_phases': measure_apart()}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder, 'run')
        figures['cifar100'] = start.start(place, *CIFAR, whole=True)
    record.write(arguments.out, 'python benchmarks/long_runs.py', figures)


if __name__ == '__main__':
    main()
