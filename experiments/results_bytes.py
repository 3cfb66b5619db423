"""The tables of docs/results.md on exemplars at equal bytes (study E)."""

import pathlib
from typing import Any

from experiments import statistics
from experiments.results_parts import HEADS, Row, Table, load, present

STUDY = 'by_the_byte'
# Columns of absolute accuracies, and of differences.
SHOWN = ('cnn', 'nme')
COMPARED = ('cnn', 'nme', 'best')


def rows(results: pathlib.Path) -> list[tuple[str, Row]]:
    """All rows, each with the title of its data."""
    return [
        (title, row)
        for data, title in present(results, STUDY).items()
        for row in load(results, STUDY, data)['rows']
    ]


def place(title: str, row: Row) -> list[str]:
    """Cells of data and method, and of the raw images of equal bytes."""
    labels = row['labels']
    return [f'{title}, {labels["method"]}', labels['raw images']]


def difference(row: Row, reference: str, head: str) -> dict[str, Any]:
    """Average incremental accuracy of a row less that of its reference."""
    return row['differences'][reference][head]['average']


def equal_bytes(results: pathlib.Path) -> Table:
    """Accuracies of all cases."""
    lines = []
    for title, row in rows(results):
        labels, classes = row['labels'], 20
        each = row['count']['mean'] / classes
        scores = [
            f'{100 * row["scores"][head]["average"]["mean"]:.1f}'
            for head in SHOWN
        ]
        name = f'{labels["exemplars"]}, {labels["stored"]}'
        lines.append([*place(title, row), name, f'{each:.1f}', *scores])
    claim = (
        'A class has the bytes of as many raw images as its row says. '
        '`repeated` are two raw images, each shown 15 times an epoch: a '
        'control for how often old classes are seen. Images are those of a '
        'class at the end.'
    )
    titles = ('data, method', 'raw images', 'exemplars', 'images')
    shown = (HEADS[head] for head in SHOWN)
    return Table('At equal bytes', claim, (*titles, *shown), lines)


def compressed(results: pathlib.Path) -> Table:
    """Compressed herding less raw herding."""
    found = [
        (title, row)
        for title, row in rows(results)
        if row['labels']['exemplars'] == 'herding'
        and row['labels']['stored'] != 'uint8'
    ]
    claim = 'Compressed images by herding less raw ones, at equal bytes.'
    return less('Compressed less raw', claim, found, 'raw herding')


def learned(results: pathlib.Path) -> Table:
    """Exemplars learned through their storage less those that were not."""
    found = [
        (title, row)
        for title, row in rows(results)
        if row['labels']['exemplars'] == 'tuned'
    ]
    claim = (
        'Learned exemplars less herding, both stored alike and in equal bytes: '
        'where pixels are compressed, they were learned through the codec.'
    )
    return less('Learned less herded', claim, found, 'herding so stored')


def less(
    heading: str, claim: str, found: list[tuple[str, Row]], reference: str
) -> Table:
    """A table of differences to a reference."""
    lines = [
        [
            *place(title, row),
            row['labels']['stored'],
            *[
                statistics.tested(difference(row, reference, head))
                for head in COMPARED
            ],
        ]
        for title, row in found
    ]
    titles = ('data, method', 'raw images', 'stored')
    shown = (HEADS[head] for head in COMPARED)
    return Table(heading, claim, (*titles, *shown), lines)
