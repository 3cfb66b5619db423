"""Writes the README's results from the studies' files.

    python -m experiments.tables

replaces what is between the two marks in README.md by tables of
`experiments/results/*.json`.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tables
from experiments import comparison, scratch_table, statistics
from experiments.flags import RESULTS, ROOT

README = ROOT / 'README.md'
BEGIN = '<!-- experiments:begin -->'
END = '<!-- experiments:end -->'
DATA = {
    'digits': 'digits',
    'images': 'Tiny-ImageNet, 20 of 60 classes, 32x32',
}
SCRATCH = {
    'digits': 'digits, perceptron',
    'images': 'Tiny-ImageNet, 10 classes a seed, 32x32, perceptron',
    'images_convolutions': 'the same, convolutions',
}
HEADS = {
    'cnn': 'CNN',
    'finetuned': 'fine-tuned',
    'best': 'better of both',
    'nme': 'NME',
}
# What a reader chooses between; the other is in the study's own table.
LEARNED = ('paper', 'tuned')


def load(results: pathlib.Path, study: str, data: str) -> dict[str, Any] | None:
    """A study's file; None if it has not been done."""
    path = results / f'{study}_{data}.json'
    return json.loads(path.read_text()) if path.exists() else None


def replication(results: pathlib.Path) -> list[list[str]]:
    """Differences of learned exemplars to herding and random, a row each."""
    lines = []
    for data, title in DATA.items():
        content = load(results, 'replication', data)
        for row in content['rows'] if content else ():
            labels = row['labels']
            if labels['exemplars'] in LEARNED and labels['adjusted'] == 'no':
                lines.append([title, *replication_row(row)])
    return lines


def replication_row(row: Mapping[str, Any]) -> list[str]:
    """A row of `replication`, without its data."""
    labels, differences = row['labels'], row['differences']
    average = {
        name: {head: values['average'] for head, values in found.items()}
        for name, found in differences.items()
    }
    return [
        labels['method'],
        labels['a class'],
        labels['exemplars'],
        str(row['scores']['cnn']['average']['n']),
        *[
            statistics.signed(average[name][head])
            for name in ('herding', 'random')
            for head in HEADS
        ],
        ceiling(row),
        comparison.drift(row),
    ]


def ceiling(row: Mapping[str, Any]) -> str:
    """NME of the exemplars, and that of all training images."""
    own = row['scores']
    return ' of '.join(
        f'{100 * own[head]["average"]["mean"]:.1f}'
        for head in ('nme', 'oracle')
        if head in own
    )


def from_scratch(results: pathlib.Path) -> list[list[str]]:
    """Study C: a row for each data, bytes and way of storing them."""
    lines = []
    for data, title in SCRATCH.items():
        content = load(results, 'from_scratch', data)
        cases = content['cases'] if content else []
        stored = dict.fromkeys(
            (case['per_class'], *stored_as(case['row']))
            for case in cases
            if case['per_class'] is not None
        )
        for per_class, packed, soft in sorted(stored):
            row = from_scratch_row(cases, per_class, packed, soft)
            lines.append([title, *row])
    return lines


def stored_as(row: str) -> tuple[bool, bool]:
    """Whether the exemplars of a row are packed, and their labels soft."""
    return ', packed' in row, ', soft labels' in row


def from_scratch_row(
    cases: Sequence[Mapping[str, Any]], per_class: int, packed: bool, soft: bool
) -> list[str]:
    """A row of `from_scratch`, without its data."""
    packs = ', packed' if packed else ''
    learned = f'mnemonics{packs}{", soft labels" if soft else ""}'
    seeds = scratch_table.accuracies(cases, learned, per_class)
    accuracy = {
        name: {
            seed: value
            for seed, value in scratch_table.accuracies(
                cases, row, per_class
            ).items()
            if seed in seeds
        }
        for name, row in {
            'random': f'random{packs}',
            'herding': f'herding{packs}',
            'learned': learned,
            # What differences are to: real images as they are.
            'random images': 'random',
            'herded images': 'herding',
        }.items()
    }
    drifts = [
        case['drift_grey_levels']
        for case in cases
        if (case['row'], case['per_class']) == (learned, per_class)
    ]
    return [
        str(per_class),
        f'{"packed" if packed else "as they are"}'
        f'{", soft labels" if soft else ""}',
        str(len(seeds)),
        *[
            statistics.spread(statistics.summary(list(found.values())))
            for found in list(accuracy.values())[:3]
        ],
        *[
            statistics.signed(
                scratch_table.difference(accuracy['learned'], accuracy[name])
            )
            for name in ('random images', 'herded images')
        ],
        f'{sum(drifts) / len(drifts):.1f}' if drifts else '',
    ]


def section(results: pathlib.Path) -> str:
    """All that the README has of the studies; empty without any."""
    parts = []
    lines = replication(results)
    if lines:
        titles = [
            'data',
            'method',
            'a class',
            'preset',
            'n',
            *[
                f'{head}, to {name}'
                for name in ('herding', 'random')
                for head in HEADS.values()
            ],
            'NME of its ceiling',
            'drift',
        ]
        parts.append(
            'Learned exemplars against herding and random ones of the same '
            'bytes: paired differences of the average incremental accuracy in '
            'points, mean over n seeds [95 % interval]; drift in grey levels. '
            'The better of CNN and fine-tuned is taken in each phase.'
        )
        parts.append(tables.markdown(titles, lines))
    lines = from_scratch(results)
    if lines:
        titles = [
            'data and network',
            'images a class',
            'stored',
            'n',
            'random',
            'herding',
            'learned',
            'learned, to random images',
            'learned, to herded images',
            'drift',
        ]
        parts.append(
            'Fresh networks trained on the exemplars alone: test accuracy in '
            'percent, mean ± standard deviation over n seeds, and paired '
            'differences in points to real images of the same bytes; soft '
            'labels take a byte for each class beside them.'
        )
        parts.append(tables.markdown(titles, lines))
    return '\n\n'.join(parts)


def insert(text: str, body: str) -> str:
    """The text with what is between the marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    head, begun, rest = text.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f'{README.name}: {BEGIN} or {END} is missing')
    return f'{head}{begun}\n\n{body}\n\n{ended}{tail}'


def main() -> None:
    """Writes the section."""
    README.write_text(insert(README.read_text(), section(RESULTS)))


if __name__ == '__main__':
    main()
