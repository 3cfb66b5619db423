"""The tables of docs/results.md, each under the claim that it supports.

Every number, also those in claims, comes from `experiments/results/*.json`.
Data without results are left out.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments import (
    comparison,
    results_bytes,
    results_protocol,
    results_studies,
    statistics,
)
from experiments.results_parts import (
    DATA,
    HEADS,
    Row,
    Table,
    load,
    present,
    tally,
)

STUDY = 'replication'
# Chosen before the runs, and the maximum of two for completeness.
SHOWN = ('cnn', 'nme', 'best')
# Outer steps of the paper, in passes over the images of a phase.
PAPER_EPOCHS = 50
# Data with records of the drift of stored images. Those of other data were
# measured earlier and have the drift before rounding to bytes.
STORED = ('cifar100',)


def select(results: pathlib.Path, data: str, **labels: str) -> list[Row]:
    """Rows of study A with these labels."""
    return [
        row
        for row in load(results, STUDY, data)['rows']
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


def tested(row: Row, reference: str, heads: Sequence[str]) -> list[str]:
    """Cells of `difference`, one for each classifier, with corrected p."""
    return [statistics.tested(difference(row, reference, h)) for h in heads]


def percent(row: Row, head: str) -> str:
    """Average incremental accuracy of a row."""
    return f'{100 * row["scores"][head]["average"]["mean"]:.1f}'


def tallies(rows: Sequence[Row], reference: str, heads: Sequence[str]) -> str:
    """Tallies by the method's own classifier and then by others."""
    own = [difference(row, reference, row['judged']) for row in rows]
    found = [tally(own, "the method's own classifier")]
    for head in heads:
        cells = [difference(row, reference, head) for row in rows]
        name = 'the better network' if head == 'best' else HEADS[head]
        found.append(tally(cells, name))
    return '; '.join(found)


def case(row: Row) -> list[str]:
    """Cells of the method and of the number of exemplars a class."""
    return [row['labels']['method'], row['labels']['a class']]


def means(results: pathlib.Path) -> Table:
    """Accuracy by NME of all strategies and of all images."""
    lines, ratios = [], []
    for data, title in present(results, STUDY).items():
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
    found = tallies(rows, 'herding', ('nme', 'finetuned', 'best'))
    claim = (
        f"Learned exemplars against herding: {found}. Holm's correction is "
        f'over the {len(rows) * len(HEADS)} cells.'
    )
    lines = [[*case(r), *tested(r, 'herding', tuple(HEADS))] for r in rows]
    titles = ('method', 'a class', *HEADS.values())
    return Table(f'Learned less herding, {DATA[data]}', claim, titles, lines)


def against_random(results: pathlib.Path) -> Table:
    """Learned exemplars less random ones."""
    lines, claims = [], []
    for data, title in present(results, STUDY).items():
        rows = learned(results, data)
        claims.append(f'on {title}, {tallies(rows, "random", ("nme",))}')
        lines += [[title, *case(r), *tested(r, 'random', SHOWN)] for r in rows]
    claim = f'Learned exemplars against random ones: {"; ".join(claims)}.'
    titles = ('data', 'method', 'a class', *(HEADS[h] for h in SHOWN))
    return Table('Learned less random', claim, titles, lines)


def paper(results: pathlib.Path) -> Table:
    """The preset `paper` less the random images that it starts from."""
    lines, drifts = [], []
    for data, title in present(results, STUDY).items():
        rows = learned(results, data, 'paper')
        if not rows:
            continue
        epochs = paper_epochs(results, data)
        for row in rows:
            cells = [*tested(row, 'random', SHOWN[:2]), comparison.drift(row)]
            lines.append([f'{title}, {epochs} epochs', *case(row), *cells])
        most = comparison.grey_levels(max(r['drift']['mean'] for r in rows))
        short = f", not the paper's {PAPER_EPOCHS}"
        also = short if epochs != PAPER_EPOCHS else ''
        when = 'as stored' if data in STORED else 'before rounding'
        about = f'{epochs} outer epochs{also}; {when}'
        drifts.append(f'{most} on {title} ({about})')
    claim = (
        "With the paper's constants pixels hardly move, so that exemplars "
        'score as the random images they start from. Mean drift in grey levels '
        f'of 0 to 255, at most: {", ".join(drifts)}. Differences are to those '
        'images.'
    )
    titles = ('data', 'method', 'a class', *(HEADS[h] for h in SHOWN[:2]))
    return Table("The paper's constants", claim, (*titles, 'drift'), lines)


def paper_epochs(results: pathlib.Path, data: str) -> int:
    """Outer epochs of the runs with the preset `paper`, equal in all."""
    (epochs,) = {
        run['learning']['outer_epochs']
        for run in load(results, STUDY, data)['runs']
        if run['labels']['exemplars'] == 'paper'
    }
    return epochs


def adjusted(results: pathlib.Path) -> Table:
    """What adjusting old exemplars changes."""
    lines, rows = [], []
    for data, title in present(results, STUDY).items():
        for name in ('herding', 'tuned'):
            found = select(results, data, exemplars=name, adjusted='yes')
            rows += found
            lines += [
                [title, *case(r), name, *tested(r, 'unadjusted', SHOWN[:2])]
                for r in found
            ]
    claim = (
        'Adjusting old exemplars, against the same run without it: '
        f'{tallies(rows, "unadjusted", ("nme", "best"))}.'
    )
    titles = ('data', 'method', 'a class', 'exemplars')
    shown = (HEADS[head] for head in SHOWN[:2])
    return Table('Adjusting', claim, (*titles, *shown), lines)


def sections(results: pathlib.Path) -> Iterator[Table]:
    """All tables of the page."""
    yield means(results)
    for data in present(results, STUDY):
        yield against_herding(results, data)
    yield against_random(results)
    yield paper(results)
    yield adjusted(results)
    yield results_studies.recipes(results)
    for name, title in {
        'images': 'Tiny-ImageNet with a perceptron',
        'images_convolutions': 'Tiny-ImageNet with convolutions',
        'digits': 'digits with a perceptron',
    }.items():
        yield results_studies.from_scratch(results, name, title)
    yield results_studies.border(results)
    yield from results_protocol.sections(results)
    yield results_bytes.equal_bytes(results)
    yield results_bytes.compressed(results)
    yield results_bytes.learned(results)
    yield results_bytes.full_memories(results)
