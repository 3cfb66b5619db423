"""Tests of mnemonics_jax.data.class_order."""

import numpy as np
import pytest

from mnemonics_jax.data import class_order


def test_order_of_the_literature():
    order = class_order.class_order(100, 1993)
    assert order.dtype == np.int64
    assert order[:10].tolist() == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    assert order[-6:].tolist() == [39, 67, 29, 49, 57, 33]
    assert sorted(order) == list(range(100))


def test_order_depends_on_the_seed_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = class_order.class_order(10, 0)
    np.testing.assert_array_equal(first, class_order.class_order(10, 0))
    assert not np.array_equal(first, class_order.class_order(10, 1))
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ('arguments', 'bounds'),
    [
        ((10, 4, 3), [(0, 4), (4, 6), (6, 8), (8, 10)]),
        ((10, 0, 5), [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]),
        ((10, 0, 1), [(0, 10)]),
        ((10, 10, 0), [(0, 10)]),
        ((10, 9, 1), [(0, 9), (9, 10)]),
        ((10, 3, 3, 'last'), [(0, 3), (3, 6), (6, 9), (9, 10)]),
        ((10, 0, 4, 'last'), [(0, 3), (3, 6), (6, 9), (9, 10)]),
        ((10, 4, 3, 'last'), [(0, 4), (4, 6), (6, 8), (8, 10)]),
    ],
)
def test_phase_bounds(arguments, bounds):
    assert class_order.phase_bounds(*arguments) == bounds


@pytest.mark.parametrize('phases', [5, 10, 25])
def test_phase_bounds_of_the_paper(phases):
    bounds = class_order.phase_bounds(100, 50, phases)
    assert len(bounds) == phases + 1
    assert bounds[0] == (0, 50)
    assert bounds[-1][1] == 100
    assert {high - low for low, high in bounds[1:]} == {50 // phases}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            (10, 4, 7),
            'protocol.phases=7: must be a divisor of 6, the number of '
            'classes after the first 4: 1, 2, 3, 6',
        ),
        (
            (10, 0, 3),
            'protocol.phases=3: must be a divisor of 10, the number of '
            'classes: 1, 2, 5, 10; or protocol.remainder=last, a smaller '
            'last phase',
        ),
        (
            # Phases of two classes, of which three are enough.
            (10, 4, 4, 'last'),
            'protocol.phases=4: must be one of 1, 2, 3, 6 with '
            'protocol.remainder=last: there are 6 classes after the first 4, '
            'which in phases of 2 fill 3',
        ),
        (
            (10, 0, 11, 'last'),
            'protocol.phases=11: must be one of 1, 2, 3, 4, 5, 10 with '
            'protocol.remainder=last: there are 10 classes',
        ),
        (
            (10, 4, 0),
            'protocol.phases=0: must be a divisor of 6, the number of '
            'classes after the first 4: 1, 2, 3, 6',
        ),
        (
            (10, 10, 2),
            'protocol.phases=2: must be 0, no classes are left after the '
            'first 10',
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
        class_order.phase_bounds(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_order_refuses_a_seed(seed):
    with pytest.raises(ValueError) as error:
        class_order.class_order(10, seed)
    assert str(error.value) == (
        f'protocol.class_order_seed={seed}: must be in 0..4294967295'
    )


def test_imagenet_subset_is_the_one_the_field_draws():
    chosen = class_order.choose_classes(1000, 100, 1993)
    expected = np.random.RandomState(1993).choice(1000, 100, replace=False)
    assert expected[:5].tolist() == [54, 7, 894, 512, 126]
    np.testing.assert_array_equal(chosen, np.sort(expected))


def test_a_subset_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r'data\.subset_classes=11.*1\.\.10'):
        class_order.choose_classes(10, 11, 0)


def test_an_order_of_ones_own(tmp_path):
    path = tmp_path / 'order.txt'
    path.write_text('cat\n\n dog \nbird\n')
    order = class_order.read_order(str(path), ('bird', 'cat', 'dog'))
    assert order.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('cat\nbird\n', "missing class 'dog'"),
        ('cat\nfish\nbird\n', "entry 2: no class 'fish'"),
        ('cat\ndog\nbird\ncat\n', "class 'cat' is repeated"),
    ],
)
def test_a_wrong_order_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / 'order.txt'
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        class_order.read_order(str(path), ('bird', 'cat', 'dog'))
    message = str(caught.value)
    assert message.startswith('protocol.class_order_file=')
    assert message.endswith(words)


def test_a_missing_order_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'class_order_file=.*No such file'):
        class_order.read_order(str(tmp_path / 'absent'), ('a',))
