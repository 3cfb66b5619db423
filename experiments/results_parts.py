"""What the tables of docs/results.md share: their data and how they count."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import tables
from experiments import comparison, statistics

# By name in result files. CIFAR-100 comes first: it took part in no choice.
DATA = {
    'cifar100': 'CIFAR-100',
    'cifar100_all': 'CIFAR-100, 100 classes',
    'images': 'Tiny-ImageNet',
    'digits': 'digits',
}
HEADS = comparison.COMPARED
Row = Mapping[str, Any]


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        heading: heading of its section.
        claim: what the table shows, in a sentence or two.
        titles: titles of its columns, at most six.
        lines: cells of its rows.
    """

    heading: str
    claim: str
    titles: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The section in Markdown."""
        body = tables.markdown(self.titles, self.lines)
        return f'## {self.heading}\n\n{self.claim}\n\n{body}'


def load(results: pathlib.Path, study: str, data: str) -> dict[str, Any]:
    """The content of a study's file."""
    return json.loads((results / f'{study}_{data}.json').read_text())


def present(results: pathlib.Path, study: str) -> dict[str, str]:
    """The titles of the data that a study has results of, by name."""
    return {
        name: title
        for name, title in DATA.items()
        if (results / f'{study}_{name}.json').exists()
    }


def tally(
    cells: Sequence[Mapping[str, Any]],
    name: str,
    words: Sequence[str] = ('higher', 'lower'),
) -> str:
    """In how many cells a difference survives Holm's correction.

    In brackets those whose interval alone excludes zero.

    Args:
        cells: intervals with 'holm'.
        name: what is compared.
        words: what it is called if the difference is above or below zero.
    """
    left = [c['mean'] for c in cells if statistics.survives(c)]
    above, below = sum(m > 0 for m in left), sum(m < 0 for m in left)
    high = sum(c['low'] > 0 for c in cells)
    low = sum(c['high'] < 0 for c in cells)
    more, less = words
    return (
        f'{name} is {more} in {above} ({high}) of {len(cells)} cases and '
        f'{less} in {below} ({low})'
    )
