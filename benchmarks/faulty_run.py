"""Ends a run at given moments and restarts it.

Used by benchmarks/faults.py and tests/faults_test.py.
"""

import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import forked
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
STAGES = ('train', 'learn', 'adjust', 'finetune')
EVERY_STEPS = 3
# No moments at the last places: the run might end before the delay is over.
LAST_PLACES = 5
MAX_DELAY = 0.3  # Seconds.
TIMEOUT = 300  # Seconds.
# Seconds in which all processes must exit when one of them is ended.
LIMIT = 120
KEEP_ALL = {'checkpoint.keep': 1000}
# `--config.x=y` on top of configs/digits.py: 20 to 60 steps per phase.
SETTINGS = {
    'backbone.name': 'convnet_tiny',
    'protocol.phases': 2,
    'train.epochs': 2,
    'train.batch_size': 64,
    'exemplars.outer_steps': 12,
    'exemplars.adjust_steps': 6,
    'exemplars.inner_steps': 2,
    'exemplars.query_batch': 16,
    'finetune.epochs': 4,
    'finetune.batch_size': 16,
    'finetune.carry': True,
    'checkpoint.every_steps': EVERY_STEPS,
}
# On top of SETTINGS, for tests: avoids importing TensorFlow and scikit-learn at
# each start.
SYNTHETIC = {
    'data.source': 'synthetic',
    'data.feed': 'device',
    'data.num_classes': 10,
    'data.train_per_class': 24,
    'data.test_per_class': 6,
    'data.channels': 1,
    'train.batch_size': 16,
}

Fields = Mapping[str, Any]
Running = subprocess.Popen | forked.Fork


class Place(NamedTuple):
    """Place in a run at which a checkpoint was saved; ordered by time.

    Attributes:
        phase: phase index.
        stage: index into `STAGES`, -1 for the start of the phase.
        step: number of finished steps of the stage.
    """

    phase: int
    stage: int = -1
    step: int = 0

    def __str__(self) -> str:
        if self.stage < 0:
            return f'phase {self.phase}, start'
        return f'phase {self.phase}, {STAGES[self.stage]}, step {self.step}'


class Moment(NamedTuple):
    """When to end a run: `seconds` after it reached `place`."""

    place: Place
    seconds: float


class Ending(NamedTuple):
    """How to end the processes of a run.

    Attributes:
        signal: the signal.
        victim: index of the process that gets it; None for all of them.
        again: if given, the run is restarted and its victim ended once more,
            so many seconds after the start, or when a checkpoint is saved.
    """

    signal: signal.Signals
    victim: int | None = 0
    again: float | None = None


class Fault(NamedTuple):
    """How a run ended, and where the next one resumed.

    Attributes:
        ending: what was done.
        codes: exit codes of the processes, by start; None for one that did not
            end within `LIMIT`.
        outputs: what they printed, by start.
        late: whether the second start had saved a checkpoint when it was
            ended; None without one.
        resumed: place at which the next start resumed.
    """

    ending: Ending
    codes: list[list[int | None]]
    outputs: list[list[str]]
    late: bool | None
    resumed: Place


def arguments_of(workdir: pathlib.Path, fields: Fields) -> list[str]:
    """The command line of a run.

    Args:
        workdir: work directory of the run.
        fields: configuration fields that extend or override `SETTINGS`.
    """
    both = {**SETTINGS, **fields}
    given = [f'--config.{name}={value}' for name, value in both.items()]
    return ['--config=configs/digits.py', f'--workdir={workdir}', *given]


def start(
    workdir: pathlib.Path, fields: Fields, *flags: str, devices: int = 1
) -> subprocess.Popen:
    """Starts the real command.

    Args:
        workdir: see `arguments_of`.
        fields: see `arguments_of`.
        *flags: further flags.
        devices: number of fake devices.
    """
    # The last one of repeated flags counts.
    xla = os.environ.get('XLA_FLAGS', '')
    xla += f' --xla_force_host_platform_device_count={devices}'
    if devices > 1:  # Not cached, so compile fast.
        xla += ' --xla_backend_optimization_level=0'
    return subprocess.Popen(
        [
            sys.executable,
            '-m',
            'mnemonics_jax.main',
            *arguments_of(workdir, fields),
            *flags,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            'XLA_FLAGS': xla,
            # Caches all programs, so that restarts are quick.
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: Running) -> str:
    """Waits for a process and returns its output.

    Raises:
        RuntimeError: it failed.
    """
    output, _ = process.communicate(timeout=TIMEOUT)
    if process.returncode:
        raise RuntimeError(f'exit code {process.returncode}: {output}')
    return output


def places_on_disk(workdir: pathlib.Path) -> list[Place]:
    """Places of the complete checkpoints of a run, in order."""
    found = []
    for kind in ('phases', 'steps'):
        folder = workdir / 'checkpoints' / kind
        if not folder.exists():
            continue
        # An incomplete checkpoint has a temporary, non-numeric name.
        for path in (p for p in folder.iterdir() if p.name.isdigit()):
            if kind == 'phases':
                found.append(Place(int(path.name) + 1))
                continue
            try:
                text = (path / 'position' / 'metadata').read_text()
            except FileNotFoundError:  # Deleted in the meantime.
                continue
            position = json.loads(text)
            stage, step = list(position['stages'].items())[-1]
            found.append(Place(position['phase'], STAGES.index(stage), step))
    return sorted(found)


def run_whole(workdir: pathlib.Path, fields: Fields) -> list[Place]:
    """Runs without interruption; returns the places of all checkpoints."""
    finish(start(workdir, {**fields, **KEEP_ALL}))
    return places_on_disk(workdir)


def draw_moments(
    places: Sequence[Place], count: int, seed: int
) -> list[Moment]:
    """Draws moments spread over a run, in order.

    Up to half follow the first checkpoint of a loop (one for each stage) or of
    a phase without delay. The others are drawn from equal parts of the run, one
    from each.
    """
    random = np.random.default_rng(seed)
    early = places[:-LAST_PLACES]
    firsts = [b for a, b in itertools.pairwise(early) if a[:2] != b[:2]]
    kinds = sorted({place.stage for place in firsts})  # Not all runs adjust.
    moments = []
    for kind in random.permutation(kinds)[: count // 2]:
        choices = [place for place in firsts if place.stage == kind]
        moments.append(Moment(choices[random.integers(len(choices))], 0.0))
    for part in np.array_split(np.arange(len(early)), count - len(moments)):
        delay = round(random.uniform(0, MAX_DELAY), 3)
        moments.append(Moment(early[random.choice(part)], delay))
    return sorted(moments)


def interrupt(
    begin: Callable[[], Sequence[Running]],
    workdir: pathlib.Path,
    moments: Sequence[Moment],
    endings: Sequence[Ending],
) -> list[Fault]:
    """Runs with an end at every moment, restarting each time, to the end.

    A moment refers to a checkpoint saved since the last start. A run that ends
    before one, since two kills in a row left it too much time, has fewer ends.

    Args:
        begin: starts the processes of the run.
        workdir: work directory of the run.
        moments: moments in order.
        endings: how to end the run at each of them.
    """
    found = []
    for moment, ending in zip(moments, endings, strict=True):
        processes = begin()
        if not wait_for(processes[0], workdir, moment.place):
            break
        time.sleep(moment.seconds)
        ends, late = [end(processes, ending)], None
        if ending.again is not None:
            before = places_on_disk(workdir)
            processes = begin()
            deadline = time.monotonic() + ending.again
            while time.monotonic() < deadline:
                if places_on_disk(workdir) != before:
                    break
                time.sleep(0.01)
            ends.append(end(processes, ending))
            late = places_on_disk(workdir) != before
        codes, outputs = map(list, zip(*ends, strict=True))
        found.append(Fault(ending, codes, outputs, late, Place(0)))
    else:
        processes = begin()
    firsts = [fault.outputs[0][0] for fault in found[1:]]
    outputs = [finish(process) for process in processes]
    return [
        fault._replace(resumed=resumed_at(output))
        for fault, output in zip(found, [*firsts, outputs[0]], strict=True)
    ]


def end(
    processes: Sequence[Running], ending: Ending
) -> tuple[list[int | None], list[str]]:
    """Ends a run and waits for all its processes; exit codes and outputs."""
    for number, process in enumerate(processes):
        if ending.victim in (None, number):
            process.send_signal(ending.signal)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if all(process.poll() is not None for process in processes):
            break
        time.sleep(0.02)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
    return codes, [p.communicate(timeout=TIMEOUT)[0] for p in processes]


def wait_for(process: Running, workdir: pathlib.Path, place: Place) -> bool:
    """Waits until a run has saved a new checkpoint at a place or later.

    Returns:
        Whether it has; if not, it finished before.

    Raises:
        RuntimeError: the run failed or hangs.
    """
    last = max(places_on_disk(workdir), default=Place(0))
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        now = max(places_on_disk(workdir), default=last)
        if now > last and now >= place:
            return True
        time.sleep(0.01)
    if process.poll() == 0:
        return False
    process.kill()
    output, _ = process.communicate(timeout=TIMEOUT)
    raise RuntimeError(f'never at {place}: {output}')


def resumed_at(output: str) -> Place:
    """Place at which a process resumed, from its output."""
    within = re.search(
        r'resuming in phase (\d+) .*, (\w+), .*step (\d+)', output
    )
    if within:
        phase, stage, step = within.groups()
        return Place(int(phase), STAGES.index(stage), int(step))
    after = re.search(r'resuming after phase (\d+)', output)
    return Place(int(after[1]) + 1) if after else Place(0)


def ends_of_loops(places: Sequence[Place]) -> set[Place]:
    """The last place of each loop and of each phase."""
    return {max(p for p in places if p[:2] == q[:2]) for q in places}
