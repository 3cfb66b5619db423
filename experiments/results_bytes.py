"""The tables of docs/results.md on exemplars at equal bytes (studies E, F)."""

import pathlib
from typing import Any, NamedTuple

from benchmarks import tables
from experiments import comparison, runner, statistics
from experiments.results_parts import HEADS, Row, Table, load, present

STUDY = 'by_the_byte'
SCREEN = 'full_memory'
# Of a run.
CLASSES = 20
# Columns of absolute accuracies, and of differences.
SHOWN = ('cnn', 'nme')
COMPARED = ('cnn', 'nme', 'best')


class Found(NamedTuple):
    """A row of the study.

    Attributes:
        title: title of its data.
        classes: number of classes of a run.
        row: see `comparison.rows`.
    """

    title: str
    classes: int
    row: Row

    def place(self) -> list[str]:
        """Cells of data and method, and of the raw images of equal bytes."""
        labels = self.row['labels']
        return [f'{self.title}, {labels["method"]}', labels['raw images']]

    def difference(self, reference: str, head: str) -> dict[str, Any] | None:
        """Average incremental accuracy less that of a reference, if it ran."""
        found = self.row['differences'].get(reference)
        return found and found[head]['average']


def rows(results: pathlib.Path, **labels: str) -> list[Found]:
    """All rows with these labels."""
    found = []
    for data, title in present(results, STUDY).items():
        content = load(results, STUDY, data)
        classes = len(content['runs'][0]['classes'])
        found += [
            Found(title, classes, row)
            for row in content['rows']
            if labels.items() <= row['labels'].items()
        ]
    return found


def equal_bytes(results: pathlib.Path) -> Table:
    """Accuracies of all cases."""
    lines = []
    for found in rows(results):
        row, labels = found.row, found.row['labels']
        each = row['count']['mean'] / found.classes
        scores = [
            f'{100 * row["scores"][head]["average"]["mean"]:.1f}'
            for head in SHOWN
        ]
        name = f'{labels["exemplars"]}, {labels["stored"]}'
        lines.append([*found.place(), name, f'{each:.1f}', *scores])
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
        each
        for each in rows(results, exemplars='herding')
        if each.row['labels']['stored'] != 'uint8'
    ]
    claim = 'Compressed images by herding less raw ones, at equal bytes.'
    return less('Compressed less raw', claim, found, 'raw herding')


def learned(results: pathlib.Path) -> Table:
    """Exemplars learned through their storage less those that were not."""
    found = rows(results, exemplars='tuned')
    claim = (
        'Learned exemplars less herding, both stored alike and in equal bytes: '
        'where pixels are compressed, they were learned through the codec.'
    )
    return less('Learned less herded', claim, found, 'herding so stored')


def less(heading: str, claim: str, found: list[Found], reference: str) -> Table:
    """A table of differences to a reference."""
    lines = []
    for each in found:
        cells = [each.difference(reference, head) for head in COMPARED]
        shown = [cell and statistics.tested(cell) for cell in cells]
        if all(shown):
            lines.append([*each.place(), each.row['labels']['stored'], *shown])
    titles = ('data, method', 'raw images', 'stored')
    shown = (HEADS[head] for head in COMPARED)
    return Table(heading, claim, (*titles, *shown), lines)


def summary(results: pathlib.Path) -> str:
    """The table of the README: JPEG in the bytes of two raw images."""
    chosen = {'stored': 'jpeg 50', 'raw images': '2'}
    learned = {
        each.place()[0]: each
        for each in rows(results, exemplars='tuned', **chosen)
    }
    lines = []
    for each in rows(results, exemplars='herding', **chosen):
        name = each.place()[0]
        pairs = (each, 'raw herding'), (learned.get(name), 'herding so stored')
        cells = [
            own and own.difference(reference, head)
            for own, reference in pairs
            for head in SHOWN
        ]
        shown = [statistics.marked(cell) if cell else '' for cell in cells]
        lines.append([name, *shown])
    heads = [HEADS[head] for head in SHOWN]
    titles = [f'herded: {head}' for head in heads]
    titles += [f'learned: {head}' for head in heads]
    return tables.markdown(('data, method', *titles), lines)


def full_memories(results: pathlib.Path) -> Table:
    """Study F: each case less herding and less `tuned`, seed by seed."""
    lines, better, numbers = [], [], set()
    for data, title in present(results, SCREEN).items():
        runs = load(results, SCREEN, data)['runs']
        grouped = {
            dict(labels)['case']: seeds
            for labels, seeds in comparison.group(runs).items()
        }
        for name, seeds in grouped.items():
            found = {
                (reference, head): changes(seeds, grouped[reference], head)
                for reference in ('herding', 'tuned')
                if reference != name
                for head in SHOWN
            }
            mark = any(map(runner.used_removed, seeds.values()))
            row = f'{title}, {name}{" †" if mark else ""}'
            lines.append([row, *screen_cells(seeds, found)])
            numbers |= set(seeds)
            if helps(found):
                better.append(name)
    claim = (
        'One thing changed at a time about JPEG exemplars of quality 50 in the '
        'bytes of two raw images a class, LUCIR. Better than `tuned` on two '
        'seeds or more, by CNN on each and not worse by NME: '
        f'{", ".join(better) or "none"}. Points, seed by seed '
        f'({", ".join(sorted(numbers))}); images are '
        'those of a class at the end. Rows with † are records: they used an '
        f'option that the package had at commit {runner.REMOVED_AT_F} and no '
        'longer has.'
    )
    titles = [
        f'{HEADS[h]}, to {r}' for r in ('herding', 'tuned') for h in SHOWN
    ]
    heading = 'Full compressed memories'
    return Table(heading, claim, ('data, case', 'images', *titles), lines)


def changes(
    seeds: dict[str, Any], others: dict[str, Any], head: str
) -> list[float]:
    """Average incremental accuracy less another's, for each shared seed."""
    return [
        comparison.scores(seeds[seed])[head]['average']
        - comparison.scores(others[seed])[head]['average']
        for seed in sorted(seeds)
        if seed in others
    ]


def helps(found: dict[tuple[str, str], list[float]]) -> bool:
    """Whether a case is better than `tuned`, see the claim."""
    cnn, nme = (found.get(('tuned', head), []) for head in SHOWN)
    return len(cnn) > 1 and min(cnn) > 0 and min(nme) >= 0


def screen_cells(
    seeds: dict[str, Any], found: dict[tuple[str, str], list[float]]
) -> list[str]:
    """Cells of the images a class, and of differences by seed."""
    count = sum(r['exemplars'][-1]['count'] for r in seeds.values())
    images = count / len(seeds) / CLASSES
    cells = [
        ', '.join(f'{100 * v:+.1f}' for v in found.get((reference, head), []))
        for reference in ('herding', 'tuned')
        for head in SHOWN
    ]
    return [f'{images:.1f}', *cells]
