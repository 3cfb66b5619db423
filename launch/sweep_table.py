"""The table of a sweep: cells with mean, standard deviation and count.

The record of a run has 'name', 'settings' (field -> value as text), 'state'
('finished', 'failed' or 'pending'), 'error' and, if finished, the numbers of
`outcome`. Runs that differ only in `seed` form a cell. Numbers are fractions;
only the Markdown table is in percent.
"""

import csv
import io
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep_grid import SEED

METRICS = (
    'average_incremental_accuracy',
    'last_accuracy',
    'forgetting',
    'max_forgetting',
)
# Under 'exemplars' in `results.json`, averaged over phases.
GAUGES = ('drift_grey_levels', 'held_out_loss_before', 'held_out_loss_after')
NOTHING = '\u2014'


def outcome(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The numbers of a finished run that a sweep keeps; None for others.

    Returns:
        'judged' is the classifier that the method's paper reports, 'metrics'
        has `METRICS` by classifier, 'seconds' is the sum over phases and
        'gauges' has those of `GAUGES` that the run measured.
    """
    from mnemonics_jax.core import manifest, schema

    path = workdir / 'results.json'
    # Rerunning a run writes a damaged file again.
    if manifest.damage(workdir, path.name) or not path.exists():
        return None
    try:
        results = schema.load(path, schema.check_results)
    except ValueError:
        return None
    phases = results['phases']
    stop = results['config']['protocol'].get('stop_after_phase')
    if not results['complete'] and (stop is None or len(phases) <= stop):
        return None
    values = {**results, 'last_accuracy': phases[-1]['accuracy']}
    held = [phase['exemplars'] for phase in phases]
    return {
        'judged': results['predictor'],
        'seconds': round(sum(p['seconds']['total'] for p in phases), 3),
        'gauges': {
            name: statistics.fmean(entry[name] for entry in held)
            for name in GAUGES
            if all(name in entry for entry in held)
        },
        'metrics': {
            head: {metric: values[metric][head] for metric in METRICS}
            for head in phases[-1]['accuracy']
        },
    }


def summary(values: Iterable[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and count.

    Returns:
        'mean' is None without values, 'std' with fewer than two.
    """
    values = list(values)
    return {
        'mean': statistics.fmean(values) if values else None,
        'std': statistics.stdev(values) if len(values) > 1 else None,
        'n': len(values),
    }


def cells(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Aggregates records over seeds; cells are in the order of the records."""
    grouped: dict[tuple, list[Mapping[str, Any]]] = {}
    for record in records:
        fields = record['settings'].items()
        key = tuple((f, value) for f, value in fields if f != SEED)
        grouped.setdefault(key, []).append(record)
    return [cell(dict(key), members) for key, members in grouped.items()]


def cell(
    settings: dict[str, str], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Aggregates the finished records of one cell.

    Returns:
        'best' is the classifier with the highest mean of average incremental
        accuracy; it and 'judged' are None without a finished run.
    """
    done = [record for record in records if record['state'] == 'finished']
    heads = list(done[0]['metrics']) if done else []
    metrics = {
        head: {
            metric: summary(r['metrics'][head][metric] for r in done)
            for metric in METRICS
        }
        for head in heads
    }
    return {
        'settings': settings,
        'runs': [record['name'] for record in records],
        'judged': done[0]['judged'] if done else None,
        'best': max(
            heads, key=lambda h: metrics[h][METRICS[0]]['mean'], default=None
        ),
        'metrics': metrics,
        'seconds': summary(r['seconds'] for r in done),
        'gauges': {
            name: summary(r['gauges'][name] for r in done)
            for name in GAUGES
            if done and all(name in r['gauges'] for r in done)
        },
    }


def percent(values: Mapping[str, Any]) -> str:
    """A `summary` of fractions as '61.2 \u00b1 0.8 (3)', in percent."""
    if values['mean'] is None:
        return NOTHING
    std = NOTHING if values['std'] is None else f'{100 * values["std"]:.1f}'
    return f'{100 * values["mean"]:.1f} \u00b1 {std} ({values["n"]})'


def row(cell: Mapping[str, Any], axes: Sequence[str]) -> list[str]:
    """The row of a cell in the Markdown table."""
    texts = [cell['settings'][field] for field in axes]
    if cell['judged'] is None:
        return [*texts, *[NOTHING] * 5]
    judged = cell['metrics'][cell['judged']]
    best = cell['metrics'][cell['best']][METRICS[0]]
    return [
        *texts,
        cell['judged'],
        *[percent(judged[metric]) for metric in METRICS[:3]],
        f'{cell["best"]} {percent(best)}',
    ]


def markdown(sweep: Mapping[str, Any]) -> str:
    """The table as Markdown.

    Args:
        sweep: content of `sweep.json`.
    """
    axes = [field for field in sweep['grid'] if field != SEED]
    titles = [
        *axes,
        'classifier',
        'average incremental accuracy',
        'last accuracy',
        'forgetting F',
        'best classifier, average',
    ]
    rows = [titles, ['---'] * len(titles)]
    rows += [row(cell, axes) for cell in sweep['cells']]
    runs, tick = sweep['runs'], '`'
    done = sum(run['state'] == 'finished' for run in runs)
    lines = [
        f'{done} of {len(runs)} runs finished. In percent: mean \u00b1 '
        'standard deviation (number of seeds), by each '
        "method's own classifier. The best one is chosen by the same numbers.",
        '',
        *['| ' + ' | '.join(texts) + ' |' for texts in rows],
        '',
        f'Written by {tick}{sweep["command"]}{tick}.',
    ]
    failed = [run for run in runs if run['state'] == 'failed']
    if failed:
        lines += ['', 'Failed:', '']
        lines += [f'- {run["name"]}: {run["error"]}' for run in failed]
    return '\n'.join(lines) + '\n'


def csv_text(sweep: Mapping[str, Any]) -> str:
    """CSV with a row for each cell and classifier; unknown values are empty."""
    axes = [field for field in sweep['grid'] if field != SEED]
    parts = ('mean', 'std', 'n')
    wide = {'seconds': None, **dict.fromkeys(GAUGES)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(
        [*axes, 'classifier', 'judged']
        + [f'{name}_{p}' for name in (*METRICS, *wide) for p in parts]
    )
    for cell in sweep['cells']:
        of_run = {**wide, 'seconds': cell['seconds'], **cell['gauges']}
        for head, metrics in cell['metrics'].items():
            found = [metrics[name] for name in METRICS]
            found += [values or summary([]) for values in of_run.values()]
            writer.writerow(
                [cell['settings'][field] for field in axes]
                + [head, str(head == cell['judged']).lower()]
                + [values[p] for values in found for p in parts]
            )
    return text.getvalue()


def write(out: pathlib.Path, sweep: dict[str, Any]) -> None:
    """Writes `sweep.json`, `sweep.csv` and `sweep.md`.

    Args:
        out: directory of the sweep.
        sweep: content of `sweep.json` but 'cells', which are added.
    """
    # Imported late: it imports JAX, which a dry run does not need.
    from mnemonics_jax.core.workdir import write_atomically

    sweep = {**sweep, 'cells': cells(sweep['runs'])}
    texts = {
        'sweep.json': json.dumps(sweep, indent=1) + '\n',
        'sweep.csv': csv_text(sweep),
        'sweep.md': markdown(sweep),
    }
    for name, text in texts.items():
        write_atomically(out / name, text)
