"""Tests of the report's tables as CSV and LaTeX files."""

import base64
import csv
import io
import re
import statistics

import pytest

from mnemonics_jax import report
from mnemonics_jax.report import files, groups, overview, runs
from mnemonics_jax.report.tables import Table
from tests.groups_test import make_runs, seeded
from tests.made_runs import fill
from tests.report_test import without_figures

HOSTILE = (
    'a & b_c %$#{}~^\\',
    '"quoted", with a comma',
    'two\nlines\r\nand a\ttab',
    '=1+cmd()',
    '[x]',
    '*',
    '<b>|B\u00e4r',
    '@SUM(A1)',
    '-2',
)


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text, newline='')))


def test_csv_has_mean_and_deviation_of_each_group_and_classifier():
    listed = make_runs()
    rows = read_csv(files.summary_csv(groups.collect(listed)))
    assert len(rows) == 2 * 3
    for row in rows:
        members = [r for r in listed if r.strategy == row['run']]
        own = row['evaluated_by'] == 'yes'
        assert own == (row['classifier'] == 'cnn')
        assert (row['n'], row['seeds']) == ('3', '0 1 2')
        for key in ('average_incremental_accuracy', 'forgetting'):
            values = [r.results[key][row['classifier']] for r in members]
            mean = float(row[f'{key}_mean'])
            assert mean == pytest.approx(statistics.fmean(values))
            spread = float(row[f'{key}_sd'])
            assert spread == pytest.approx(statistics.stdev(values))


def test_csv_of_one_run_has_no_deviation():
    (row, *_) = read_csv(
        files.summary_csv(groups.collect(make_runs(('random',), (0,))))
    )
    assert row['average_incremental_accuracy_sd'] == ''
    assert 0 < float(row['average_incremental_accuracy_mean']) < 1


@pytest.mark.parametrize('name', HOSTILE)
def test_csv_keeps_every_name_and_is_no_formula(name):
    text = files.as_csv(['a', 'b'], [[name, -0.5], ['next', None]])
    found = list(csv.reader(io.StringIO(text, newline='')))
    assert found[1:] == [[found[1][0], '-0.5'], ['next', '']]
    assert found[1][0].removeprefix("'") == name
    assert found[1][0][0] not in '=+-@'


# How a typesetter reads what is escaped, the other way round.
PRINTED = re.compile(
    r'\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}'
    r'|\\textless\{\}|\\textgreater\{\}|\\textbar\{\}|\{\[\}|\{\*\}'
    r'|\\[{}&%$#_]|[^\\{}&%$#_~^<>|\[*\n\r\t]'
)
LONG = {
    r'\textbackslash{}': '\\',
    r'\textasciitilde{}': '~',
    r'\textasciicircum{}': '^',
    r'\textless{}': '<',
    r'\textgreater{}': '>',
    r'\textbar{}': '|',
    '{[}': '[',
    '{*}': '*',
}


@pytest.mark.parametrize('name', HOSTILE)
def test_latex_prints_every_name(name):
    text = files.as_latex(Table(['name', 'value'], [[name, '1']], 'words'))
    line = text.splitlines()[5]
    cell = line.removesuffix(r' & 1 \\')
    tokens = PRINTED.findall(cell)
    assert ''.join(tokens) == cell  # Nothing that means something else.
    printed = ''.join(LONG.get(t, t[-1]) for t in tokens)
    assert printed == ' '.join(name.split())
    assert text.count('\n') == 8


def test_latex_has_the_table_with_the_best_in_bold():
    table = overview.table(groups.collect(make_runs()))
    lines = files.as_latex(table).splitlines()
    assert lines[1] == r'\begin{tabular}{lrrrrrrrr}'
    assert lines[-1] == r'\end{tabular}'
    for i, row in enumerate(table.rows):
        cells = lines[5 + i].removesuffix(r' \\').split(' & ')
        for column, (cell, text) in enumerate(zip(cells, row, strict=True)):
            shown = text.replace('\u00b1', r'$\pm$')
            bold = rf'\textbf{{{shown}}}'
            assert cell == (bold if (i, column) in table.best else shown)


def test_csv_by_phase_is_what_the_confusions_count():
    listed = make_runs(('random',))
    text = files.written(groups.collect(listed))['phases.csv']
    rows = read_csv(text)
    assert len(rows) == 3 * (1 + 2 + 3)
    for row in rows:
        after, of = int(row['after_phase']), int(row['classes_of_phase'])
        shares = []
        for run in listed:
            counts = run.phases[after]['confusion'][row['classifier']]
            own = range(2 * of, 2 * of + 2)
            right = sum(counts[k][k] for k in own)
            shares.append(right / sum(sum(counts[k]) for k in own))
        mean = float(row['accuracy_mean'])
        assert mean == pytest.approx(statistics.fmean(shares))
        spread = float(row['accuracy_sd'])
        assert spread == pytest.approx(statistics.stdev(shares))


def test_files_lie_beside_the_page_and_in_it(tmp_path, monkeypatch):
    without_figures(monkeypatch)
    paths = [tmp_path / name for name in ('=a & b_0', '=a & b_1', 'c')]
    for seed, path in enumerate(paths):
        strategy = 'random' if seed < 2 else 'herding'
        fill(path, seeded(strategy, seed))
    out = tmp_path / 'out'
    report.write_anew([str(path) for path in paths], str(out))
    text = (out / 'report.html').read_text()
    links = re.findall(r'download="(.*?)" href="data:.*?;base64,(.*?)"', text)
    held = {name: base64.b64decode(data).decode() for name, data in links}
    assert set(held) == {'summary.csv', 'summary.tex', 'phases.csv'}
    assert held['summary.csv'] == (out / 'summary.csv').read_text()
    assert held['summary.tex'] == (out / 'summary.tex').read_text()
    assert read_csv(held['summary.csv'])[0]['run'] == "'=a & b"
    assert r'=a \& b & random' in held['summary.tex']


def test_without_results_there_are_no_files():
    assert (
        files.written(
            [groups.Group('x', [runs.Run('x', None, {}, {}, {}, [], [])])]
        )
        == {}
    )
