"""Studies made of runs: what they have in common.

A study is a list of cases, each a row of its table: settings of a run, made
with several seeds. Runs are those of `launch/sweep.py`, many in a process; what
is finished stays, so that the same command goes on where it stopped.
"""

import argparse
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'experiments' / 'results'
sys.path.insert(0, str(ROOT / 'launch'))

import sweep  # noqa: E402
import sweep_grid  # noqa: E402

from mnemonics_jax import claim  # noqa: E402
from mnemonics_jax.progress import write_atomically  # noqa: E402

# Of each phase, what the record of a run keeps; under 'exemplars' in
# `results.json`.
GAUGES = (
    'bytes',
    'drift_grey_levels',
    'adjust_drift_grey_levels',
    'held_out_loss_before',
    'held_out_loss_after',
    'border',
)
# Everything still happens, in seconds; accuracies mean nothing.
QUICK = {
    'protocol.phases': '2',
    'train.epochs': '1',
    'finetune.epochs': '1',
    'exemplars.outer_epochs': '0',
    'exemplars.outer_steps': '3',
    'exemplars.adjust_steps': '2',
    'exemplars.query_batch': '32',
}


class Case(NamedTuple):
    """A row of a study.

    Attributes:
        labels: what it is called, by column; distinct from those of others.
        settings: value as text by field of the configuration.
    """

    labels: dict[str, str]
    settings: dict[str, str]


class Data(NamedTuple):
    """What a study runs on.

    Attributes:
        name: of its results.
        config: file of the configuration.
        settings: of all runs.
        drawn_by_seed: fields that each seed sets to itself.
    """

    name: str
    config: str
    settings: dict[str, str]
    drawn_by_seed: tuple[str, ...]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exits with 2."""
        self.exit(2, f'error: {" ".join(message.split())}\n')


def parse(
    name: str, doc: str, argv: Sequence[str] | None, *, seeds: str, part: str
) -> argparse.Namespace:
    """The flags that all studies made of runs take.

    Args:
        name: of the study.
        doc: of its module; the first line describes it.
        argv: without the program's name; None for those of the process.
        seeds: by default.
        part: of the classes of images that it runs on: 'choose' or 'confirm'.

    Returns:
        'data' is a `Data`, 'seeds' a list of numbers.
    """
    parser = Parser(description=doc.partition('\n')[0], allow_abbrev=False)
    add = parser.add_argument
    add('--data', default='digits', help='digits, or what images.py wrote')
    add('--seeds', default=seeds, help='class order, classes and weights')
    add('--per-class', default='', help='exemplars a class; all by default')
    add('--only', default='', help='cases whose first label is among these')
    add('--jobs', default=1, type=int, help='runs at a time')
    add('--runs', type=pathlib.Path, help='folder of the work directories')
    add('--out', type=pathlib.Path, help='folder of the results')
    add('--quick', action='store_true', help='a smoke test, in minutes')
    args = parser.parse_args(argv)
    try:
        if args.jobs < 1:
            raise ValueError(f'--jobs={args.jobs}: allowed: at least 1')
        args.seeds = parse_seeds(args.seeds)
        args.data = find_data(args.data, part)
    except ValueError as e:
        parser.error(str(e))
    base = ROOT / 'runs' / ('quick' if args.quick else 'experiments')
    args.runs = args.runs or base / f'{name}_{args.data.name}'
    args.out = args.out or (base if args.quick else RESULTS)
    return args


def parse_seeds(text: str) -> list[int]:
    """'0,1' as numbers.

    Raises:
        ValueError: they are none.
    """
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise ValueError(
            f'--seeds={text}: allowed: whole numbers, separated by commas'
        ) from None


def find_data(text: str, part: str) -> Data:
    """What `--data` means.

    Raises:
        ValueError: there is no such file.
    """
    common = {
        'report': 'false',
        'data.feed': 'device',
        'checkpoint.every_seconds': '0.0',
    }
    drawn = ('protocol.class_order_seed',)
    if text == 'digits':
        common['evaluate.oracle'] = 'true'
        return Data('digits', 'configs/digits.py', common, drawn)
    file = pathlib.Path(text) / f'{part}.npz'
    if not file.is_file():
        raise ValueError(
            f'--data={text}: no {file}; allowed: digits, or the folder that '
            'python -m experiments.images wrote'
        )
    settings = {**common, 'data.dir': str(file.resolve())}
    config = 'experiments/small_images.py'
    return Data('images', config, settings, (*drawn, 'data.subset_seed'))


def plan(
    args: argparse.Namespace, cases: Sequence[Case]
) -> list[sweep_grid.Run]:
    """The runs of the cases: all cases of a seed before the next."""
    runs = []
    for seed in args.seeds:
        for case in cases:
            labels = {**case.labels, 'seed': str(seed)}
            name = sweep_grid.run_name(labels)
            settings = {
                **args.data.settings,
                **case.settings,
                **(QUICK if args.quick else {}),
                **dict.fromkeys(('seed', *args.data.drawn_by_seed), str(seed)),
            }
            command = [
                sys.executable,
                '-m',
                'mnemonics_jax.main',
                f'--config={args.data.config}',
                f'--workdir={args.runs / name}',
                *[f'--config.{field}={v}' for field, v in settings.items()],
            ]
            runs.append(sweep_grid.Run(name, labels, args.runs / name, command))
    return runs


def select(args: argparse.Namespace, cases: Sequence[Case]) -> list[Case]:
    """The cases that `--only` and `--per-class` leave.

    Raises:
        SystemExit: none is left; with one line.
    """
    only, sizes = (
        set(filter(None, text.split(',')))
        for text in (args.only, args.per_class)
    )
    left = [
        case
        for case in cases
        if (not only or next(iter(case.labels.values())) in only)
        and (not sizes or case.settings['exemplars.per_class'] in sizes)
    ]
    if not left:
        names = dict.fromkeys(next(iter(c.labels.values())) for c in cases)
        raise SystemExit(
            f'error: --only={args.only} --per-class={args.per_class} leave '
            f'nothing; allowed: {", ".join(names)}'
        )
    return left


def run(
    args: argparse.Namespace, cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Does what is left of the runs of the cases.

    Args:
        args: from `parse`.
        cases: of the study.

    Returns:
        A record of each finished run, see `describe`.

    Raises:
        SystemExit: runs failed (they are named), or the user stopped it.
    """
    runs = plan(args, cases)
    axes = dict.fromkeys(name for run in runs for name in run.settings)
    about = {
        'command': shlex.join(['python', *sys.argv]),
        'config': args.data.config,
        'set': args.data.settings,
        'grid': {name: [] for name in axes},
    }
    (args.runs / 'logs').mkdir(parents=True, exist_ok=True)
    progress = sweep.Progress(runs, args.runs, about)
    flags = argparse.Namespace(
        out=args.runs, jobs=args.jobs, in_process=True, small=False
    )
    try:
        sweep.run_all(flags, progress)
    except KeyboardInterrupt:
        raise SystemExit('interrupted; the same command goes on') from None
    failed = [r for r in progress.records.values() if r['state'] == 'failed']
    if failed:
        raise SystemExit(
            '\n'.join(f'failed: {r["name"]}: {r["error"]}' for r in failed)
        )
    return [describe(run) for run in runs]


def describe(run: sweep_grid.Run) -> dict[str, Any]:
    """A finished run: its labels, and the values of its phases."""
    results = json.loads((run.workdir / 'results.json').read_text())
    phases = results['phases']
    return {
        'labels': run.settings,
        'judged': results['predictor'],
        'accuracy': {
            head: [round(p['accuracy'][head], 5) for p in phases]
            for head in phases[0]['accuracy']
        },
        'forgetting': results['forgetting'],
        'exemplars': [
            {k: v for k, v in p['exemplars'].items() if k in GAUGES}
            for p in phases
        ],
        'seconds': round(sum(p['seconds']['total'] for p in phases), 1),
        'classes': results['class_names'],
        'learning': results['config']['exemplars'],
    }


def write(
    args: argparse.Namespace,
    name: str,
    content: Mapping[str, Any],
    markdown: str,
) -> None:
    """Writes `<name>_<data>.json` and `.md`.

    Args:
        args: from `parse`.
        name: of the study.
        content: of the JSON file, under where it comes from.
        markdown: the table.
    """
    about = {
        'command': shlex.join(
            ['python', '-m', f'experiments.{name}', *sys.argv[1:]]
        ),
        'versions': claim.versions(),
        'commit': claim.commit(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f'{name}_{args.data.name}'
    text = json.dumps({**about, **content}, indent=1) + '\n'
    write_atomically(args.out / f'{stem}.json', text)
    write_atomically(args.out / f'{stem}.md', markdown)
    print(f'table: {args.out / stem}.md')
