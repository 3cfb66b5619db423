"""Table rows of a study: means over seeds and paired differences by seed."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import tables
from experiments import statistics

# Table columns: classifiers and their titles.
HEADS = {
    'cnn': 'CNN',
    'finetuned': 'fine-tuned',
    'nme': 'NME',
    'oracle': 'NME of all images',
}
# Columns of differences. The better network is the last, since it takes the
# maximum of two on test accuracy; the others were chosen before the runs.
COMPARED = {
    'cnn': 'CNN',
    'nme': 'NME',
    'finetuned': 'fine-tuned',
    'best': 'better network',
}
# Columns on what is stored, in studies that compress it.
STORED = {'count': 'images', 'psnr': 'PSNR (dB)'}
Record = Mapping[str, Any]


def scores(record: Record) -> dict[str, dict[str, float]]:
    """Average incremental and last accuracy of a run, by classifier.

    `best` is the better one of CNN and fine-tuned in each phase.
    """
    accuracy = dict(record['accuracy'])
    networks = [accuracy[h] for h in ('cnn', 'finetuned') if h in accuracy]
    accuracy['best'] = [max(values) for values in zip(*networks, strict=True)]
    return {
        head: {'average': sum(values) / len(values), 'last': values[-1]}
        for head, values in accuracy.items()
    }


def group(records: Sequence[Record]) -> dict[tuple, dict[str, Record]]:
    """Records by case and then by seed; a case is all labels but the seed."""
    grouped: dict[tuple, dict[str, Record]] = {}
    for record in records:
        labels = {k: v for k, v in record['labels'].items() if k != 'seed'}
        seeds = grouped.setdefault(tuple(labels.items()), {})
        seeds[record['labels']['seed']] = record
    return grouped


def rows(
    records: Sequence[Record],
    references: Mapping[str, Mapping[str, str]],
    family: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Makes a row for each case.

    Args:
        records: records of all runs, see `runner.describe`.
        references: by name, labels of a reference case, which is compared with
            the cases that share its other labels.
        family: for Holm's correction, see `correct`; None to leave it out.

    Returns:
        Rows with 'labels'; 'judged', the classifier that the method's paper
        reports; 'scores', summaries of 'average' and 'last' by classifier;
        'differences', intervals of the paired differences of these by
        reference; and the entries of `measures`.
    """
    grouped = group(records)
    found = []
    for key, seeds in grouped.items():
        own = {seed: scores(record) for seed, record in seeds.items()}
        differences = {}
        for name, labels in references.items():
            other = grouped.get(tuple({**dict(key), **labels}.items()), {})
            if other is seeds or not other:
                continue
            paired = {s: scores(other[s]) for s in own if s in other}
            differences[name] = compare(own, paired)
        found.append(
            {
                'labels': dict(key),
                'judged': next(iter(seeds.values())).get('judged'),
                'scores': summarize(own),
                'differences': differences,
                **measures(list(seeds.values())),
            }
        )
    if family is not None:
        correct(found, family)
    return found


def correct(found: Sequence[dict[str, Any]], family: Sequence[str]) -> None:
    """Adds 'holm' to the differences of rows, see `statistics.corrected`.

    A family has all rows that share the labels in `family`, their differences
    to one reference by all classifiers of `COMPARED`; average and last accuracy
    are families of their own.
    """
    families: dict[tuple, list[dict[str, Any]]] = {}
    for row in found:
        shared = tuple(row['labels'][name] for name in family)
        for reference, heads in row['differences'].items():
            for head in COMPARED.keys() & heads.keys():
                for kind, values in heads[head].items():
                    key = (*shared, reference, kind)
                    families.setdefault(key, []).append(values)
    for cells in families.values():
        for values, new in zip(cells, statistics.corrected(cells), strict=True):
            values['holm'] = new['holm']


def summarize(own: Mapping[str, dict]) -> dict[str, Any]:
    """Summaries over seeds of `scores`."""
    first = next(iter(own.values()))
    return {
        head: {
            kind: statistics.summary([s[head][kind] for s in own.values()])
            for kind in kinds
        }
        for head, kinds in first.items()
    }


def compare(own: Mapping[str, dict], other: Mapping[str, dict]) -> dict:
    """Intervals of `own` minus `other` over the seeds of `other`."""
    first = next(iter(other.values()))
    return {
        head: {
            kind: statistics.interval(
                [own[s][head][kind] - other[s][head][kind] for s in other]
            )
            for kind in kinds
        }
        for head, kinds in first.items()
        if all(head in own[s] for s in other)
    }


def measures(records: Sequence[Record]) -> dict[str, Any]:
    """Memory size, pixel drift and other measures of the runs of a case.

    Returns:
        mean 'bytes' of the memory at the end of a run, and summaries over runs:
        'count' of exemplars there; 'psnr', mean over phases in dB;
        'drift' by learning and 'adjust_drift' by each adjustment, means over
        phases in grey levels; 'held_out', the mean decrease of the held-out
        loss; 'seconds'.
    """
    by_run = [record['exemplars'] for record in records]

    def over_phases(name):
        return [
            sum(values) / len(values)
            for phases in by_run
            if (values := [p[name] for p in phases if name in p])
        ]

    gains = [
        sum(values) / len(values)
        for phases in by_run
        if (
            values := [
                p['held_out_loss_before'] - p['held_out_loss_after']
                for p in phases
                if 'held_out_loss_after' in p
            ]
        )
    ]
    return {
        'bytes': round(
            sum(phases[-1]['bytes'] for phases in by_run) / len(by_run)
        ),
        # Older records have no counts.
        'count': statistics.summary(
            [phases[-1]['count'] for phases in by_run if 'count' in phases[-1]]
        ),
        'psnr': statistics.summary(over_phases('psnr')),
        'drift': statistics.summary(over_phases('drift_grey_levels')),
        'adjust_drift': statistics.summary(
            over_phases('adjust_drift_grey_levels')
        ),
        'held_out': statistics.summary(gains),
        'seconds': statistics.summary([r['seconds'] for r in records]),
    }


def page(
    title: str,
    args: argparse.Namespace,
    remark: str,
    records: Sequence[Record],
    found: Sequence[Mapping[str, Any]],
) -> str:
    """Page of a study in Markdown: a remark and both tables."""
    seeds = dict.fromkeys(record['labels']['seed'] for record in records)
    about = (
        f'{args.data.name}, seeds {", ".join(seeds)}. In '
        'percent, mean ± standard deviation over seeds; differences are paired '
        'by seed, with the 95 % interval of their mean. The better network is '
        'the better of CNN and fine-tuned in each phase, a maximum on test '
        'accuracy. Drift is in grey levels of 0 to 255.'
    )
    if any('holm' in v for v in every_difference(found)):
        about += (
            " Each p is that of a paired t-test after Holm's correction over "
            'all methods, numbers of exemplars and four classifiers with the '
            'same exemplars and reference; bold is below 0.05.'
        )
    return (
        f'# {title}\n\n{" ".join(filter(None, (about, remark)))}\n\n'
        '## Average incremental accuracy\n\n'
        f'{table(found, "average")}\n'
        '## Accuracy after the last phase\n\n'
        f'{table(found, "last")}'
    )


def every_difference(
    found: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """All differences of rows."""
    return [
        values
        for row in found
        for heads in row['differences'].values()
        for kinds in heads.values()
        for values in kinds.values()
    ]


def table(found: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Markdown table with a row for each case, in percent.

    Args:
        found: result of `rows`.
        kind: 'average' or 'last'.
    """
    heads = {
        head: title
        for head, title in HEADS.items()
        if all(head in row['scores'] for row in found)
    }
    names = list(dict.fromkeys(n for row in found for n in row['differences']))
    titles = [
        *found[0]['labels'],
        'n',
        *heads.values(),
        *[f'{t}, to {name}' for name in names for t in COMPARED.values()],
        'mean drift',
        'bytes',
        *[title for key, title in STORED.items() if has(found, key)],
    ]
    lines = []
    for row in found:
        own, differences = row['scores'], row['differences']
        lines.append(
            [
                *row['labels'].values(),
                str(own['cnn'][kind]['n']),
                *[statistics.spread(own[head][kind]) for head in heads],
                *[
                    statistics.tested(differences[name][head][kind])
                    if head in differences.get(name, {})
                    else ''
                    for name in names
                    for head in COMPARED
                ],
                drift(row),
                f'{row["bytes"]:,}',
                *[one_decimal(row[key]) for key in STORED if has(found, key)],
            ]
        )
    return tables.markdown(titles, lines) + '\n'


def one_decimal(values: Mapping[str, Any]) -> str:
    """The mean of a summary, empty without one."""
    return '' if values['mean'] is None else f'{values["mean"]:.1f}'


def has(found: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a table has a column of `STORED`: if anything is compressed."""
    compressed = any(row.get('psnr', {}).get('mean') for row in found)
    return compressed and all(key in row for row in found)


def drift(row: Mapping[str, Any]) -> str:
    """Drift in grey levels by learning and by an adjustment, as text."""
    learned = row['drift']['mean'] or 0.0
    text = grey_levels(learned)
    adjusted = row['adjust_drift']['mean']
    return text if adjusted is None else f'{text}, +{adjusted:.2g} a time'


def grey_levels(value: float) -> str:
    """A drift as text: with one decimal, or two digits if it is small."""
    if value >= 0.95 or not value:
        return f'{value:.1f}'
    return np.format_float_positional(value, 2, fractional=False)
