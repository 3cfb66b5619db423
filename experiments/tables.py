"""Writes the README's results from the studies' files.

    python -m experiments.tables

replaces what is between the two marks in README.md by tables of
`experiments/results/*.json`.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks import tables
from experiments import comparison, statistics
from experiments.flags import RESULTS, ROOT

README = ROOT / 'README.md'
BEGIN = '<!-- experiments:begin -->'
END = '<!-- experiments:end -->'
DATA = {
    'digits': 'digits',
    'images': 'Tiny-ImageNet, 20 of 60 classes, 32x32',
}
SCRATCH = {
    'digits': 'digits',
    'images': 'Tiny-ImageNet, 10 classes a seed, 32x32',
}
LEARNED = ('paper', 'bilevel', 'tuned')


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
            for head in ('cnn', 'finetuned', 'nme')
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


def from_scratch(results: pathlib.Path, data: str) -> str | None:
    """Study C's own table, without its last column, seconds."""
    path = results / f'from_scratch_{data}.md'
    if not path.exists():
        return None
    rows = [x for x in path.read_text().splitlines() if x.startswith('|')]
    # A page may have further tables, such as of what was tried.
    header = rows[0].count('|')
    kept = list(itertools.takewhile(lambda x: x.count('|') == header, rows))
    return '\n'.join(f'{row.rpartition(" | ")[0]} |' for row in kept)


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
                for head in ('CNN', 'fine-tuned', 'NME')
            ],
            'NME of its ceiling',
            'drift',
        ]
        parts.append(
            'Learned exemplars against herding and random ones of the same '
            'bytes: paired differences of the average incremental accuracy in '
            'points, mean over n seeds [95 % interval]; drift in grey levels.'
        )
        parts.append(tables.markdown(titles, lines))
    for data, title in SCRATCH.items():
        table = from_scratch(results, data)
        if table:
            parts.append(
                f'A fresh perceptron trained on the exemplars alone, {title}: '
                'test accuracy, and paired differences in points.'
            )
            parts.append(table)
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
