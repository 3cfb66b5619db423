"""Tries on what surrounds a run: fields, files of settings, the system."""

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import compare_runs
import forked
import numpy as np
from forked import End
from hostile_runs import (
    HANG,
    LINE,
    MAIN,
    SILENT,
    STARTS,
    TRACEBACK,
    Fixtures,
    Try,
    flags_of,
    judge,
    start,
)

from mnemonics_jax.config.fields import FIELDS

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
    '\uff11',
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


# Surroundings.

# Options of bash's `ulimit`, in its units: files, KiB. Not one or two GiB, and
# not few threads: XLA's own code aborts there, where no Python runs.
LIMITS = {
    '-n': (3, 8, 16, 32, 64),
    '-v': (2**18, 3 * 2**20),
    '-f': (0, 1, 64, 1024),
    '-s': (64, 1024),
}
VARIABLES = {
    'XLA_FLAGS': (
        '--xla_no_such_flag=1',
        '--xla',
        'x',
        '--xla_dump_to=/proc',
        '--xla_force_host_platform_device_count=x',
        '--xla_cpu_enable_fast_math=maybe',
    ),
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
        name, value = drawn(random, LIMITS)
        what = f'ulimit {name} {value}'
        prefix = f'{what} && '
    elif kind == 1:
        name, value = drawn(random, VARIABLES)
        what, environment[name] = f'{name}={value!r}', value
    else:
        what = suffix = OUTPUTS[random.integers(len(OUTPUTS))]
    run = folder / 'run'
    shell = f'{prefix}exec "$@" {suffix}'
    command = [sys.executable, '-m', MAIN, *flags_of(run)]
    end = in_shell(['bash', '-c', shell, 'bash', *command], folder, environment)
    if end.status and not end.text and '2>' in suffix:
        return what, LINE  # There is nowhere to say more.
    if end.status and prefix and 'mnemonics_jax' not in end.text:
        return f'{what} (Python does not start)', LINE

    def same() -> bool:
        return (run / 'results.json').exists() and not compare_runs.differences(
            run, fixtures.finished
        )

    return what, judge(end, same, [])


def drawn(
    random: np.random.Generator, choices: Mapping[str, Sequence[Any]]
) -> tuple[str, Any]:
    """A name and one of its values."""
    name = sorted(choices)[random.integers(len(choices))]
    return name, choices[name][random.integers(len(choices[name]))]


def in_shell(
    command: list[str], folder: pathlib.Path, environment: Mapping[str, str]
) -> End:
    """Runs a command to its end in a process of its own."""
    log = folder / 'log'
    log.mkdir(parents=True)
    paths = [log / 'out', log / 'err']
    with paths[0].open('w') as out, paths[1].open('w') as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(forked.LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    return End(status, *(path.read_text(errors='replace') for path in paths))


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
        name = sorted(CONFIGS)[random.integers(len(CONFIGS))]
        path = folder / 'wrong.py'
        path.write_bytes(os.fsencode(CONFIGS[name]))
        flags = [f'--config={path}', f'--workdir={folder / "run"}']
        what = f'configuration: {name}'
    else:
        name = sorted(PLUGINS)[random.integers(len(PLUGINS))]
        (folder / 'plugged.py').write_text(PLUGINS[name])
        fields = ('method.name', 'exemplars.strategy', 'backbone.name')
        field = fields[random.integers(len(fields))]
        values = ('plugged', f'{folder}/plugged.py', 'plugged:f')
        value = values[random.integers(len(values))]
        flags = flags_of(folder / 'run', **{field: value})
        what = f'plug-in: {name}, {field}={value}'
    before = {'PYTHONPATH': str(folder)}
    return what, start(flags, folder, environment=before)
