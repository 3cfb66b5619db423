"""Studies: intervals, p values, Holm's correction and rows of cases."""

import pathlib
import sys

import numpy as np
import pytest
import scipy.stats

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from experiments import (
    comparison,
    statistics,
)


def record(recipe: str, seed: int, cnn: list, finetuned: list, **held) -> dict:
    """A run of two phases."""
    return {
        'labels': {'recipe': recipe, 'a class': '2', 'seed': str(seed)},
        'accuracy': {'cnn': cnn, 'finetuned': finetuned, 'nme': cnn},
        'exemplars': [{'bytes': 64, **held}, {'bytes': 128, **held}],
        'seconds': 2.0,
    }


def test_the_interval_is_that_of_students_t():
    # t(0.975, 4) = 2.7764 by the tables.
    found = statistics.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * np.sqrt(2.5) / np.sqrt(5)
    assert found['mean'] == 3
    assert found['n'] == 5
    assert found['low'] == pytest.approx(3 - half)
    assert found['high'] == pytest.approx(3 + half)
    single = statistics.interval([0.5])
    assert (single['low'], single['std'], single['n']) == (None, None, 1)
    assert statistics.summary([])['mean'] is None


def test_p_is_that_of_the_paired_t_test():
    ours = np.array([0.31, 0.44, 0.52, 0.38, 0.47])
    theirs = np.array([0.30, 0.41, 0.47, 0.39, 0.42])
    found = statistics.interval(ours - theirs)
    assert found['p'] == pytest.approx(
        scipy.stats.ttest_rel(ours, theirs).pvalue
    )
    # The interval excludes zero if and only if p is below 5 %.
    for shift in np.linspace(-0.1, 0.1, 41):
        each = statistics.interval(ours - theirs + shift)
        outside = each['low'] > 0 or each['high'] < 0
        assert outside == (each['p'] < 0.05)
    # With two seeds t is Cauchy's: p = 1/2 for differences of 0 and 1.
    assert statistics.interval([0.0, 1.0])['p'] == pytest.approx(0.5)
    assert statistics.interval([0.0, 0.0, 0.0])['p'] == 1
    assert statistics.interval([0.5, 0.5])['p'] == 0
    assert statistics.interval([0.5])['p'] is None


def test_holms_correction_against_its_definition():
    # m p of the smallest, (m - 1) p of the next, never falling.
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx(
        [0.03, 0.06, 0.06]
    )
    assert statistics.holm([0.4, 0.01]) == pytest.approx([0.4, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1, 1]
    assert statistics.holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert statistics.holm([]) == []
    draw = np.random.default_rng(0)
    for num in (1, 2, 7, 24):
        p = draw.uniform(size=num) ** 4
        rejected = {
            alpha: [value <= alpha for value in statistics.holm(p)]
            for alpha in (0.01, 0.05, 0.3, 0.9)
        }
        for alpha, found in rejected.items():
            # Step down: reject the smallest as long as it is small enough.
            left, expected = list(range(num)), [False] * num
            while left:
                best = min(left, key=lambda i: p[i])
                if p[best] > alpha / len(left):
                    break
                expected[best] = True
                left.remove(best)
            assert found == expected


def test_a_family_is_corrected_without_runs_of_one_seed():
    cells = [
        statistics.interval(values)
        for values in ([0.1, 0.2, 0.3], [0.4], [0.1, 0.11, 0.12])
    ]
    found = [cell['holm'] for cell in statistics.corrected(cells)]
    assert found[0] == cells[0]['p']
    assert found[1] is None
    assert found[2] == 2 * cells[2]['p']
    assert list(map(statistics.survives, statistics.corrected(cells))) == [
        *(False, False, True)
    ]
    # Records from before p was written have all that it needs.
    old = {k: v for k, v in cells[0].items() if k != 'p'}
    assert statistics.corrected([old])[0]['holm'] == cells[0]['p']


def test_texts_of_numbers():
    values = statistics.interval([0.01, 0.03])
    assert statistics.signed(values) == '+2.0 [-10.7, +14.7]'
    assert statistics.spread(values) == '2.0 ± 1.4'
    assert statistics.spread(statistics.summary([0.5])) == '50.0'
    assert statistics.signed(statistics.interval([])) == ''
    assert statistics.tested({**values, 'holm': 0.5}) == (
        '+2.0 [-10.7, +14.7], p 0.500'
    )
    sure = {**values, 'holm': 0.0001}
    assert statistics.tested(sure) == '**+2.0 [-10.7, +14.7]**, p <0.001'
    assert [comparison.grey_levels(v) for v in (0.0, 9.64, 0.0005)] == [
        *('0.0', '9.6', '0.0005')
    ]


def test_rows_pair_runs_of_a_seed():
    runs = [
        record('herding', 0, [0.5, 0.3], [0.4, 0.4]),
        record('herding', 1, [0.7, 0.5], [0.6, 0.4]),
        record('ours', 0, [0.6, 0.2], [0.5, 0.5], drift_grey_levels=4.0),
        record('ours', 1, [0.9, 0.4], [0.8, 0.7], drift_grey_levels=6.0),
        # Without a partner it counts for the mean, not for the difference.
        record('ours', 2, [0.0, 0.0], [0.0, 0.0], drift_grey_levels=8.0),
    ]
    herding, ours = comparison.rows(runs, {'herding': {'recipe': 'herding'}})
    assert herding['differences'] == {}
    assert herding['bytes'] == 128
    # Best of both networks by phase: 0.5 0.4, 0.7 0.5; 0.6 0.5, 0.9 0.7.
    best = ours['differences']['herding']['best']
    assert best['average']['n'] == 2
    assert best['average']['mean'] == pytest.approx((0.1 + 0.2) / 2)
    assert best['last']['mean'] == pytest.approx((0.1 + 0.2) / 2)
    cnn = ours['differences']['herding']['cnn']['last']
    assert cnn['mean'] == pytest.approx(-0.1)
    assert ours['scores']['nme']['average']['n'] == 3
    assert ours['drift']['mean'] == pytest.approx(6)
    text = comparison.table([herding, ours], 'average')
    assert '| ours | 2 | 3 |' in text
    assert '| 6.0 | 128 |' in text


def test_families_are_all_classifiers_of_rows_with_the_same_exemplars():
    def run(exemplars, size, seed, shift):
        made = record(exemplars, seed, [0.5, 0.5 + shift], [0.4, 0.4])
        labels = {'exemplars': exemplars, 'a class': size, 'seed': str(seed)}
        made['accuracy']['oracle'] = [0.6 + shift, 0.6]
        return {**made, 'labels': labels}

    draw = np.random.default_rng(1)
    runs = [
        run(name, size, seed, mean + 0.02 * draw.normal())
        for name, mean in (('herding', 0.0), ('tuned', 0.1), ('other', 0.3))
        for size in ('2', '5')
        for seed in range(3)
    ]
    references = {'herding': {'exemplars': 'herding'}}
    found = comparison.rows(runs, references, ('exemplars',))
    for name in ('tuned', 'other'):
        rows = [row for row in found if row['labels']['exemplars'] == name]
        cells = [
            row['differences']['herding'][head]['last']
            for row in rows
            for head in ('cnn', 'nme', 'finetuned', 'best')
        ]
        assert [cell['holm'] for cell in cells] == statistics.holm(
            [cell['p'] for cell in cells]
        )
    assert 'holm' not in found[-1]['differences']['herding']['oracle']['last']
    for row in comparison.rows(runs, references):
        for heads in row['differences'].values():
            assert 'holm' not in heads['cnn']['last']
