"""Tests of runs that differ in their seed alone: means, spreads, intervals."""

import itertools
import re

import numpy as np
import pytest
import scipy.stats

from mnemonics_jax import report
from mnemonics_jax.report import charts, groups, overview, runs, setup, tables
from tests.made_runs import NAMES, fill, make_results
from tests.report_test import read, without_figures

KEYS = ('average_incremental_accuracy', 'last_accuracy', 'forgetting')


def seeded(strategy, seed, seen=(2, 4, 6), total=None):
    """Results whose numbers depend on strategy and seed."""
    results = make_results(seen, total, strategy)
    results['config']['seed'] = seed
    rng = np.random.default_rng([len(strategy), seed])
    for key in KEYS:
        results[key] = dict(zip(NAMES, rng.uniform(0.3, 0.9, 3), strict=True))
    for phase in results['phases']:
        for key in ('accuracy', 'new_accuracy', 'old_accuracy'):
            phase[key] = {name: rng.uniform() for name in phase[key]}
    return results


def as_run(name, results):
    return runs.Run(name, None, results['config'], results, {}, [], [])


def make_runs(strategies=('random', 'mnemonics'), seeds=(0, 1, 2), **more):
    return [
        as_run(f'seed={seed},strategy={s}', seeded(s, seed, **more))
        for s, seed in itertools.product(strategies, seeds)
    ]


def of(run, key):
    return run.results[key]['cnn']


def mean_and_deviation(values):
    """By a loop, as percent on the page."""
    mean = sum(values) / len(values)
    squares = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return f'{100 * mean:.1f} \u00b1 {100 * squares**0.5:.1f}'


def test_runs_that_differ_in_their_seed_alone_form_a_group():
    found = groups.collect(make_runs())
    assert [group.name for group in found] == ['random', 'mnemonics']
    assert [group.seeds for group in found] == [[0, 1, 2]] * 2


@pytest.mark.parametrize('field', ['backbone.name', 'exemplars.per_class'])
def test_any_other_field_keeps_runs_apart(field):
    both = make_runs(('random',), (0, 1))
    section, name = field.split('.')
    both[1].config[section][name] = 99
    assert [len(group.runs) for group in groups.collect(both)] == [1, 1]


def test_an_unfinished_run_is_not_averaged_with_finished_ones():
    done = make_runs(('random',), (0, 1))
    half = as_run('half', seeded('random', 2, (2, 4), 6))
    half.config['protocol'] = done[0].config['protocol']
    found = groups.collect([*done, half])
    assert [len(group.runs) for group in found] == [2, 1]


def test_an_equal_run_is_no_further_sample():
    found = groups.collect(make_runs(('random',), (0, 0, 1)))
    assert [group.seeds for group in found] == [[0, 1], [0]]


def test_runs_of_unknown_seed_stay_alone():
    both = make_runs(('random',), (0, 1))
    for run in both:
        del run.config['seed']
    unknown = [runs.Run(name, None, {}, {}, {}, [], []) for name in 'ab']
    found = groups.collect([*both, *unknown])
    assert [len(group.runs) for group in found] == [1] * 4


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ((('a_0', 'a_1'), ('b_0', 'b_1')), ['a', 'b']),
        ((('lr1_seed0', 'lr1_seed1'), ('lr2',)), ['lr1', 'lr2']),
        ((('x/seed10', 'x/seed11'), ('y',)), ['x', 'y']),
        ((('0', '1', '2'),), ['0 and 2 more']),
        ((('a1', 'a2'), ('a',)), ['a1 and 1 more', 'a']),
    ],
)
def test_groups_are_called_by_what_their_names_share(names, expected):
    listed = []
    for strategy, members in zip('xy', names, strict=False):
        listed += [
            as_run(name, seeded(strategy, seed))
            for seed, name in enumerate(members)
        ]
    assert [group.name for group in groups.collect(listed)] == expected


def test_mean_and_deviation_are_those_of_numpy():
    values = np.random.default_rng(0).uniform(size=5).tolist()
    mean, spread = groups.summary(values)
    assert mean == pytest.approx(np.mean(values))
    assert spread == pytest.approx(np.std(values, ddof=1))
    assert np.isnan(groups.summary(values[:1])[1])
    assert groups.summary([0.5, None])[0] is None
    assert groups.summary([0.5, float('nan')])[0] is None


@pytest.mark.parametrize('num', [2, 3, 10])
def test_paired_intervals_are_those_of_scipy(num):
    rng = np.random.default_rng(num)
    first, second = rng.normal(size=(2, num))
    found = groups.paired(list(zip(first, second, strict=True)))
    expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(second - first))
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.num == num
    assert groups.paired([(0.5, 0.6)]) is None


def test_pairs_are_runs_of_the_same_seed():
    """In any order; a seed that one group lacks is left out."""
    first = make_runs(('random',), (3, 0, 1, 2))
    second = make_runs(('mnemonics',), (1, 2, 0, 4))
    table = overview.compared(groups.collect([*first, *second]))
    (row,) = table.rows
    assert row[:2] == ['mnemonics \u2212 random', '3']
    for cell, key in zip(row[2:], KEYS, strict=True):
        pairs = [
            [of(run, key) for s in (0, 1, 2) for run in side if is_of(run, s)]
            for side in (second, first)
        ]
        low, high = scipy.stats.ttest_rel(*pairs).confidence_interval(0.95)
        mean = np.subtract(*pairs).mean()
        expected = f'{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'
        assert cell == expected


def is_of(run, seed):
    return run.config['seed'] == seed


def test_a_row_of_the_summary_is_the_mean_over_seeds():
    listed = make_runs()
    table = overview.table(groups.collect(listed))
    assert table.head[:4] == ['run', 'exemplars', 'evaluated by', 'n']
    assert len(table.rows) == 2
    for row, members in zip(table.rows, (listed[:3], listed[3:]), strict=True):
        assert row[2:4] == ['CNN', '3']
        assert row[4:7] == [
            mean_and_deviation([of(run, key) for run in members])
            for key in KEYS
        ]


def test_the_best_of_a_column_is_marked():
    listed = make_runs(('random', 'herding', 'mnemonics'))
    table = overview.table(groups.collect(listed))
    for column, key in enumerate(KEYS, start=4):
        means = [
            np.mean([of(run, key) for run in listed[i : i + 3]])
            for i in (0, 3, 6)
        ]
        choose = np.argmin if key == 'forgetting' else np.argmax
        assert {r for r, c in table.best if c == column} == {choose(means)}


def test_nothing_is_marked_where_tasks_differ():
    listed = make_runs() + make_runs(('herding',), (0,), seen=(2, 4), total=6)
    assert not overview.table(groups.collect(listed)).best


def test_lines_are_means_and_bands_one_deviation():
    listed = make_runs()
    drawn = charts.accuracy(groups.collect(listed)).drawn
    (first, second), bands = (
        drawn.axes[0].get_lines(),
        drawn.axes[0].collections,
    )
    values = [
        [phase['accuracy']['cnn'] for phase in run.phases] for run in listed[3:]
    ]
    mean, spread = 100 * np.mean(values, 0), 100 * np.std(values, 0, ddof=1)
    np.testing.assert_allclose(second.get_ydata(), mean)
    assert first.get_label() == 'random'
    (path,) = bands[1].get_paths()
    for x, low, high in zip(
        second.get_xdata(), mean - spread, mean + spread, strict=True
    ):
        heights = path.vertices[path.vertices[:, 0] == x, 1]
        assert heights.min() == pytest.approx(low)
        assert heights.max() == pytest.approx(high)


def test_one_run_of_each_is_shown_without_means():
    listed = make_runs(seeds=(0,))
    grouped = groups.collect(listed)
    assert [group.runs for group in grouped] == [[run] for run in listed]
    assert overview.compared(grouped) is None
    shown = [
        overview.table(grouped),
        tables.averages(grouped),
        tables.side_by_side(grouped),
    ]
    for table in shown:
        assert 'n' not in table.head
        assert '\u00b1' not in ''.join(itertools.chain(*table.rows))
    assert not charts.accuracy(grouped).drawn.axes[0].collections


def test_what_differs_is_said_of_groups():
    table = setup.differing(groups.collect(make_runs()))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows['seed'] == ['0, 1, 2', '0, 1, 2']
    assert rows['exemplars.strategy'] == ['random', 'mnemonics']
    assert len(table.head) == 3


def test_the_page_shows_means_and_folds_single_runs(tmp_path, monkeypatch):
    without_figures(monkeypatch)
    paths = []
    for strategy, seed in itertools.product(('random', 'mnemonics'), (0, 1)):
        paths.append(tmp_path / f'seed={seed},strategy={strategy}')
        fill(paths[-1], seeded(strategy, seed))
    path = report.write_anew([str(p) for p in paths], str(tmp_path / 'out'))
    page = read(path)
    words = ' '.join(page.words.split())
    assert 'random (2 seeds), mnemonics (2 seeds)' in words
    assert 'Differences at the same seeds' in words
    text = (tmp_path / 'out' / 'report.html').read_text()
    folded = re.findall(r'<details>(.*?)</details>', text, re.DOTALL)
    single = [part for part in folded if '<summary>Single runs' in part]
    assert all('seed=1,strategy=random' in part for part in single)
    assert len(single) == 2  # Summary and averages; there are no figures.
    assert 'class="best"' in text
