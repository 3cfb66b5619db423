"""What the tries of `benchmarks/hostile.py` share.

A try is a function `(random, folder, fixtures) -> (what, outcome)`: it draws
what it does, does it in an empty folder and says what became of it.
"""

import pathlib
import shutil
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import forked
import numpy as np
from forked import End

SAME, LINE = 'same bits', 'one line'
STARTS = 'starts'
TRACEBACK, HANG, SILENT = 'traceback', 'hang', 'silent difference'
OUTCOMES = (SAME, LINE, STARTS, TRACEBACK, HANG, SILENT)
BAD = (TRACEBACK, HANG, SILENT)
MAIN = 'mnemonics_jax.main'

# On top of configs/digits.py: a run of few seconds.
SMALL = {
    'backbone.name': 'convnet_tiny',
    'data.source': 'synthetic',
    'data.feed': 'device',
    'data.num_classes': 4,
    'data.train_per_class': 12,
    'data.test_per_class': 4,
    'data.channels': 1,
    'protocol.base_classes': 2,
    'protocol.phases': 1,
    'train.epochs': 2,
    'train.batch_size': 8,
    'exemplars.per_class': 2,
    'exemplars.adjust': False,
    'exemplars.outer_steps': 4,
    'exemplars.inner_steps': 2,
    'exemplars.query_batch': 8,
    'finetune.epochs': 1,
    'finetune.batch_size': 8,
    'checkpoint.every_steps': 2,
}

Try = tuple[str, str]


class Fixtures(NamedTuple):
    """Runs that tries copy.

    Attributes:
        finished: work directory of a finished run.
        begun: of a run that was killed while exemplars were learned.
        image: an image of the size of the run's.
        said: by command, what it prints of the finished run.
    """

    finished: pathlib.Path
    begun: pathlib.Path
    image: pathlib.Path
    said: dict[str, str]


def flags_of(workdir: pathlib.Path | str, **fields: Any) -> list[str]:
    """The command line of a small run; values as text."""
    both = {**SMALL, **{k.replace('__', '.'): v for k, v in fields.items()}}
    given = [f'--config.{name}={value}' for name, value in both.items()]
    return ['--config=digits', f'--workdir={workdir}', *given]


def make_fixtures(folder: pathlib.Path) -> Fixtures:
    """Makes the runs."""
    finished, begun = folder / 'finished', folder / 'begun'
    end = forked.run(MAIN, flags_of(finished), folder / 'log', 600)
    assert end.status == 0, end
    fork = forked.Fork(MAIN, flags_of(begun), folder / 'log')
    steps = begun / 'checkpoints' / 'steps'

    def learning() -> bool:
        found = steps.glob('[0-9]*/position/metadata')
        return any('learn' in path.read_text() for path in found)

    assert fork.wait_for(learning), fork.end()
    fork.kill()
    assert fork.end().status == -signal.SIGKILL
    from PIL import Image

    image = folder / 'image.png'
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(image)
    fixtures = Fixtures(finished, begun, image, {})
    for name, command in COMMANDS.items():
        copy = shutil.copytree(finished, folder / f'said_{name}')
        end = forked.run(*command(copy, fixtures), folder / 'log')
        assert end.status == 0, end
        fixtures.said[name] = essence(name, copy, end)
    return fixtures


def essence(name: str, workdir: pathlib.Path, end: End) -> str:
    """What a command gave, without times and paths."""
    if name == 'export':
        made = workdir.parent / f'{workdir.name}_export'
        # Not the folders of Orbax, which have times and random names; the
        # safetensors hold the same.
        files = sorted(path for path in made.glob('*') if path.is_file())
        files += sorted(made.glob('exemplars/**/*.*'))
        return repr([(p.name, p.read_bytes()) for p in files])
    if name == 'report':
        page = (workdir / 'report.html').read_text()
        return page.replace(str(workdir), '')
    return end.out.replace(str(workdir), '')


COMMANDS: dict[str, Callable[..., tuple[str, list[str]]]] = {
    'report': lambda run, _: ('mnemonics_jax.report', [str(run)]),
    'predict': lambda run, f: (
        'mnemonics_jax.predict',
        [str(run), str(f.image)],
    ),
    'evaluate': lambda run, _: (
        'mnemonics_jax.evaluate',
        [str(run), '--data.source=synthetic'],
    ),
    'export': lambda run, _: (
        'mnemonics_jax.export',
        [str(run), f'--out={run.parent / (run.name + "_export")}'],
    ),
}


def judge(
    end: End, same: Callable[[], bool], names: list[str], page: str = ''
) -> str:
    """The outcome of a command on something damaged.

    Args:
        end: how it ended.
        same: whether its results are those of the undamaged.
        names: what it may name to be excused.
        page: what it wrote for people to read.
    """
    if end.hung:
        return HANG
    if end.dumped:
        return TRACEBACK
    if end.status:
        return LINE if end.refused or end.status == 75 else TRACEBACK
    if same():
        return SAME
    told = any(name and name in end.text + page for name in names)
    return LINE if told else SILENT


def judge_reader(
    name: str, run: pathlib.Path, names: list[str], fixtures: Fixtures
) -> str:
    """The outcome of one of `COMMANDS` on a damaged run."""
    log = run.parent / 'log'
    end = forked.run(*COMMANDS[name](run, fixtures), log)
    page = run / 'report.html'
    return judge(
        end,
        lambda: essence(name, run, end) == fixtures.said[name],
        names,
        page.read_text() if name == 'report' and page.is_file() else '',
    )


def start(flags: list[str], folder: pathlib.Path, **more: Any) -> str:
    """The outcome of a new run up to its first line or its end."""
    fork = forked.Fork(MAIN, flags, folder / 'log', **more)
    started = fork.wait_for(lambda: fork.printed(' classes in '))
    if started and fork.poll() is None:
        fork.kill()
        fork.end()
        return STARTS
    end = fork.end(1)
    if end.hung:
        return HANG
    if end.dumped:
        return TRACEBACK
    if end.status:
        return LINE if end.refused else TRACEBACK
    return STARTS
