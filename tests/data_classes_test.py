"""Tests of mnemonics_jax.data.classes."""

import numpy as np
import pytest

from mnemonics_jax.data import classes


def test_order_of_the_literature():
    order = classes.class_order(100, 1993)
    assert order.dtype == np.int64
    assert order[:10].tolist() == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    assert order[-6:].tolist() == [39, 67, 29, 49, 57, 33]
    assert sorted(order) == list(range(100))


def test_order_depends_on_the_seed_alone():
    state = np.random.get_state()[1].copy()
    first = classes.class_order(10, 0)
    np.testing.assert_array_equal(first, classes.class_order(10, 0))
    assert not np.array_equal(first, classes.class_order(10, 1))
    np.testing.assert_array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize(
    ('arguments', 'bounds'),
    [
        ((10, 4, 3), [(0, 4), (4, 6), (6, 8), (8, 10)]),
        ((10, 0, 5), [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]),
        ((10, 0, 1), [(0, 10)]),
        ((10, 10, 0), [(0, 10)]),
        ((10, 9, 1), [(0, 9), (9, 10)]),
    ],
)
def test_phase_bounds(arguments, bounds):
    assert classes.phase_bounds(*arguments) == bounds


@pytest.mark.parametrize('phases', [5, 10, 25])
def test_phase_bounds_of_the_paper(phases):
    bounds = classes.phase_bounds(100, 50, phases)
    assert len(bounds) == phases + 1
    assert bounds[0] == (0, 50)
    assert bounds[-1][1] == 100
    assert {high - low for low, high in bounds[1:]} == {50 // phases}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            (10, 4, 7),
            'protocol.phases=7: the 6 classes after the first 4 do not divide '
            'into 7 equal phases; allowed: 1, 2, 3, 6',
        ),
        (
            (10, 0, 3),
            'protocol.phases=3: the 10 classes do not divide into 3 equal '
            'phases; allowed: 1, 2, 5, 10',
        ),
        (
            (10, 4, 0),
            'protocol.phases=0: the 6 classes after the first 4 do not divide '
            'into 0 equal phases; allowed: 1, 2, 3, 6',
        ),
        (
            (10, 10, 2),
            'protocol.phases=2: no classes are left after the first 10; '
            'allowed: 0',
        ),
        (
            (10, 11, 1),
            'protocol.base_classes=11: must be in 0..10, the number of classes',
        ),
        (
            (10, -1, 1),
            'protocol.base_classes=-1: must be in 0..10, the number of classes',
        ),
    ],
)
def test_phase_bounds_refuses(arguments, message):
    with pytest.raises(ValueError) as error:
        classes.phase_bounds(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_order_refuses_a_seed(seed):
    with pytest.raises(ValueError) as error:
        classes.class_order(10, seed)
    assert str(error.value) == (
        f'protocol.class_order_seed={seed}: must be in 0..4294967295'
    )
