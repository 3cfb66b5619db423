"""The tables of docs/results.md, each under the claim that it supports.

Every number, also those in claims, comes from `experiments/results/*.json`.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import tables
from experiments import comparison, runner, scratch_table, statistics

DATA = {'images': 'Tiny-ImageNet', 'digits': 'digits'}
HEADS = {
    'cnn': 'CNN',
    'finetuned': 'fine-tuned',
    'best': 'better network',
    'nme': 'NME',
}
SHOWN = ('best', 'nme')
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


def select(results: pathlib.Path, data: str, **labels: str) -> list[Row]:
    """Rows of study A with these labels."""
    return [
        row
        for row in load(results, 'replication', data)['rows']
        if labels.items() <= row['labels'].items()
    ]


def learned(
    results: pathlib.Path, data: str, exemplars: str = 'tuned'
) -> list[Row]:
    """Rows of study A with learned exemplars that were not adjusted."""
    return select(results, data, exemplars=exemplars, adjusted='no')


def difference(row: Row, reference: str, head: str) -> dict[str, Any]:
    """Average incremental accuracy of a row less that of its reference."""
    return row['differences'][reference][head]['average']


def signed(row: Row, reference: str, heads: Sequence[str]) -> list[str]:
    """Cells of `difference`, one for each classifier."""
    return [statistics.signed(difference(row, reference, h)) for h in heads]


def percent(row: Row, head: str) -> str:
    """Average incremental accuracy of a row."""
    return f'{100 * row["scores"][head]["average"]["mean"]:.1f}'


def tally(rows: Sequence[Row], reference: str, head: str) -> str:
    """In how many rows the interval of the difference excludes zero."""
    found = [difference(row, reference, head) for row in rows]
    above = sum(values['low'] > 0 for values in found)
    below = sum(values['high'] < 0 for values in found)
    name = 'the better network' if head == 'best' else HEADS[head]
    return (
        f'{name} is higher in {above} of {len(found)} cases and lower in '
        f'{below}'
    )


def case(row: Row) -> list[str]:
    """Cells of the method and of the number of exemplars a class."""
    return [row['labels']['method'], row['labels']['a class']]


def means(results: pathlib.Path) -> Table:
    """Accuracy by NME of all strategies and of all images."""
    lines, ratios = [], []
    for data, title in DATA.items():
        for row in learned(results, data):
            method, size = case(row)
            labels = {'method': method, 'a class': size, 'adjusted': 'no'}
            real = [
                select(results, data, exemplars=name, **labels)[0]
                for name in ('random', 'herding')
            ]
            average = {h: row['scores'][h]['average']['mean'] for h in HEADS}
            ceiling = row['scores']['oracle']['average']['mean']
            ratios.append(average['nme'] / ceiling)
            lines.append(
                [
                    f'{title}, {method}',
                    size,
                    *[percent(each, 'nme') for each in (*real, row)],
                    percent(row, 'oracle'),
                ]
            )
    claim = (
        'Learned exemplars reach '
        f'{100 * min(ratios):.0f} to {100 * max(ratios):.0f} % of the accuracy '
        'of class means of all training images, which no learner may keep. '
        'Nearest-mean accuracy in percent.'
    )
    titles = ('data, method', 'a class', 'random', 'herding', 'learned')
    return Table('Nearest means', claim, (*titles, 'all images'), lines)


def against_herding(results: pathlib.Path, data: str) -> Table:
    """Learned exemplars less herding, by each classifier."""
    rows = learned(results, data)
    counts = [tally(rows, 'herding', head) for head in ('nme', 'best', 'cnn')]
    claim = f'Learned exemplars against herding: {"; ".join(counts)}.'
    lines = [[*case(r), *signed(r, 'herding', tuple(HEADS))] for r in rows]
    titles = ('method', 'a class', *HEADS.values())
    return Table(f'Learned less herding, {DATA[data]}', claim, titles, lines)


def against_random(results: pathlib.Path) -> Table:
    """Learned exemplars less random ones."""
    lines, claims = [], []
    for data, title in DATA.items():
        rows = learned(results, data)
        claims.append(f'on {title}, {tally(rows, "random", "nme")}')
        lines += [[title, *case(r), *signed(r, 'random', SHOWN)] for r in rows]
    claim = f'Learned exemplars against random ones: {"; ".join(claims)}.'
    titles = ('data', 'method', 'a class', *(HEADS[h] for h in SHOWN))
    return Table('Learned less random', claim, titles, lines)


def paper(results: pathlib.Path) -> Table:
    """The preset `paper` less the random images that it starts from."""
    lines, drifts, epochs = [], [], []
    for data, title in DATA.items():
        epochs += {
            f'{run["learning"]["outer_epochs"]} outer epochs on {title}': None
            for run in load(results, 'replication', data)['runs']
            if run['labels']['exemplars'] == 'paper'
        }
        for row in learned(results, data, 'paper'):
            cells = [*signed(row, 'random', SHOWN), comparison.drift(row)]
            lines.append([title, *case(row), *cells])
            drifts.append(row['drift']['mean'])
    claim = (
        "With the paper's constants pixels move by at most "
        f'{max(drifts):.2f} of 255 grey levels on average, so that exemplars '
        'score as the random images they start from. Differences to those, '
        f'after {" and ".join(epochs)}.'
    )
    titles = ('data', 'method', 'a class', *(HEADS[h] for h in SHOWN))
    return Table("The paper's constants", claim, (*titles, 'drift'), lines)


def adjusted(results: pathlib.Path) -> Table:
    """What adjusting old exemplars changes."""
    lines, rows = [], []
    for data, title in DATA.items():
        for name in ('herding', 'tuned'):
            found = select(results, data, exemplars=name, adjusted='yes')
            rows += found
            lines += [
                [title, *case(r), name, *signed(r, 'unadjusted', SHOWN)]
                for r in found
            ]
    claim = (
        'Adjusting old exemplars, against the same run without it: '
        f'{tally(rows, "unadjusted", "nme")}; '
        f'{tally(rows, "unadjusted", "best")}.'
    )
    titles = ('data', 'method', 'a class', 'exemplars')
    shown = (HEADS[head] for head in SHOWN)
    return Table('Adjusting', claim, (*titles, *shown), lines)


def recipes(results: pathlib.Path) -> Table:
    """Study B: each recipe less `base`, seed by seed."""
    found = {data: changes(results, data) for data in DATA}
    names = list(dict.fromkeys([*found['digits'], *found['images']]))
    removed = removed_recipes(results)
    lines = []
    for name in names:
        cells = [
            ', '.join(f'{100 * v:+.1f}' for v in heads.get(head, ()))
            for heads in (found[data].get(name, {}) for data in DATA)
            for head in SHOWN
        ]
        lines.append([f'{name} †' if name in removed else name, *cells])
    better = [
        name
        for name, heads in found['images'].items()
        if min(v for values in heads.values() for v in values) > 0
    ]
    claim = (
        'On Tiny-ImageNet these are better than `base`, the preset `bilevel`, '
        f'on both seeds by both measures: {", ".join(better)}. Points at two '
        'exemplars a class, seed by seed; empty where not run. Rows with † '
        'are records: they used options that the package had at commit '
        f'{runner.REMOVED_AT} and no longer has.'
    )
    titles = [f'{t}, {HEADS[h]}' for t in DATA.values() for h in SHOWN]
    return Table('Recipes', claim, ('recipe', *titles), lines)


def changes(
    results: pathlib.Path, data: str
) -> dict[str, dict[str, list[float]]]:
    """Each recipe less `base`: by classifier, a difference for each seed."""
    runs = load(results, 'recipe', data)['runs']
    found = {
        dict(labels)['recipe']: {
            seed: comparison.scores(record) for seed, record in seeds.items()
        }
        for labels, seeds in comparison.group(runs).items()
    }
    base = found.pop('base')
    return {
        name: {
            head: [
                own[seed][head]['average'] - base[seed][head]['average']
                for seed in sorted(base)
            ]
            for head in SHOWN
        }
        for name, own in found.items()
    }


def removed_recipes(results: pathlib.Path) -> set[str]:
    """Recipes that used an option which the package no longer has."""
    return {
        run['labels']['recipe']
        for data in DATA
        for run in load(results, 'recipe', data)['runs']
        if runner.used_removed(run)
    }


def from_scratch(results: pathlib.Path, name: str, title: str) -> Table:
    """Study C: fresh networks trained on the exemplars alone."""
    cases = load(results, 'from_scratch', name)['cases']
    kinds = {
        (each['per_class'], *storage(each['row']))
        for each in cases
        if each['per_class'] is not None
    }
    lines, better, worse = [], 0, 0
    for size, packed, soft in sorted(kinds):
        cells, gain = scratch_cells(cases, size, packed, soft)
        better += gain['low'] > 0
        worse += gain['high'] < 0
        lines.append([str(size), *cells, statistics.signed(gain)])
    claim = (
        'Fresh networks trained on learned exemplars alone are better than on '
        f'herded images in {better} of {len(lines)} cases and worse in '
        f'{worse}. Test accuracy in percent; the difference is to herded '
        'images that are not packed.'
    )
    titles = ('a class', 'stored', 'random', 'herding', 'learned')
    heading = f'Fresh networks, {title}'
    return Table(heading, claim, (*titles, 'learned less herding'), lines)


def storage(row: str) -> tuple[bool, bool]:
    """Whether the exemplars of a row are packed, and their labels soft."""
    return ', packed' in row, ', soft labels' in row


def scratch_cells(
    cases: Sequence[Row], size: int, packed: bool, soft: bool
) -> tuple[list[str], dict[str, Any]]:
    """Storage and accuracies of a row of study C, and the gain by learning."""
    packs = ', packed' if packed else ''
    name = f'mnemonics{packs}{", soft labels" if soft else ""}'
    ours = scratch_table.accuracies(cases, name, size)

    def accuracies(row):
        found = scratch_table.accuracies(cases, row, size)
        return {seed: found[seed] for seed in ours}

    parts = (accuracies(f'random{packs}'), accuracies(f'herding{packs}'), ours)
    spreads = [
        statistics.spread(statistics.summary(list(part.values())))
        for part in parts
    ]
    stored = 'packed' if packed else 'images'
    gain = scratch_table.difference(ours, accuracies('herding'))
    return [f'{stored}{", soft labels" if soft else ""}', *spreads], gain


def border(results: pathlib.Path) -> Table:
    """Study D: how far inside their class exemplars lie."""
    lines, nearer, num = [], 0, 0
    for data, title in DATA.items():
        rows = [
            row
            for row in load(results, 'border', data)['rows']
            if row['phase'] == 'last'
        ]
        tuned = [row for row in rows if row['exemplars'] == 'tuned']
        num += len(tuned)
        nearer += sum(row['difference']['high'] < 0 for row in tuned)
        for row in tuned:
            size = row['a class']
            ratio = {
                r['exemplars']: f'{r["ratio"]["mean"]:.2f}'
                for r in rows
                if r['a class'] == size
            }
            images = f'{row["images"]["mean"]:.2f}'
            names = ('random', 'herding', 'tuned')
            lines.append([title, size, *map(ratio.get, names), images])
    claim = (
        'Learned exemplars do not lie on the border between classes: in '
        f'{nearer} of {num} cases they are nearer to it than test images of '
        'their class. Median distance to the nearest mean of another class '
        'over that to the own mean, LUCIR, last phase: 1 is the border, more '
        'is inside.'
    )
    titles = ('data', 'a class', 'random', 'herding', 'learned')
    return Table('The border', claim, (*titles, 'test images'), lines)


def sections(results: pathlib.Path) -> Iterator[Table]:
    """All tables of the page."""
    yield means(results)
    yield against_herding(results, 'images')
    yield against_herding(results, 'digits')
    yield against_random(results)
    yield paper(results)
    yield adjusted(results)
    yield recipes(results)
    for name, title in {
        'images': 'Tiny-ImageNet with a perceptron',
        'images_convolutions': 'Tiny-ImageNet with convolutions',
        'digits': 'digits with a perceptron',
    }.items():
        yield from_scratch(results, name, title)
    yield border(results)


def summary(results: pathlib.Path) -> str:
    """The small table of the README: LUCIR, all numbers of exemplars."""
    lines = []
    for data, title in DATA.items():
        for row in learned(results, data):
            method, size = case(row)
            if method == 'lucir':
                gains = signed(row, 'herding', SHOWN)
                accuracy = percent(row, 'nme')
                lines.append([title, size, accuracy, *reversed(gains)])
    titles = ('data', 'exemplars a class', 'NME, learned', 'NME, less herding')
    return tables.markdown((*titles, 'better network, less herding'), lines)
