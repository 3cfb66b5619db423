"""Study C: accuracy of networks trained from scratch on exemplars only.

A fresh network is trained on the memory and evaluated on all test images. The
table compares, at equal bytes per class, exemplars selected at random, by
herding with features of a network trained on all images, and learned
(`scratch_learning`). Each is stored at full size and packed: shrunk so that
several take the bytes of one. A network trained on all images is the bound.

    python -m experiments.from_scratch --data=digits
    python -m experiments.from_scratch --data=DIR
    python -m experiments.from_scratch --data=DIR --network=convolutions

DIR is an image folder with `train/<class>/*` and `validation/<class>/*`; each
seed draws ten of its classes. Finished cases are saved in the JSON file of the
results; rerun the command to resume.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import flags, scratch_data, scratch_table
from experiments.scratch_cases import BOUND, MAX_RANKED, ROWS, Bench, Row
from experiments.scratch_settings import SETTINGS, Settings, as_dict, quick
from mnemonics_jax.core.workdir import write_atomically
from mnemonics_jax.experiment import run_config

PERCEPTRON, CONVOLUTIONS = 'perceptron', 'convolutions'


def rows_of(settings: Settings) -> list[Row]:
    """Rows of the table with these settings."""
    return [
        row
        for row in ROWS
        if (settings.learning_packed or not row.packed)
        and (settings.soft_labels or not row.soft)
    ]


def cases_of(
    settings: Settings, seeds: Sequence[int], per_class: Sequence[int]
) -> list[tuple[int, int | None, Row | None]]:
    """Seed, images per class and row of each case; None, None for the bound."""
    rows = rows_of(settings)
    return [
        case
        for seed in seeds
        for case in (
            (seed, None, None),
            *((seed, num, row) for num in per_class for row in rows),
        )
    ]


class Record:
    """The JSON file and the table, rewritten after each case."""

    def __init__(self, args: argparse.Namespace, kind: str, settings: Settings):
        self._file = args.out / f'from_scratch_{kind}.json'
        self.table = self._file.with_suffix('.md')
        self.content = {
            'command': command(args),
            'data': kind,
            'versions': run_config.versions(),
            'cores': os.cpu_count(),
            # Converted by JSON, to compare it with a read one.
            'config': json.loads(json.dumps(as_dict(settings))),
            'seconds': 0.0,
            'cases': [],
        }
        if self._file.exists():
            self._resume()

    def _resume(self) -> None:
        found = json.loads(self._file.read_text())
        if found['config'] != self.content['config']:
            raise ValueError(
                f'{self._file}: made with other settings, --out must be '
                'another folder'
            )
        self.content |= {k: found[k] for k in ('cases', 'seconds')}

    def find(
        self, seed: int, per_class: int | None, name: str
    ) -> dict[str, Any] | None:
        """A finished case; None if it is not finished."""
        for case in self.content['cases']:
            if (case['seed'], case['per_class'], case['row']) == (
                seed,
                per_class,
                name,
            ):
                return case
        return None

    def add(self, case: dict[str, Any]) -> None:
        """Adds and saves a finished case."""
        self.content['cases'].append(case)
        self.content['seconds'] += case['seconds']
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.content, indent=1) + '\n'
        write_atomically(self._file, text)
        write_atomically(self.table, scratch_table.markdown(self.content))


def run(args: argparse.Namespace) -> pathlib.Path:
    """Runs the remaining cases and returns the file of the table.

    Raises:
        ValueError: a flag does not fit the data, or the existing results have
            other settings.
    """
    kind = 'digits' if args.data == 'digits' else 'images'
    if args.network == CONVOLUTIONS:
        kind = f'{kind}_{CONVOLUTIONS}'
    if kind not in SETTINGS:
        raise ValueError(
            f'--network={args.network}: must be {PERCEPTRON} with '
            f'--data={args.data}'
        )
    settings = quick(SETTINGS[kind]) if args.quick else SETTINGS[kind]
    source = scratch_data.source_of(args.data)
    fewest = min(int(np.bincount(source.labels['train']).min()), MAX_RANKED)
    largest = fewest // settings.factor**2
    if max(args.per_class) > largest:
        raise ValueError(
            f'--per-class={max(args.per_class)}: must be at most {largest}'
        )
    record, bench = Record(args, kind, settings), None
    for seed, per_class, row in cases_of(settings, args.seeds, args.per_class):
        name = BOUND if row is None else row.name
        case = record.find(seed, per_class, name)
        if case is None:
            if bench is None or bench.seed != seed:
                bench = Bench(scratch_data.load(source, seed), settings, seed)
            started = time.perf_counter()
            if row is None:
                found = bench.bound()
            else:
                ranks = record.find(seed, None, BOUND)['ranks']
                found = bench.case(row, per_class, ranks)
            case = {
                'seed': seed,
                'per_class': per_class,
                'row': name,
                **found,
                'seconds': round(time.perf_counter() - started, 1),
            }
            record.add(case)
            print(describe(case), flush=True)
    return record.table


def command(args: argparse.Namespace) -> str:
    """The command that reproduces the results, without local paths."""
    given = [
        f'--data={"digits" if args.data == "digits" else "DIR"}',
        f'--network={args.network}',
        f'--seeds={",".join(map(str, args.seeds))}',
        f'--per-class={",".join(map(str, args.per_class))}',
        *(['--quick'] if args.quick else []),
    ]
    return ' '.join(['python -m experiments.from_scratch', *given])


def describe(case: dict[str, Any]) -> str:
    """The progress line of a finished case."""
    size = case['per_class'] or 'all'
    percent = 100 * float(np.mean(case['accuracies']))
    return (
        f'seed {case["seed"]}, {size} a class, {case["row"]}: {percent:.1f} % '
        f'in {case["seconds"]:.0f} s'
    )


def numbers(flag: str, text: str, least: int) -> list[int]:
    """Parses the integers of a flag; raises ValueError."""
    try:
        found = [int(part) for part in text.split(',')]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise ValueError(
            f'{flag}={text}: must be integers >= {least} separated by commas'
        )
    return list(dict.fromkeys(found))


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags and runs the study."""
    parser = flags.Parser(
        description=__doc__.partition('\n')[0], allow_abbrev=False
    )
    add = parser.add_argument
    add('--data', default='digits', help='digits, or an image folder')
    add('--network', default=PERCEPTRON, choices=(PERCEPTRON, CONVOLUTIONS))
    add('--seeds', default='0,1,2,3,4', help='of classes, weights, selection')
    add('--per-class', default='1,5,10', help='bytes per class, in images')
    add('--out', type=pathlib.Path, help='folder of the results')
    add('--quick', action='store_true', help='a smoke test, in minutes')
    args = parser.parse_args(argv)
    try:
        args.seeds = numbers('--seeds', args.seeds, 0)
        args.per_class = numbers('--per-class', args.per_class, 1)
        if args.quick:
            args.seeds, args.per_class = args.seeds[:1], args.per_class[:1]
        folder = flags.ROOT / 'runs' / 'quick'
        args.out = args.out or (folder if args.quick else flags.RESULTS)
        print(f'table: {run(args)}')
    except ValueError as e:
        parser.error(str(e))
    except KeyboardInterrupt:
        raise SystemExit('interrupted; rerun the command to resume') from None


if __name__ == '__main__':
    main()
