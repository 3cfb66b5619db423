"""Runs the cases of a study.

A study is a list of cases, each a row of its table: settings of a run, repeated
with several seeds. `launch/sweep.py` does the runs, many per process. Finished
runs are kept in their work directories and, after the command, in the result
file, so that an extended study only does the missing runs.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sweep
import sweep_grid

from mnemonics_jax.core import cli, manifest, schema
from mnemonics_jax.core.rules import BOOLEAN, TEXT, or_none
from mnemonics_jax.core.workdir import write_atomically
from mnemonics_jax.experiment import run_config

# Entries of 'exemplars' in `results.json` that records keep for each phase.
MEASURES = (
    'bytes',
    'count',
    'psnr',
    'num_dropped',
    'drift_grey_levels',
    'adjust_drift_grey_levels',
    'held_out_loss_before',
    'held_out_loss_after',
    'border',
)
# All stages run, in seconds; accuracies are meaningless.
QUICK = {
    'protocol.phases': '2',
    'train.epochs': '1',
    'finetune.epochs': '1',
    'exemplars.outer_epochs': '0',
    'exemplars.outer_steps': '3',
    'exemplars.adjust_steps': '2',
    'exemplars.query_batch': '32',
}
# Options that the package no longer has. Records that used them stay in the
# results.
REMOVED: dict[str, tuple] = {
    'inner_start': ('previous', 'path', 'forgot'),
    'balanced_queries': (True,),
    'rate_weight': (0.01,),
}
# The commits that had all of them in study B, and in F.
REMOVED_AT = 'f5d9b01'
REMOVED_AT_F = '7a1a543'
# Set by earlier records, to the only meaning that is left.
IMPLIED = {'exemplars.balanced_queries': 'false'}


# A record of a run, see `describe`.
_RECORD = {
    'labels': {...: TEXT},
    'settings?': {...: TEXT},
    'judged': TEXT,
    'accuracy': {...: [schema.NUMBER]},
    'forgetting': schema.NUMBERS,
    'exemplars': [{...: schema.ANY}],
    'seconds': schema.NUMBER,
    'classes': [TEXT],
    'learning': {
        'balanced_queries?': BOOLEAN,
        'inner_start?': TEXT,
        'rate_weight?': schema.NUMBER,
        ...: schema.ANY,
    },
    'commit': or_none(TEXT),
}


class Case(NamedTuple):
    """A row of a study.

    Attributes:
        labels: labels by column, unique in the study.
        settings: configuration values as text, by field.
    """

    labels: dict[str, str]
    settings: dict[str, str]


def plan(
    args: argparse.Namespace, cases: Sequence[Case]
) -> list[tuple[sweep_grid.Run, sweep_grid.Run]]:
    """Pairs of base run and run, for each seed and case.

    The base run trains the model of phase 0; runs that differ only in
    `exemplars` share it.
    """
    runs = []
    for seed in args.seeds:
        for case in cases:
            labels = {**case.labels, 'seed': str(seed)}
            settings = {
                **args.data.settings,
                **case.settings,
                **(QUICK if args.quick else {}),
                **args.data.of_seed(seed),
            }
            base = base_of(args, settings)
            settings['train.base_run'] = str(base.workdir.resolve())
            workdir = args.runs / sweep_grid.run_name(labels)
            runs.append((base, make_run(args, labels, settings, workdir)))
    return runs


def base_of(
    args: argparse.Namespace, settings: Mapping[str, str]
) -> sweep_grid.Run:
    """The base run of a run with these settings."""
    shared = {
        field: value
        for field, value in settings.items()
        if not field.startswith('exemplars.')
    }
    common = {*args.data.settings, 'data.dir'}
    labels = {f: v for f, v in shared.items() if f not in common}
    alone = {
        'protocol.stop_after_phase': '0',
        'exemplars.strategy': 'none',
        'exemplars.adjust': 'false',
    }
    workdir = args.runs / 'bases' / sweep_grid.run_name(labels)
    return make_run(args, labels, {**shared, **alone}, workdir)


def make_run(
    args: argparse.Namespace,
    labels: dict[str, str],
    settings: Mapping[str, str],
    workdir: pathlib.Path,
) -> sweep_grid.Run:
    """A run of the study's configuration with these settings."""
    command = [
        sys.executable,
        '-m',
        'mnemonics_jax.main',
        f'--config={args.data.config}',
        f'--workdir={workdir}',
        *[f'--config.{field}={v}' for field, v in settings.items()],
    ]
    return sweep_grid.Run(workdir.name, labels, workdir, command)


def select(args: argparse.Namespace, cases: Sequence[Case]) -> list[Case]:
    """The cases selected by `--only` and `--where`.

    Raises:
        SystemExit: none is selected.
    """
    only = set(filter(None, args.only.split(',')))
    left = [
        case
        for case in cases
        if (not only or next(iter(case.labels.values())) in only)
        and {**case.labels, **args.where} == case.labels
    ]
    if not left:
        values: dict[str, dict[str, None]] = {}
        for case in cases:
            for label, value in case.labels.items():
                values.setdefault(label, {})[value] = None
        allowed = '; '.join(f'{k}: {", ".join(v)}' for k, v in values.items())
        raise SystemExit(
            f'error: --only={args.only} and --where: must select a case of '
            f'{allowed}'
        )
    return left


def run(
    args: argparse.Namespace, chosen: Sequence[Case], cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Does the missing runs of the chosen cases.

    Args:
        args: result of `flags.parse`.
        chosen: cases to run.
        cases: all cases of the study; their earlier records are kept.

    Returns:
        A record of each finished run, see `describe`, by seed and case.

    Raises:
        SystemExit: runs failed, named in the message, or were interrupted.
    """
    found = {key(r['labels']): r for r in earlier(args, cases)}
    left = [
        (base, run)
        for base, run in plan(args, chosen)
        if key(run.settings) not in found
    ]
    runs = [run for _, run in left]
    if there := len(args.seeds) * len(chosen) - len(runs):
        print(f'{there} runs are already in the results', flush=True)
    if runs:
        bases = {base.name: base for base, _ in left}
        do(args, args.runs / 'bases', list(bases.values()))
        do(args, args.runs, runs)
    settings = {key(case.labels): case.settings for case in cases}
    for each in runs:
        case = {k: v for k, v in each.settings.items() if k != 'seed'}
        found[key(each.settings)] = {
            **describe(each),
            'settings': settings[key(case)],
        }
    order = {k: number for number, k in enumerate(settings)}

    def position(record):
        case = order.get(case_key(record['labels']), len(order))
        return int(record['labels']['seed']), case

    return sorted(found.values(), key=position)


def key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Labels as a dictionary key."""
    return tuple(labels.items())


def case_key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The key of a run's case, from its labels."""
    return key({k: v for k, v in labels.items() if k != 'seed'})


def earlier(
    args: argparse.Namespace, cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """Records in the result file that are still valid.

    Their cases have the same settings as now, or used `REMOVED` options.
    """
    path = args.out / f'{args.study}_{args.data.name}.json'
    if not os.path.lexists(path):
        return []
    settings = {key(case.labels): case.settings for case in cases}
    return [
        record
        for record in load(path)['runs']
        if used_removed(record)
        or settings.get(case_key(record['labels']))
        == dict(record.get('settings', {}).items() - IMPLIED.items())
    ]


def load(
    path: pathlib.Path, check: Callable[[Any], None] | None = None
) -> dict[str, Any]:
    """The content of a JSON file; one line and exit status 2 if it is damaged.

    Args:
        path: the file of a study's records, or another one.
        check: what checks that it is such a file, see `schema.load`.
    """
    if why := manifest.damage(path.parent, path.name):
        cli.fail(f'{path} {why}')
    try:
        return schema.load(path, check or _check_records)
    except OSError as e:
        cli.fail(f'{path} cannot be read: {e.strerror}')
    except ValueError as e:
        cli.fail(f'{path} is damaged: {e}')


def _check_records(content: Any) -> None:
    schema.check(content, {'runs': [_RECORD], ...: schema.ANY})


def used_removed(record: Mapping[str, Any]) -> bool:
    """Whether a run used an option that the package no longer has."""
    learning = record['learning']
    return any(learning.get(k) in values for k, values in REMOVED.items())


def do(
    args: argparse.Namespace,
    folder: pathlib.Path,
    runs: Sequence[sweep_grid.Run],
) -> None:
    """Does runs; raises SystemExit if some failed or were interrupted.

    Args:
        args: result of `flags.parse`.
        folder: folder of their work directories.
        runs: the runs, some of which may be finished.
    """
    axes = dict.fromkeys(name for run in runs for name in run.settings)
    about = {
        'command': shlex.join(['python', *sys.argv]),
        'config': args.data.config,
        'set': args.data.settings,
        'grid': {name: [] for name in axes},
    }
    (folder / 'logs').mkdir(parents=True, exist_ok=True)
    # A method's own field is set by none of the others.
    filled = [
        run._replace(settings={k: run.settings.get(k, '') for k in axes})
        for run in runs
    ]
    progress = sweep.Progress(filled, folder, about)
    options = argparse.Namespace(
        out=args.runs, jobs=args.jobs, devices=0, in_process=True, small=False
    )
    try:
        sweep.run_all(options, progress)
    except KeyboardInterrupt:
        raise SystemExit('interrupted; rerun the command to resume') from None
    failed = [r for r in progress.records.values() if r['state'] == 'failed']
    if failed:
        raise SystemExit(
            '\n'.join(f'failed: {r["name"]}: {r["error"]}' for r in failed)
        )


def describe(run: sweep_grid.Run) -> dict[str, Any]:
    """Record of a finished run: its labels and results."""
    results = load(run.workdir / 'results.json', schema.check_results)
    begun = load(run.workdir / 'config.json', schema.check_setup)
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
            {k: v for k, v in p['exemplars'].items() if k in MEASURES}
            for p in phases
        ],
        'seconds': round(sum(p['seconds']['total'] for p in phases), 1),
        'classes': results['class_names'],
        'learning': results['config']['exemplars'],
        'commit': begun.get('commit'),
    }


def write(
    args: argparse.Namespace,
    name: str,
    content: Mapping[str, Any],
    markdown: str,
) -> None:
    """Writes `<name>_<data>.json` and `.md`.

    Args:
        args: result of `flags.parse`.
        name: name of the study.
        content: content of the JSON file, besides command and versions.
        markdown: the table.
    """
    # Local paths do not affect the results.
    given = [a for a in sys.argv[1:] if not a.startswith(('--runs', '--out'))]
    about = {
        'command': shlex.join(['python', '-m', f'experiments.{name}', *given]),
        'versions': run_config.versions(),
        'commit': run_config.commit(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f'{name}_{args.data.name}'
    text = json.dumps({**about, **content}, indent=1) + '\n'
    write_atomically(args.out / f'{stem}.json', text)
    write_atomically(args.out / f'{stem}.md', markdown)
    print(f'table: {args.out / stem}.md')
