"""docs/reproduce.md: the rows of the paper's tables are commands."""

import pytest
from readme_test import TOP

from mnemonics_jax.config import arguments, resolve
from mnemonics_jax.report import paper_protocol, published

PAGE = (TOP / 'docs' / 'reproduce.md').read_text()
HERDED_LWF = 'LwF + herding exemplars'
# Table 1: method, whether exemplars are learned, name of the published curve,
# and average accuracy and forgetting for C 5 and I 25.
TABLE_1 = {
    'LwF': (
        'lwf',
        False,
        'LwF + herding exemplars',
        49.59,
        36.87,
        43.36,
        49.84,
    ),
    'LwF w/ mnemonics': ('lwf', True, None, 54.43, 50.79, 38.38, 37.95),
    'iCaRL': ('icarl', False, 'iCaRL', 57.12, 43.14, 31.88, 38.80),
    'iCaRL w/ mnemonics': ('icarl', True, None, 59.88, 53.46, 25.28, 17.49),
    'BiC': ('bic', False, 'BiC', 59.36, 53.47, 31.42, 33.17),
    'BiC w/ mnemonics': ('bic', True, None, 60.67, 60.20, 22.42, 20.50),
    'LUCIR': ('lucir', False, 'LUCIR', 63.17, 56.56, 18.70, 30.30),
    'LUCIR w/ mnemonics': (
        'lucir',
        True,
        'LUCIR w/ mnemonics',
        64.95,
        63.08,
        11.64,
        14.40,
    ),
}


def rows_under(heading):
    """Cells of the rows of the table under a heading."""
    part = PAGE.split(f'## {heading}\n')[1].split('\n## ')[0]
    lines = [line for line in part.splitlines() if line.startswith('|')]
    return [
        [cell.strip() for cell in row[1:-1].split('|')] for row in lines[2:]
    ]


def resolved(given):
    return resolve(arguments.load(f'cifar100:phases=5,{given.strip("`")}'))


def test_every_row_of_table_1_is_a_command():
    averages = rows_under('Table 1, average incremental accuracy')
    forgetting = rows_under('Table 1, forgetting')
    assert {row[0] for row in averages} == set(TABLE_1)
    for (name, given, *values), again in zip(averages, forgetting, strict=True):
        method, learned, curve, *expected = TABLE_1[name]
        assert again[:2] == [name, given]
        ends = [values[0], values[-1], again[2], again[-1]]
        assert [float(value) for value in ends] == expected
        found = resolved(given)
        strategy = 'mnemonics' if learned else 'herding'
        assert found.method.name == method
        assert found.exemplars.strategy == strategy
        assert found.exemplars.adjust is found.weight_transfer is learned
        assert found.exemplars.preset == 'paper' or not learned
        assert paper_protocol.curve_of(method, strategy) == curve
        if curve:
            curves = {c.method: c for c in published.curves('CIFAR-100', 5)}
            accuracy = curves[curve].accuracy
            mean = sum(accuracy) / len(accuracy)
            assert mean == pytest.approx(expected[0], abs=0.02)


@pytest.mark.parametrize('what', ['average incremental accuracy', 'forgetting'])
def test_every_row_of_table_2_is_a_command(what):
    rows = rows_under(f'Table 2, {what}')
    assert len(rows) == 6
    for exemplars, adjusted, given, *values in rows:
        found = resolved(given)
        assert found.method.name == 'lucir'
        assert found.weight_transfer is True
        assert found.exemplars.strategy == exemplars
        assert found.exemplars.adjust is (adjusted == 'yes')
        assert found.exemplars.preset == 'paper'
        assert len(values) == 6
        assert all(0 < float(value) < 100 for value in values)


def test_the_last_rows_of_both_tables_are_one_run():
    runs = [
        resolved(rows_under(f'Table {n}, forgetting')[-1][-k])
        for n, k in ((1, 10), (2, 7))
    ]
    assert runs[0] == runs[1]
