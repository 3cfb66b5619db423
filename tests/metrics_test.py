"""Tests of mnemonics_jax.metrics."""

import math

import numpy as np
import pytest

from mnemonics_jax import metrics

# Three phases of 2, 1 and 1 classes with 10, 20, 10 and 10 test images.
NUM_SEEN = [2, 3, 4]
CONFUSIONS = [
    np.array([[8, 2], [6, 14]]),
    np.array([[7, 2, 1], [0, 18, 2], [1, 1, 8]]),
    np.array([[4, 2, 1, 3], [4, 14, 0, 2], [0, 1, 5, 4], [0, 1, 0, 9]]),
]


def random_run(rng, num_seen):
    """Confusion counts of a run with unequal test counts."""
    sizes = rng.integers(1, 30, num_seen[-1])
    return [
        np.array([rng.multinomial(sizes[t], np.ones(n) / n) for t in range(n)])
        for n in num_seen
    ]


def correct_and_total(confusion, low, high):
    correct = total = 0
    for t in range(low, high):
        for p in range(len(confusion)):
            total += int(confusion[t, p])
            correct += int(confusion[t, p]) if t == p else 0
    return correct, total


@pytest.mark.parametrize(
    ('phase', 'classes', 'expected'),
    [
        (0, (), 22 / 30),
        (1, (), 33 / 40),
        (2, (), 32 / 50),
        (1, (0, 2), 25 / 30),
        (2, (0, 2), 18 / 30),
        (2, (2, 3), 5 / 10),
        (2, (1,), 28 / 40),
        (2, (3, None), 9 / 10),
    ],
)
def test_accuracy_by_hand(phase, classes, expected):
    found = metrics.accuracy(CONFUSIONS[phase], *classes)
    assert type(found) is float
    assert found == pytest.approx(expected)


def test_accuracy_equals_a_loop():
    (confusion,) = random_run(np.random.default_rng(0), [6])
    for low in range(6):
        for high in range(low + 1, 7):
            correct, total = correct_and_total(confusion, low, high)
            found = metrics.accuracy(confusion, low, high)
            assert found == pytest.approx(correct / total)


def test_accuracy_counts_images_and_not_classes():
    confusion = np.array([[99, 0], [1, 0]])
    assert metrics.accuracy(confusion) == pytest.approx(0.99)


def test_accuracy_takes_lists_as_json_has_them():
    assert metrics.accuracy([[1, 3], [0, 4]]) == pytest.approx(5 / 8)


def test_accuracy_of_no_image_is_nan():
    assert math.isnan(metrics.accuracy(np.zeros((3, 3), int)))
    assert math.isnan(metrics.accuracy(CONFUSIONS[0], 1, 1))


def test_a_run_by_hand():
    average = metrics.average_incremental_accuracy(CONFUSIONS)
    assert average == pytest.approx((22 / 30 + 33 / 40 + 32 / 50) / 3)
    # The paper's F: from phase 0 (22 / 30) to the end (18 / 30).
    initial = metrics.initial_forgetting(CONFUSIONS, 2)
    assert initial == pytest.approx(4 / 30)
    # The classes of phase 0 were best at phase 1 (25 / 30), those of phase 1
    # at phase 1 (8 / 10, now 5 / 10); those of the last phase do not count.
    largest = metrics.max_forgetting(CONFUSIONS, NUM_SEEN)
    assert largest == pytest.approx((7 / 30 + 3 / 10) / 2)
    assert {type(average), type(initial), type(largest)} == {float}


def test_a_run_of_one_phase():
    run = CONFUSIONS[:1]
    assert metrics.average_incremental_accuracy(run) == pytest.approx(22 / 30)
    assert metrics.initial_forgetting(run, 2) == 0
    assert metrics.max_forgetting(run, [2]) == 0


def test_a_run_without_forgetting():
    run = [np.diag(np.arange(1, n + 1)) for n in NUM_SEEN]
    assert metrics.average_incremental_accuracy(run) == 1
    assert metrics.initial_forgetting(run, 2) == 0
    assert metrics.max_forgetting(run, NUM_SEEN) == 0


def test_a_run_that_forgets_everything():
    run = [np.diag(np.full(n, 5)) for n in NUM_SEEN]
    run[-1] = np.zeros((4, 4), int)
    run[-1][:, 3] = 5
    assert metrics.initial_forgetting(run, 2) == 1
    assert metrics.max_forgetting(run, NUM_SEEN) == 1


def test_what_improves_is_negative_forgetting():
    run = [np.array([[1, 1], [1, 1]]), np.diag([2, 2, 2])]
    assert metrics.initial_forgetting(run, 2) == pytest.approx(-0.5)
    assert metrics.max_forgetting(run, [2, 3]) == pytest.approx(-0.5)


@pytest.mark.parametrize('num_seen', [[3, 4], [2, 4, 6], [5, 6, 7, 8, 9]])
def test_forgetting_of_random_runs_equals_loops(num_seen):
    run = random_run(np.random.default_rng(len(num_seen)), num_seen)
    last, drops, low = len(run) - 1, [], 0
    for i in range(last):
        high = num_seen[i]
        by_phase = []
        for confusion in run[i:]:
            correct, total = correct_and_total(confusion, low, high)
            by_phase.append(correct / total)
        drops.append(max(by_phase[:-1]) - by_phase[-1])
        if i == 0:
            initial = by_phase[0] - by_phase[-1]
        low = high
    found = metrics.max_forgetting(run, num_seen)
    assert found == pytest.approx(sum(drops) / last)
    found = metrics.initial_forgetting(run, num_seen[0])
    assert found == pytest.approx(initial)


def test_backward_transfer_is_the_mean_change_of_old_phases():
    # Two classes a phase, one image each: own accuracy, then after the last.
    first = np.eye(2, dtype=int)  # Phase 0: 1.0 on classes 0 and 1.
    second = np.zeros((4, 4), int)
    second[[0, 1, 2, 3], [0, 3, 2, 1]] = 1  # 0.5 on 0..1, 0.5 on 2..3.
    third = np.zeros((6, 6), int)
    third[range(6), [5, 5, 2, 3, 4, 5]] = 1  # 0.0 on 0..1, 1.0 on 2..3.
    found = metrics.backward_transfer([first, second, third], [2, 4, 6])
    assert found == pytest.approx(((0.0 - 1.0) + (1.0 - 0.5)) / 2)
    assert metrics.backward_transfer([first], [2]) == 0.0


def test_per_class_accuracy_is_the_share_on_the_diagonal():
    counts = np.array([[3, 1, 0], [0, 0, 2], [1, 1, 2]])
    assert metrics.per_class_accuracy(counts) == [0.75, 0.0, 0.5]


def test_accuracy_by_phase_equals_a_loop():
    num_seen = [3, 4, 6, 7]
    run = random_run(np.random.default_rng(3), num_seen)
    found = metrics.accuracy_by_phase(run, num_seen)
    starts = [0, *num_seen[:-1]]
    for i in range(4):
        for j in range(4):
            if j > i:
                assert math.isnan(found[i, j])
                continue
            correct, total = correct_and_total(run[i], starts[j], num_seen[j])
            assert found[i, j] == pytest.approx(correct / total)


@pytest.mark.parametrize('num_seen', [[3, 4], [2, 4, 6], [5, 6, 7, 8, 9]])
def test_backward_transfer_of_random_runs_equals_loops(num_seen):
    run = random_run(np.random.default_rng(len(num_seen)), num_seen)
    gains, low = [], 0
    for own, high in zip(run[:-1], num_seen[:-1], strict=True):
        shares = []
        for confusion in (own, run[-1]):
            correct, total = correct_and_total(confusion, low, high)
            shares.append(correct / total)
        gains.append(shares[1] - shares[0])
        low = high
    found = metrics.backward_transfer(run, num_seen)
    assert found == pytest.approx(sum(gains) / len(gains))
