"""The tries of `benchmarks/hostile.py`, by kind.

A try is a function `(random, folder, fixtures) -> (what, outcome)`: it draws
what it does, does it in an empty folder and says what became of it.
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import compare_runs
import forked
import numpy as np
from forked import End

from mnemonics_jax.config.fields import FIELDS

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
        files = sorted(path for path in made.rglob('*') if path.is_file())
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


def judge(end: End, same: Callable[[], bool], names: list[str]) -> str:
    """The outcome of a command on something damaged.

    Args:
        end: how it ended.
        same: whether its results are those of the undamaged.
        names: what it may name to be excused.
    """
    if end.hung:
        return HANG
    if end.dumped:
        return TRACEBACK
    if end.status:
        return LINE if end.refused or end.status == 75 else TRACEBACK
    if same():
        return SAME
    return LINE if any(name in end.text for name in names) else SILENT


# Damaged files of a work directory.


def flip(random: np.random.Generator, path: pathlib.Path) -> None:
    """Flips a bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    path.write_bytes(data)


def cut(random: np.random.Generator, path: pathlib.Path) -> None:
    """Cuts the end off."""
    os.truncate(path, int(random.integers(path.stat().st_size + 1)))


def zero(random: np.random.Generator, path: pathlib.Path) -> None:
    """Zeroes a part."""
    data = bytearray(path.read_bytes())
    start = int(random.integers(len(data) + 1))
    stop = min(len(data), start + int(random.integers(1, 4096)))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


def other(random: np.random.Generator, path: pathlib.Path) -> None:
    """Replaces the content by something else."""
    texts = [b'', b'null', b'{}', b'[]', b'7', b'"x"', b'\xff\xfe\x00', b'{']
    path.write_bytes(texts[random.integers(len(texts))])


def gone(_: np.random.Generator, path: pathlib.Path) -> None:
    """Removes the file."""
    path.unlink()


def folder_instead(_: np.random.Generator, path: pathlib.Path) -> None:
    """Puts an empty folder in its place."""
    path.unlink()
    path.mkdir()


def pipe_instead(_: np.random.Generator, path: pathlib.Path) -> None:
    """Puts a named pipe in its place."""
    path.unlink()
    os.mkfifo(path)


DAMAGES = (flip, cut, zero, other, gone, folder_instead, pipe_instead)


def damaged_file(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Damages a file of a finished or interrupted run, then runs a command."""
    begun = random.random() < 0.4
    source = fixtures.begun if begun else fixtures.finished
    run = shutil.copytree(source, folder / 'run')
    groups: dict[str, list[pathlib.Path]] = {}
    for path in sorted(p for p in run.rglob('*') if p.is_file()):
        groups.setdefault(path.relative_to(run).parts[0], []).append(path)
    files = groups[sorted(groups)[random.integers(len(groups))]]
    path = files[random.integers(len(files))]
    damage = DAMAGES[random.integers(len(DAMAGES))]
    before = path.read_bytes()
    damage(random, path)
    name = 'main'
    if not begun:
        name = ['main', *COMMANDS][random.integers(1 + len(COMMANDS))]
    what = f'{damage.__name__} {path.relative_to(run)}, {name}'
    if path.is_file() and path.read_bytes() == before:
        return f'{what} (unchanged)', SAME
    # Readers may name the folder that a file of a checkpoint belongs to.
    names = [path.name, *path.relative_to(run).parts[:2]]
    names.append('/'.join(path.relative_to(run).parts[1:3]))
    if name == 'main':
        end = forked.run(MAIN, flags_of(run), folder / 'log')

        def same() -> bool:
            try:
                return not compare_runs.differences(run, fixtures.finished)
            except (OSError, ValueError, KeyError, TypeError, EOFError):
                return False

        return what, judge(end, same, names)
    end = forked.run(*COMMANDS[name](run, fixtures), folder / 'log')
    return what, judge(
        end, lambda: essence(name, run, end) == fixtures.said[name], names
    )


# Values of fields.

EXTREMES = (
    '-1',
    '0',
    '1',
    '3',
    '1000000000',
    '1000000000000000000',
    '1e30',
    '-1e30',
    '1e-30',
    'nan',
    'inf',
    '-inf',
    '0.5',
    'true',
    'None',
    '',
    ' ',
    'x' * 10_000,
    '../../etc/passwd',
    '/dev/zero',
    '/dev/null',
    '\udcff',
    'ünïcödé',
    '\u202e',
    '()',
    '(1,',
    '[1,2]',
    '{"a":1}',
    '1,2,3',
    "__import__('os').abort()",
    '%s%n',
    '-0',
    '1_000',
    '0x10',
    '１',
)


def field_value(
    random: np.random.Generator, folder: pathlib.Path, _: Fixtures
) -> Try:
    """Sets one or two fields to extreme values."""
    names = sorted(FIELDS)
    fields = {
        names[random.integers(len(names))]: EXTREMES[
            random.integers(len(EXTREMES))
        ]
        for _ in range(random.integers(1, 3))
    }
    what = ', '.join(f'{name}={value[:30]!r}' for name, value in fields.items())
    return what, start(flags_of(folder / 'run', **fields), folder)


def start(flags: list[str], folder: pathlib.Path, **more: Any) -> str:
    """The outcome of a new run up to its first line or its end."""
    fork = forked.Fork(MAIN, flags, folder / 'log', **more)
    started = fork.wait_for(lambda: fork.printed(' classes in '))
    if started and not fork.poll():
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


# Divergence.

RATES = (
    'train.lr',
    'finetune.lr',
    'exemplars.inner_lr',
    'exemplars.outer_lr',
    'exemplars.adjust_lr',
)


def divergence(
    random: np.random.Generator, folder: pathlib.Path, _: Fixtures
) -> Try:
    """A rate that is too large for any network."""
    field = RATES[random.integers(len(RATES))]
    strategy = ('mnemonics', 'herding', 'none')[random.integers(3)]
    methods = ('lucir', 'icarl', 'finetune', 'lwf')
    method = methods[random.integers(len(methods))]
    rate = ('1e3', '1e8', '3e8')[random.integers(3)]
    fields = {
        field: rate,
        'exemplars.strategy': strategy,
        'method.name': method,
        'exemplars.adjust': field == 'exemplars.adjust_lr',
        'train.epochs': int(random.integers(1, 3)),
    }
    what = ', '.join(f'{name}={value}' for name, value in fields.items())
    end = forked.run(MAIN, flags_of(folder / 'run', **fields), folder / 'log')
    if end.hung:
        return what, HANG
    if end.dumped or (end.status and not end.refused):
        return what, TRACEBACK
    if not end.status and 'nan' in (folder / 'run/results.json').read_text():
        return what, SILENT
    return what, LINE if end.status else STARTS


# Two commands, and what happens to the work directory under a run.


def two_at_once(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Two commands on a work directory, or one whose directory vanishes."""
    run, change = folder / 'run', random.integers(4)
    if change < 2:
        source = (fixtures.begun, None)[change]
        if source is not None:
            shutil.copytree(source, run)
        both = [
            forked.Fork(MAIN, flags_of(run), folder / f'log{i}')
            for i in range(2)
        ]
        ends = [fork.end() for fork in both]
        what = 'two commands at once'
        if any(end.hung for end in ends):
            return what, HANG
        good = [end for end in ends if end.status == 0]
        if len(good) + sum(end.refused for end in ends) < 2 or not good:
            return what, TRACEBACK
        alike = not compare_runs.differences(run, fixtures.finished)
        return what, SAME if alike else SILENT
    fork = forked.Fork(MAIN, flags_of(run), folder / 'log')
    steps = run / 'checkpoints' / 'steps'
    fork.wait_for(lambda: steps.exists() and any(steps.glob('[0-9]*')))
    what = ('work directory renamed', 'work directory removed')[change - 2]
    if change == 2:
        run.rename(folder / 'elsewhere')
    else:
        shutil.rmtree(run, ignore_errors=True)
    end = fork.end()
    return what, judge(end, lambda: False, [])


def killed(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Ends a run by a signal at a drawn moment, once or twice, and resumes."""
    run, sent = folder / 'run', []
    for _ in range(random.integers(1, 3)):
        number = (signal.SIGKILL, signal.SIGTERM)[random.integers(2)]
        fork = forked.Fork(MAIN, flags_of(run), folder / 'log')
        steps = run / 'checkpoints'
        fork.wait_for(steps.exists)
        seconds = float(random.uniform(0, 6))
        end = fork.end(seconds) if number == signal.SIGKILL else None
        if end is None:
            fork.wait_for(lambda: False, seconds)
            fork.kill(number)
            end = fork.end()
            if end.status not in (0, 75, -number):
                return f'{number.name}', judge(end, lambda: False, [])
        sent.append(f'{number.name} after {seconds:.1f} s')
    end = forked.run(MAIN, flags_of(run), folder / 'log')
    what = ', '.join(sent)
    if end.status:
        return what, judge(end, lambda: False, [])
    alike = not compare_runs.differences(run, fixtures.finished)
    return what, SAME if alike else SILENT


# Surroundings.

LIMITS = {
    'RLIMIT_NOFILE': (3, 8, 16, 32, 64),
    'RLIMIT_AS': (2**28, 2**30, 2**31, 3 * 2**30),
    'RLIMIT_FSIZE': (0, 2**10, 2**16, 2**20),
    'RLIMIT_STACK': (2**16, 2**20),
}
VARIABLES = {
    'XLA_FLAGS': ('--xla_no_such_flag=1', '--xla', 'x', '--xla_dump_to=/proc'),
    'JAX_PLATFORMS': ('cuda', 'tpu', 'nothing', 'cpu,nothing', ''),
    'JAX_ENABLE_X64': ('1', 'maybe'),
    'JAX_NUM_CPU_DEVICES': ('0', '-1', '3', 'x'),
    'MNEMONICS_JAX_CACHE': ('/proc/x', '/dev/null', 'gs://no-such/x', '\udcff'),
    'JAX_COMPILATION_CACHE_DIR': ('/dev/null', ''),
    'TMPDIR': ('/nonexistent', '/dev/null'),
    'HOME': ('/nonexistent', ''),
    'LANG': ('C', 'xx_XX'),
    'PYTHONUTF8': ('0',),
    'COLUMNS': ('0', '-5', 'x'),
    'TZ': ('Nowhere/Nowhere',),
    'SLURM_NTASKS': ('x', '2'),
    'OMP_NUM_THREADS': ('0', '-1', 'x'),
}
OUTPUTS = ('>&-', '2>&-', '>/dev/full', '<&-', '>&- 2>&-')


def surroundings(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """The real command under a limit, a variable or with its output gone."""
    kind, prefix, suffix = random.integers(3), '', ''
    environment = dict(os.environ)
    if kind == 0:
        names = sorted(LIMITS)
        name = names[random.integers(len(names))]
        most = LIMITS[name][random.integers(len(LIMITS[name]))]
        what, limit = f'{name}={most}', getattr(resource, name)
    elif kind == 1:
        names = sorted(VARIABLES)
        name = names[random.integers(len(names))]
        value = VARIABLES[name][random.integers(len(VARIABLES[name]))]
        what, environment[name] = f'{name}={value!r}', value
    else:
        what = suffix = OUTPUTS[random.integers(len(OUTPUTS))]
    run = folder / 'run'
    command = [sys.executable, '-m', MAIN, *flags_of(run)]

    def limited() -> None:
        if kind == 0:
            resource.setrlimit(limit, (most, most))

    log = folder / 'log'
    log.mkdir()
    with (log / 'out').open('w') as out, (log / 'err').open('w') as err:
        shell = ['bash', '-c', f'{prefix}exec "$@" {suffix}', 'bash', *command]
        process = subprocess.Popen(
            shell,
            stdout=out,
            stderr=err,
            env=environment,
            preexec_fn=limited,
            start_new_session=True,
        )
        try:
            status = process.wait(forked.LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    texts = [(log / name).read_text(errors='replace') for name in ('out', 'err')]
    end = End(status, *texts)
    if end.status and not end.text and '2>' in suffix:
        return what, LINE  # Nobody could be told more.
    if end.status and end.status > 0 and 'RLIMIT' in what and not end.refused:
        # Where Python itself does not start, or the system ends it.
        if 'mnemonics_jax' not in end.text:
            return f'{what} (not in Python)', LINE
    alike = run / 'results.json'
    return what, judge(
        end,
        lambda: (
            alike.exists()
            and not compare_runs.differences(run, fixtures.finished)
        ),
        [],
    )


# Files of configurations and plug-ins.

CONFIGS = {
    'returns None': 'def get_config(text=""):\n    return None\n',
    'returns a dict': 'def get_config(text=""):\n    return {"seed": 1}\n',
    'lacks a section': (
        'from mnemonics_jax.config import default_config\n'
        'def get_config(text=""):\n'
        '    c = default_config()\n    del c["train"]\n    return c\n'
    ),
    'a section is a number': (
        'from mnemonics_jax.config import default_config\n'
        'def get_config(text=""):\n    c = default_config()\n'
        '    c.unlock()\n    del c["train"]\n    c.train = 3\n    return c\n'
    ),
    'raises': 'def get_config(text=""):\n    raise RuntimeError("no")\n',
    'divides by zero': 'x = 1 / 0\ndef get_config(text=""):\n    return x\n',
    'exits': 'import sys\ndef get_config(text=""):\n    sys.exit(5)\n',
    'exits at import': 'import sys\nsys.exit()\n',
    'interrupts': 'def get_config(text=""):\n    raise KeyboardInterrupt\n',
    'no function': 'x = 1\n',
    'no Python': 'def get_config(:\n',
    'not UTF-8': '# \udcff\ndef get_config(text=""):\n    return None\n',
    'imports nothing': 'import no_such_module\n',
    'reads stdin': 'def get_config(text=""):\n    return input("?")\n',
    'wants two': 'def get_config(a, b):\n    return a\n',
    'recurses': 'def get_config(text=""):\n    return get_config(text)\n',
    'empty': '',
}
PLUGINS = {
    'exits': 'import sys\nsys.exit(3)\n',
    'returns nonsense': 'def make_method(*a, **k):\n    return 5\n',
    'raises': 'raise ValueError("plugged")\n',
    'reads stdin': 'x = input()\n',
    'empty': '',
    'interrupts': 'raise KeyboardInterrupt\n',
}


def configuration(
    random: np.random.Generator, folder: pathlib.Path, _: Fixtures
) -> Try:
    """A file of a configuration or of a plug-in that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    if random.random() < 0.7:
        names = sorted(CONFIGS)
        name = names[random.integers(len(names))]
        path = folder / 'wrong.py'
        path.write_bytes(os.fsencode(CONFIGS[name]))
        flags = [f'--config={path}', f'--workdir={folder / "run"}']
        what = f'configuration: {name}'
    else:
        names = sorted(PLUGINS)
        name = names[random.integers(len(names))]
        (folder / 'plugged.py').write_text(PLUGINS[name])
        fields = ('method.name', 'exemplars.strategy', 'backbone.name')
        field = fields[random.integers(len(fields))]
        values = ('plugged', f'{folder}/plugged.py', 'plugged:f')
        value = values[random.integers(len(values))]
        flags = flags_of(folder / 'run', **{field: value})
        what = f'plug-in: {name}, {field}={value}'
    before = {'PYTHONPATH': str(folder)}
    return what, start(flags, folder, environment=before)


def json_files(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Changes a value somewhere in a JSON file of a run, then runs a command."""
    run = shutil.copytree(fixtures.finished, folder / 'run')
    name = ('config.json', 'results.json')[random.integers(2)]
    content = json.loads((run / name).read_text())
    where: list[str] = []
    node = content
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[random.integers(len(keys))]
        where.append(str(key))
        if not isinstance(node[key], dict | list) or random.random() < 0.3:
            break
        node = node[key]
    values = [None, -1, 1e308, 'x', [], {}, True, [[]], {'': None}]
    if random.random() < 0.3:
        del node[key]
        change = 'deleted'
    else:
        node[key] = values[random.integers(len(values))]
        change = f'= {node[key]!r}'
    (run / name).write_text(json.dumps(content))
    command = ['main', *COMMANDS][random.integers(1 + len(COMMANDS))]
    what = f'{name}: {".".join(where)} {change}, {command}'
    if command == 'main':
        end = forked.run(MAIN, flags_of(run), folder / 'log')
        return what, judge(
            end,
            lambda: not compare_runs.differences(run, fixtures.finished),
            [name],
        )
    end = forked.run(*COMMANDS[command](run, fixtures), folder / 'log')
    return what, judge(
        end,
        lambda: essence(command, run, end) == fixtures.said[command],
        [name],
    )


# How many of a hundred tries are of a kind.
SHARES: dict[Callable[..., Try], int] = {
    damaged_file: 35,
    json_files: 12,
    field_value: 22,
    configuration: 8,
    surroundings: 8,
    divergence: 5,
    two_at_once: 4,
    killed: 6,
}
