"""The tables of docs/results.md on exemplars at equal bytes (studies E, F)."""

import pathlib
from typing import Any

from experiments import comparison, runner, statistics
from experiments.results_parts import HEADS, Row, Table, load, present

STUDY = 'by_the_byte'
SCREEN = 'full_memory'
# Of a run.
CLASSES = 20
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
        labels = row['labels']
        each = row['count']['mean'] / CLASSES
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
