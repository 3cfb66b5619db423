"""The tables of studies B, C and D in docs/results.md."""

import pathlib
from collections.abc import Sequence
from typing import Any

from experiments import comparison, runner, scratch_table, statistics
from experiments.results_parts import HEADS, Row, Table, load, present, tally

SHOWN = ('best', 'nme')


def recipes(results: pathlib.Path) -> Table:
    """Study B: each recipe less `base`, seed by seed."""
    titles_of = present(results, 'recipe')
    found = {data: changes(results, data) for data in titles_of}
    names = list(dict.fromkeys([*found['digits'], *found['images']]))
    removed = removed_recipes(results)
    lines = []
    for name in names:
        cells = [
            ', '.join(f'{100 * v:+.1f}' for v in heads.get(head, ()))
            for heads in (found[data].get(name, {}) for data in titles_of)
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
    titles = [f'{t}, {HEADS[h]}' for t in titles_of.values() for h in SHOWN]
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
        for data in present(results, 'recipe')
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
    lines, gains = [], []
    for size, packed, soft in sorted(kinds):
        cells, gain = scratch_cells(cases, size, packed, soft)
        gains.append(gain)
        lines.append([str(size), *cells])
    gains = statistics.corrected(gains)
    for line, gain in zip(lines, gains, strict=True):
        line.append(statistics.tested(gain))
    name = 'Accuracy of fresh networks trained on learned exemplars alone'
    claim = (
        f'{tally(gains, name)} than on herded images that are not packed. Test '
        'accuracy in percent.'
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
    lines, gaps = [], []
    for data, title in present(results, 'border').items():
        rows = [
            row
            for row in load(results, 'border', data)['rows']
            if row['phase'] == 'last'
        ]
        tuned = [row for row in rows if row['exemplars'] == 'tuned']
        gaps += [row['difference'] for row in tuned]
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
    found = tally(statistics.corrected(gaps), 'their ratio', ('more', 'less'))
    claim = (
        'Learned exemplars do not lie on the border between classes: '
        f'{found} than that of test images of their class. The ratio is the '
        'median distance to the nearest mean of another class over that to the '
        'own mean, LUCIR, last phase: 1 is the border, more is inside.'
    )
    titles = ('data', 'a class', 'random', 'herding', 'learned')
    return Table('The border', claim, (*titles, 'test images'), lines)
