"""Tests of mnemonics_jax.core.rng, and of the order of data beside it.

The golden values notice a change of the random streams: it would make every
published number of the project impossible to repeat. Change them knowingly.
"""

import itertools

import jax
import numpy as np
import pytest

from mnemonics_jax.core.rng import Stage, stage_key
from mnemonics_jax.data import batches


def bits(key):
    return tuple(int(word) for word in jax.random.key_data(key))


def test_keys_are_equal_on_repetition_and_differ_by_each_argument():
    places = list(itertools.product((0, 1, 7), range(3), Stage, range(3)))
    keys = {place: bits(stage_key(*place)) for place in places}
    assert len(set(keys.values())) == len(places)
    for place in places[::17]:
        assert bits(stage_key(*place)) == keys[place]


def test_the_epoch_is_0_by_default():
    expected = bits(stage_key(3, 1, Stage.LEARN, 0))
    assert bits(stage_key(3, 1, Stage.LEARN)) == expected


def test_swapped_arguments_give_other_keys():
    keys = {
        bits(stage_key(1, 2, Stage.SELECT, 0)),
        bits(stage_key(2, 1, Stage.SELECT, 0)),
        bits(stage_key(1, 0, Stage.SELECT, 2)),
        bits(stage_key(0, 1, Stage.SELECT, 2)),
    }
    assert len(keys) == 4


def test_the_stages_keep_their_numbers():
    assert {stage.name: stage.value for stage in Stage} == {
        'INIT': 0,
        'TRAIN': 1,
        'SELECT': 2,
        'LEARN': 3,
        'ADJUST': 4,
        'FINETUNE': 5,
        'HELD_OUT_LOSS': 6,
        'HOLD_OUT': 7,
    }


@pytest.mark.parametrize(
    ('place', 'golden'),
    [
        ((0, 0, Stage.INIT, 0), (683029726, 1624662641)),
        ((0, 0, Stage.TRAIN, 0), (2882751927, 2975959832)),
        ((1993, 5, Stage.LEARN, 0), (1607427879, 4246660552)),
        ((2**32 - 1, 25, Stage.FINETUNE, 159), (1945011711, 2112613113)),
    ],
)
def test_golden_keys(place, golden):
    key = stage_key(*place)
    assert str(jax.random.key_impl(key)) == 'threefry2x32'
    assert bits(key) == golden


def test_a_golden_draw():
    key = stage_key(0, 1, Stage.LEARN)
    found = jax.random.bits(key, (3,), 'uint32')
    assert found.tolist() == [1959678669, 1838695441, 3143149903]


GOLDEN_ORDERS = [
    (
        {'seed': 0, 'phase': 0, 'stage': 1, 'epoch': 0},
        [7, 6, 0, 2, 5, 9, 8, 4, 11, 1, 10, 3],
    ),
    (
        {'seed': 1993, 'phase': 5, 'stage': 3, 'epoch': 159},
        [5, 1, 10, 9, 3, 11, 6, 2, 4, 8, 0, 7],
    ),
]


@pytest.mark.parametrize(('place', 'golden'), GOLDEN_ORDERS)
def test_golden_orders(place, golden):
    found = batches.epoch_order(12, **place)
    assert found.tolist() == golden


def test_orders_differ_by_each_argument():
    start = {'seed': 1, 'phase': 2, 'stage': 3, 'epoch': 4}
    orders = [batches.epoch_order(50, **start)]
    for name, value in start.items():
        place = {**start, name: value + 1}
        orders.append(batches.epoch_order(50, **place))
    assert len({order.tobytes() for order in orders}) == 5
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    again = batches.epoch_order(50, **start)
    np.testing.assert_array_equal(again, orders[0])
