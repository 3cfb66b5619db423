"""A run that is ended at given moments, started again, and compared.

Of benchmarks/faults.py and tests/faults_test.py.
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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
STAGES = ('train', 'learn', 'adjust', 'finetune')
EVERY_STEPS = 3
# The undisturbed run takes seconds to end from here, more than any delay.
LAST_PLACES = 5
MOST_DELAY = 0.3  # Seconds.
PATIENCE = 300  # Seconds.
# `--config.x=y` on top of configs/digits.py: 20 to 60 steps a phase.
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
# On top of those, for tests: spares each start the imports of TensorFlow and
# scikit-learn.
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


class Place(NamedTuple):
    """Where in a run a checkpoint was made; a later one is greater.

    Attributes:
        phase: its index.
        stage: index into `STAGES`, -1 for the start of the phase.
        step: of the stage, as many as are done.
    """

    phase: int
    stage: int = -1
    step: int = 0

    def __str__(self) -> str:
        if self.stage < 0:
            return f'phase {self.phase}, start'
        return f'phase {self.phase}, {STAGES[self.stage]}, step {self.step}'


class Moment(NamedTuple):
    """When a run is ended: so many seconds after it was seen at a place."""

    place: Place
    seconds: float


class Fault(NamedTuple):
    """How a process ended, and where the next one went on.

    Attributes:
        sent: the signal.
        code: the process' exit code.
        output: what it printed.
        resumed: where the following process said that it goes on.
    """

    sent: signal.Signals
    code: int
    output: str
    resumed: Place


def start(
    workdir: pathlib.Path, fields: Fields, *flags: str, devices: int = 1
) -> subprocess.Popen:
    """Starts the real command.

    Args:
        workdir: of the run.
        fields: beside, or in place of, those of `SETTINGS`.
        *flags: more of them.
        devices: that the process pretends to have.
    """
    fields = {**SETTINGS, **fields}
    # Of a flag that is given twice, the second counts.
    xla = os.environ.get('XLA_FLAGS', '')
    xla += f' --xla_force_host_platform_device_count={devices}'
    if devices > 1:  # Compiled anew at each start, so as fast as can be.
        xla += ' --xla_backend_optimization_level=0'
    return subprocess.Popen(
        [
            sys.executable,
            '-m',
            'mnemonics_jax.main',
            '--config=configs/digits.py',
            f'--workdir={workdir}',
            *(f'--config.{name}={value}' for name, value in fields.items()),
            *flags,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            'XLA_FLAGS': xla,
            # All that the undisturbed run compiles, so that starts are quick.
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """What a process prints until it ends well.

    Raises:
        RuntimeError: it does not.
    """
    output, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f'exit code {process.returncode}: {output}')
    return output


def places_on_disk(workdir: pathlib.Path) -> list[Place]:
    """Where the whole checkpoints of a run were made, in order."""
    found = []
    for kind in ('phases', 'steps'):
        folder = workdir / 'checkpoints' / kind
        if not folder.exists():
            continue
        # Until it is whole, a checkpoint is called otherwise.
        for path in (p for p in folder.iterdir() if p.name.isdigit()):
            if kind == 'phases':
                found.append(Place(int(path.name) + 1))
                continue
            try:
                text = (path / 'cursor' / 'metadata').read_text()
            except FileNotFoundError:  # Just then superseded.
                continue
            position = json.loads(text)
            stage, step = list(position['stages'].items())[-1]
            found.append(Place(position['phase'], STAGES.index(stage), step))
    return sorted(found)


def run_whole(workdir: pathlib.Path, fields: Fields) -> list[Place]:
    """Runs undisturbed; returns the places of all its checkpoints."""
    finish(start(workdir, {**fields, 'checkpoint.keep': 1000}))
    return places_on_disk(workdir)


def draw_moments(
    places: Sequence[Place], count: int, seed: int
) -> list[Moment]:
    """Moments spread over a run, in order.

    Up to half are at once when the first checkpoint of a loop is there, of each
    stage one, or when that of a phase's end is. Of the others, one lies in each
    part of as many equal parts of the run.
    """
    random = np.random.default_rng(seed)
    early, kinds = places[:-LAST_PLACES], range(-1, len(STAGES))
    firsts = [b for a, b in itertools.pairwise(early) if a[:2] != b[:2]]
    moments = []
    for kind in random.permutation(kinds)[: count // 2]:
        among = [place for place in firsts if place.stage == kind]
        moments.append(Moment(among[random.integers(len(among))], 0.0))
    for part in np.array_split(np.arange(len(early)), count - len(moments)):
        delay = round(random.uniform(0, MOST_DELAY), 3)
        moments.append(Moment(early[random.choice(part)], delay))
    return sorted(moments)


def disturb(
    workdir: pathlib.Path,
    moments: Sequence[Moment],
    signals: Sequence[signal.Signals],
    fields: Fields,
) -> list[Fault]:
    """Runs with an end at every moment, started again each time.

    A moment counts from a checkpoint made since the last start.

    Args:
        workdir: of the run; the same command all the time.
        moments: in order.
        signals: what ends the run, for each moment.
        fields: see `start`.
    """
    ended = []
    for moment, number in zip(moments, signals, strict=True):
        process = start(workdir, fields)
        wait_for(process, workdir, moment.place)
        time.sleep(moment.seconds)
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
        ended.append((number, process.returncode, output))
    outputs = [output for *_, output in ended[1:]]
    outputs.append(finish(start(workdir, fields)))
    return [
        Fault(*end, resumed_at(following))
        for end, following in zip(ended, outputs, strict=True)
    ]


def wait_for(
    process: subprocess.Popen, workdir: pathlib.Path, place: Place
) -> None:
    """Returns when a run has made a new checkpoint, at a place or later.

    Raises:
        RuntimeError: the run ended before.
    """
    last = max(places_on_disk(workdir), default=Place(0))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        now = max(places_on_disk(workdir), default=last)
        if now > last and now >= place:
            return
        time.sleep(0.01)
    process.kill()
    raise RuntimeError(f'never at {place}: {process.communicate()[0]}')


def resumed_at(output: str) -> Place:
    """Where a process says that it goes on."""
    within = re.search(
        r'resuming in phase (\d+) .*, (\w+), .*step (\d+)', output
    )
    if within:
        phase, stage, step = within.groups()
        return Place(int(phase), STAGES.index(stage), int(step))
    after = re.search(r'resuming after phase (\d+)', output)
    return Place(int(after[1]) + 1) if after else Place(0)


def ends_of_loops(places: Sequence[Place]) -> set[Place]:
    """Of each loop and each phase, the last place."""
    return {max(p for p in places if p[:2] == q[:2]) for q in places}
