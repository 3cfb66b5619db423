"""Reads work directories of runs, finished or not."""

import itertools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core import manifest, schema
from mnemonics_jax.core.workdir import (
    METRICS,
    RESULTS,
    SETUP,
    read_arrays,
    read_records,
)

ALONE = 'the run'


class Run(NamedTuple):
    """A run, as far as its files are known.

    Attributes:
        name: name on the page, `ALONE` for a single run.
        folder: work directory.
        config: resolved configuration, as in JSON; {} if unknown.
        results: content of `results.json`; {} if unknown.
        setup: content of `config.json`; {} if unknown.
        records: lines of `metrics.jsonl`.
        missing: sentences on missing files and their consequences.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    results: dict[str, Any]
    setup: dict[str, Any]
    records: list[dict[str, Any]]
    missing: list[str]

    @property
    def phases(self) -> list[dict[str, Any]]:
        """Entries of the finished phases."""
        return self.results['phases'] if self.results else []

    @property
    def names(self) -> list[str]:
        """Names of the classes seen, in the order in which they arrived."""
        if not self.results:
            return []
        names, num_seen = (
            self.results['class_names'],
            self.phases[-1]['num_seen'],
        )
        return [str(names[k]) for k in self.results['class_order'][:num_seen]]

    @property
    def strategy(self) -> str:
        """Strategy of its exemplars, '' if unknown."""
        return self.config.get('exemplars', {}).get('strategy', '')

    @property
    def keeps_exemplars(self) -> bool:
        """Whether any phase ended with exemplars."""
        return any(phase['exemplars']['count'] for phase in self.phases)

    @property
    def learns_exemplars(self) -> bool:
        """Whether a phase has learned pixels, by any strategy."""
        return any(
            'held_out_loss_after' in phase['exemplars'] for phase in self.phases
        )


def read(folder: pathlib.Path, name: str) -> Run | None:
    """Reads a work directory; None if it holds no file of a run.

    Args:
        folder: work directory, which may not exist.
        name: name of the run.
    """
    if not any((folder / file).is_file() for file in (SETUP, RESULTS, METRICS)):
        return None
    missing = [f'{line}.' for line in manifest.unchecked(folder)]
    setup = _json(
        folder,
        SETUP,
        schema.check_setup,
        missing,
        'versions are unknown',
    )
    results = _json(
        folder,
        RESULTS,
        schema.check_results,
        missing,
        'no phase has been finished',
    )
    records = _records(folder, missing)
    return Run(
        name,
        folder,
        (results or setup).get('config', {}),
        results,
        setup,
        records,
        missing,
    )


def _json(
    folder: pathlib.Path,
    name: str,
    check: Callable[[Any], None],
    missing: list[str],
    loss: str,
) -> dict[str, Any]:
    """Content of a file; {} with a sentence if it is not what it must be."""
    if (why := manifest.damage(folder, name)) is None:
        try:
            return schema.load(folder / name, check)
        except (FileNotFoundError, NotADirectoryError):
            why = f'is missing: {loss}'
        except (OSError, ValueError) as e:
            why = f'cannot be read: {e}'
    missing.append(f'{name} {why}.')
    return {}


def _records(folder: pathlib.Path, missing: list[str]) -> list[dict[str, Any]]:
    why = manifest.damage(folder, METRICS)
    try:
        records = read_records(folder / METRICS)
    except OSError as e:
        why, records = f'cannot be read: {e.strerror}', []
    if why is not None:
        missing.append(f'{METRICS} {why}: no loss curves.')
        return []
    if not any('loss' in key for record in records for key in record):
        missing.append(
            f'{METRICS} is missing or holds no loss: no loss curves.'
        )
    return records


def arrays(
    run: Run, name: str, needed: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Arrays of an .npz file of a run; None if it is missing or damaged.

    Args:
        run: the run.
        name: path of the file in the work directory.
        needed: names of the arrays.
    """
    if manifest.damage(run.folder, name) is not None:
        return None
    try:
        return read_arrays(run.folder / name, needed)
    except (FileNotFoundError, ValueError):
        return None


def lack(run: Run, name: str) -> str:
    """A sentence on why `arrays` did not read a file."""
    if (why := manifest.damage(run.folder, name)) is not None:
        return f'{name} {why}'
    if (run.folder / name).exists():
        return f'{name} cannot be read'
    return f'{name} is missing'


def label(paths: Sequence[str]) -> list[str]:
    """Short names of work directories that tell them apart."""
    parts = [os.path.normpath(path).split(os.sep) for path in paths]
    deepest = max(map(len, parts))
    for depth in range(1, deepest + 1):
        names = ['/'.join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return without_common_fields(names)
    # The same directory twice.
    return [f'{name} ({i + 1})' for i, name in enumerate(names)]


def without_common_fields(names: list[str]) -> list[str]:
    """Shortens names such as 'seed=0,strategy=random' to what differs."""
    cells = [name.split(',') for name in names]
    keys = {tuple(cell.partition('=')[0] for cell in row) for row in cells}
    if len(keys) > 1 or not all('=' in cell for row in cells for cell in row):
        return names
    differ = [len(set(column)) > 1 for column in zip(*cells, strict=True)]
    if sum(differ) == 1:
        cells = [[cell.partition('=')[2] for cell in row] for row in cells]
    return [','.join(itertools.compress(row, differ)) for row in cells]
