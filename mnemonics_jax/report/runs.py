"""Reads work directories of runs, finished or not."""

import itertools
import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core.text import TITLES, flatten
from mnemonics_jax.core.workdir import read_records

ALONE = 'the run'

_FILES = ('config.json', 'results.json', 'metrics.jsonl')
_MEASURES = (
    'average_incremental_accuracy',
    'last_accuracy',
    'forgetting',
    'max_forgetting',
)
_SPLITS = 'old_accuracy', 'new_accuracy'
# Fields of the configuration that the page reads.
_FIELDS = {
    'backbone.name',
    'data.source',
    'exemplars.per_class',
    'exemplars.storage',
    'exemplars.strategy',
    'exemplars.total',
    'method.name',
    'protocol.base_classes',
    'protocol.class_order_seed',
    'protocol.phases',
    'seed',
}


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
    if not any((folder / file).is_file() for file in _FILES):
        return None
    missing: list[str] = []
    setup = _json(folder, 'config.json', missing, 'versions are unknown')
    results = _json(
        folder, 'results.json', missing, 'no phase has been finished'
    )
    if results is not None and not is_results(results):
        missing.append('results.json holds no results of a run.')
        results = None
    if setup is not None and not is_setup(setup):
        missing.append('config.json holds no configuration of a run.')
        setup = None
    setup = setup or {}
    records = _records(folder / 'metrics.jsonl')
    if not any('loss' in key for record in records for key in record):
        missing.append(
            'metrics.jsonl is missing or holds no loss: no loss curves.'
        )
    return Run(
        name,
        folder,
        (results or setup).get('config', {}),
        results or {},
        setup,
        records,
        missing,
    )


def is_results(content: Any) -> bool:
    """Whether this is the content of a `results.json`."""
    try:
        names, order = content['class_names'], content['class_order']
        phases, predictor = content['phases'], content['predictor']
        seen = [phase['num_seen'] for phase in phases]
        return (
            is_config(content['config'])
            and 0 < seen[0] <= max(seen) == seen[-1] <= len(order)
            and all(0 <= k < len(names) for k in order)
            and all(_is_phase(phase, predictor) for phase in phases)
            and len({frozenset(phase['confusion']) for phase in phases}) == 1
            and all(_are_numbers(content.get(key, {})) for key in _MEASURES)
        )
    except (IndexError, KeyError, TypeError, ValueError):
        return False


def is_setup(content: Any) -> bool:
    """Whether this is the content of a `config.json`."""
    return (
        isinstance(content, dict)
        and is_config(content.get('config'))
        and isinstance(content.get('versions', {}), dict)
    )


def is_config(content: Any) -> bool:
    """Whether this is a resolved configuration."""
    return isinstance(content, dict) and set(flatten(content)) >= _FIELDS


def _is_phase(phase: dict[str, Any], predictor: str) -> bool:
    """Whether this is an entry of a phase.

    Raises:
        ValueError, TypeError, KeyError: it is none; `is_results` catches these.
    """
    n, confusion = phase['num_seen'], phase['confusion']
    held, seconds = phase['exemplars'], phase['seconds']
    return (
        isinstance(phase['phase'], int)
        and {predictor} <= set(confusion) == set(phase['accuracy'])
        and set(confusion) <= set(TITLES)
        and all(np.shape(counts) == (n, n) for counts in confusion.values())
        and all(isinstance(held[key], int) for key in ('count', 'bytes'))
        and 'total' in seconds
        and _are_numbers(seconds, phase['accuracy'])
        and _are_numbers(*(phase.get(key, {}) for key in _SPLITS))
    )


def _are_numbers(*groups: Any) -> bool:
    """Whether each is a mapping from names to numbers."""
    return all(
        isinstance(group, dict)
        and all(isinstance(value, int | float) for value in group.values())
        for group in groups
    )


def _json(
    folder: pathlib.Path, name: str, missing: list[str], loss: str
) -> Any | None:
    try:
        return json.loads((folder / name).read_text())
    except (FileNotFoundError, NotADirectoryError):
        missing.append(f'{name} is missing: {loss}.')
    except (OSError, ValueError):
        missing.append(f'{name} cannot be read: {loss}.')
    return None


def _records(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        records = read_records(path)
    except (OSError, ValueError):
        return []
    return [
        record
        for record in records
        if isinstance(record, dict)
        and isinstance(record.get('phase'), int)
        and isinstance(record.get('stage'), str)
    ]


def arrays(
    run: Run, name: str, needed: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Arrays of an .npz file of a run; None if it is missing or broken.

    Args:
        run: the run.
        name: path of the file in the work directory.
        needed: names of the arrays.
    """
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with (run.folder / name).open('rb') as file, np.load(file) as stored:
            return {key: stored[key] for key in needed}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def lack(run: Run, name: str) -> str:
    """A sentence on why `arrays` did not read a file."""
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
            return _without_common_fields(names)
    # The same directory twice.
    return [f'{name} ({i + 1})' for i, name in enumerate(names)]


def _without_common_fields(names: list[str]) -> list[str]:
    """Shortens names such as 'seed=0,strategy=random' to what differs."""
    cells = [name.split(',') for name in names]
    keys = {tuple(cell.partition('=')[0] for cell in row) for row in cells}
    if len(keys) > 1 or not all('=' in cell for row in cells for cell in row):
        return names
    differ = [len(set(column)) > 1 for column in zip(*cells, strict=True)]
    if sum(differ) == 1:
        cells = [[cell.partition('=')[2] for cell in row] for row in cells]
    return [','.join(itertools.compress(row, differ)) for row in cells]
