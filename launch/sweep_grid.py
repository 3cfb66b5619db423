"""The runs of a sweep, from its flags."""

import hashlib
import itertools
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

SHORT = {
    'method': 'method.name',
    'strategy': 'exemplars.strategy',
    'adjust': 'exemplars.adjust',
    'phases': 'protocol.phases',
    'transfer': 'weight_transfer',
}
SEED = 'seed'
# All stages in seconds; the accuracies mean nothing.
SMALL = {
    'backbone.name': 'convnet_tiny',
    'protocol.base_classes': '4',
    'protocol.phases': '3',
    'train.epochs': '2',
    'train.milestones': '(1,)',
    'exemplars.per_class': '4',
    'exemplars.outer_steps': '3',
    'exemplars.inner_steps': '2',
    'exemplars.query_batch': '32',
    'finetune.epochs': '1',
}


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: name of the work directory; equal for equal settings.
        settings: field of the grid -> value as text.
        workdir: work directory.
        command: command of the run.
    """

    name: str
    settings: dict[str, str]
    workdir: pathlib.Path
    command: list[str]

    @property
    def log(self) -> pathlib.Path:
        """The file for all output of the run."""
        return self.workdir.parent / 'logs' / f'{self.name}.log'


def parse_pair(flag: str, text: str) -> tuple[str, str]:
    """Splits 'field=value'; a short name becomes the full one.

    Raises:
        ValueError: the field or the value is missing.
    """
    field, _, value = (part.strip() for part in text.partition('='))
    if not field or not value:
        raise ValueError(f'{flag} {text!r}: must be field=value')
    return SHORT.get(field, field), value


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each field, from texts such as 'method=lucir,icarl'.

    Raises:
        ValueError: a text is malformed, or repeats a field or a value.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        field, joined = parse_pair('--grid', text)
        # Commas inside a tuple, as in milestones, do not separate values.
        values = [v.strip() for v in re.split(r',(?![^(]*\))', joined)]
        if not all(values) or len(set(values)) < len(values):
            raise ValueError(f'--grid {text!r}: must be distinct values')
        if field in grid:
            raise ValueError(f'--grid {text!r}: {field} is in the grid already')
        grid[field] = values
    return grid


def parse_fixed(
    texts: Sequence[str], grid: dict[str, list[str]], *, small: bool
) -> dict[str, str]:
    """The overrides of all runs, from texts such as 'train.epochs=5'.

    Args:
        texts: overrides; they win over those of `small`.
        grid: the grid, whose fields are left out.
        small: whether to make the runs tiny.

    Raises:
        ValueError: a text is malformed or repeats a field.
    """
    given: dict[str, str] = {}
    for text in texts:
        field, value = parse_pair('--set', text)
        if field in given or field in grid:
            raise ValueError(f'--set {text!r}: {field} is set already')
        given[field] = value
    fixed = {**(SMALL if small else {}), **given}
    return {field: fixed[field] for field in fixed if field not in grid}


def run_name(settings: dict[str, str]) -> str:
    """A readable name of a directory, unique for the settings.

    The order of the fields does not matter.
    """
    short = {field: name for name, field in SHORT.items()}
    fields = sorted(settings.items())
    full = ','.join(f'{short.get(f, f)}={value}' for f, value in fields)
    name = re.sub(r'[^\w.+,=-]', '-', full)
    if name == full and len(name) <= 200:
        return name
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f'{name[:200]}-{digest}'


def plan(
    config: str,
    out: pathlib.Path,
    grid: dict[str, list[str]],
    fixed: dict[str, str],
) -> list[Run]:
    """The runs of a grid; its last field changes fastest, the seed slowest.

    So the cells of the table fill evenly, and runs that start together do not
    compile the same programs.
    """
    runs = []
    axes = sorted(grid, key=lambda field: field != SEED)
    for values in itertools.product(*[grid[field] for field in axes]):
        settings = dict(zip(axes, values, strict=True))
        name = run_name(settings)
        overrides = {**fixed, **settings}
        command = [
            sys.executable,
            '-m',
            'mnemonics_jax.main',
            f'--config={config}',
            f'--workdir={out / name}',
            *[f'--config.{field}={v}' for field, v in overrides.items()],
        ]
        runs.append(Run(name, settings, out / name, command))
    return runs
