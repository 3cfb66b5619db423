"""Studies: the tables of docs/results.md and the README."""

import json
import pathlib
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from experiments import (
    comparison,
    replication,
    results_page,
    results_parts,
    results_studies,
    runner,
    tables,
)


def test_the_documents_have_what_the_results_give():
    for path, found in tables.bodies(tables.RESULTS).items():
        text = path.read_text()
        assert tables.insert(text, found) == text


def test_a_document_without_the_marks_is_refused():
    with pytest.raises(ValueError, match='the text has no'):
        tables.insert(f'{tables.BEGIN} and no end', 'body')


def test_a_table_has_a_claim_and_at_most_six_columns():
    found = list(results_page.sections(tables.RESULTS))
    assert len({table.heading for table in found}) == len(found) > 8
    for table in found:
        assert table.claim.endswith('.')
        assert len(table.titles) <= 6
        assert {len(line) for line in table.lines} == {len(table.titles)}


def test_a_tally_counts_what_survives_and_beside_it_intervals_alone():
    cells = [
        {'low': 0.1, 'high': 0.2, 'mean': 0.15, 'holm': 0.01},
        {'low': 0.1, 'high': 0.2, 'mean': 0.15, 'holm': 0.2},
        {'low': -0.3, 'high': 0.2, 'mean': -0.05, 'holm': 1.0},
        {'low': -0.3, 'high': -0.2, 'mean': -0.25, 'holm': 0.06},
    ]
    text = results_parts.tally(cells, 'NME')
    assert text == 'NME is higher in 1 (2) of 4 cases and lower in 0 (1)'


def made_cifar100(folder: pathlib.Path) -> None:
    """The results there are, and records on CIFAR-100 made of others."""
    for path in tables.RESULTS.glob('*.json'):
        shutil.copy(path, folder)
    runs = results_parts.load(folder, 'replication', 'images')['runs']
    names = {tuple(c.labels.items()) for c in replication.cases('cifar100')}
    made = [r for r in runs if runner.case_key(r['labels']) in names]
    for run in made:
        if run['labels']['exemplars'] == 'paper':
            run['learning']['outer_epochs'] = 50
    rows = comparison.rows(made, replication.REFERENCES, replication.FAMILY)
    path = folder / 'replication_cifar100.json'
    path.write_text(json.dumps({'rows': rows, 'runs': made}))


def test_cifar100_is_in_the_tables_once_it_has_results(tmp_path):
    made_cifar100(tmp_path)
    before = {t.heading for t in results_page.sections(tables.RESULTS)}
    assert 'Learned less herding, CIFAR-100' in before
    found = {t.heading: t for t in results_page.sections(tmp_path)}
    herding = found['Learned less herding, CIFAR-100']
    assert len(herding.lines) == 6
    assert herding.titles[-1] == 'better network'
    assert 'over the 24 cells' in herding.claim
    paper = found["The paper's constants"]
    assert paper.lines[0][0] == 'CIFAR-100, 50 epochs'
    assert 'on CIFAR-100 (50 outer epochs; as stored)' in paper.claim
    assert (
        "on Tiny-ImageNet (2 outer epochs, not the paper's 50; before rounding)"
    ) in paper.claim
    for table in found.values():
        assert len(table.titles) <= 6


def test_the_first_tally_is_of_the_classifier_of_each_method():
    cell = {'low': -0.1, 'high': 0.1, 'mean': 0.0, 'holm': 1.0}
    gain = {'low': 0.1, 'high': 0.3, 'mean': 0.2, 'holm': 0.01}
    rows = [
        {
            'judged': judged,
            'differences': {
                'herding': {
                    head: {'average': gain if head == judged else cell}
                    for head in ('cnn', 'nme')
                }
            },
        }
        for judged in ('cnn', 'nme')
    ]
    assert results_page.tallies(rows, 'herding', ('nme',)) == (
        "the method's own classifier is higher in 2 (2) of 2 cases and lower "
        'in 0 (0); NME is higher in 1 (1) of 2 cases and lower in 0 (0)'
    )


def test_recipes_that_no_longer_run_are_marked_as_records():
    removed = results_studies.removed_recipes(tables.RESULTS)
    assert {name for name in removed if name.startswith('start: ')} == {
        'start: previous model',
        'start: between both',
        'start: model made to forget',
    }
    assert 'balanced queries' in removed
    assert 'augmented inside + means' not in removed
    rows = results_studies.recipes(tables.RESULTS).lines
    assert {row[0].removesuffix(' †') for row in rows if '†' in row[0]} == (
        removed
    )
