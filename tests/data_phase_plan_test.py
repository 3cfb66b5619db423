"""Tests of mnemonics_jax.data.phase_plan."""

import json
import types

import numpy as np
import pytest

from mnemonics_jax.data import class_order, phase_plan
from mnemonics_jax.data.sources import Source


def source_of(names, mean=(0.5,), image_shape=(4, 4, 1)):
    labels = np.arange(len(names), dtype=np.int32)
    return Source(
        num_classes=len(names),
        image_shape=image_shape,
        mean=mean,
        std=(0.25,),
        class_names=tuple(names),
        labels={'train': labels, 'test': labels},
        read=lambda split, positions: np.zeros((len(positions), 4, 4, 1)),
    )


def protocol_of(base_classes=4, phases=2, path=None, sizes=None):
    return types.SimpleNamespace(
        base_classes=base_classes,
        phases=phases,
        phase_sizes=sizes,
        remainder=None,
        class_order_seed=7,
        class_order_file=path and str(path),
    )


def test_a_new_plan_is_the_shuffle_of_the_seed_cut_into_phases():
    found = phase_plan.begin(source_of('abcdefgh'), protocol_of())
    order = class_order.class_order(8, 7)
    assert found.classes == tuple('abcdefgh'[k] for k in order)
    assert found.bounds == ((0, 4), (4, 6), (6, 8))


def test_the_same_data_change_nothing():
    source = source_of('abcdefgh')
    begun = phase_plan.begin(source, protocol_of())
    assert phase_plan.extend(begun, source, protocol_of()) == begun


def test_new_classes_come_after_all_planned_ones_wherever_their_names_sort():
    begun = phase_plan.begin(source_of('bcdfghij'), protocol_of())
    # Labels shift: 'a' and 'e' sort between the old names.
    source = source_of('abcdefghijk', mean=(0.9,))
    grown = phase_plan.extend(begun, source, protocol_of())
    assert grown.classes[:8] == begun.classes
    assert sorted(grown.classes[8:]) == ['a', 'e', 'k']
    # Phases as large as phase 1; what is left over is a smaller one.
    assert grown.bounds == (*begun.bounds, (8, 10), (10, 11))
    again, order = phase_plan.apply(grown, source)
    assert [source.class_names[k] for k in order] == list(grown.classes)
    # What the model was trained with stays.
    assert again.mean == (0.5,)


def test_classes_can_be_added_again_and_again():
    grown = phase_plan.begin(source_of('abcdefgh'), protocol_of())
    for names, bounds in (
        ('abcdefghi', (8, 9)),
        ('abcdefghijk', (9, 11)),
    ):
        before = grown
        grown = phase_plan.extend(grown, source_of(names), protocol_of())
        assert grown.classes[: len(before.classes)] == before.classes
        assert grown.bounds == (*before.bounds, bounds)


def test_phases_have_the_sizes_they_are_given():
    protocol = protocol_of(3, 3, sizes=(3, 2, 4, 1))
    begun = phase_plan.begin(source_of('abcdefghij'), protocol)
    assert begun.bounds == ((0, 3), (3, 5), (5, 9), (9, 10))
    # Of classes that come later each phase is as large as phase 1.
    grown = phase_plan.extend(begun, source_of('abcdefghijklm'), protocol)
    assert grown.bounds == (*begun.bounds, (10, 12), (12, 13))


def test_the_largest_class_is_that_of_the_start():
    begun = phase_plan.begin(source_of('ab'), protocol_of(1, 1))
    assert begun.largest_class == 1
    source = source_of('abc')
    source.labels['train'] = np.array([0, 1, 2, 2, 2], np.int32)
    grown = phase_plan.extend(begun, source, protocol_of(1, 1))
    assert grown.largest_class == 1
    # A plan of an older version has none.
    content = begun._asdict()
    del content['largest_class']
    older = phase_plan.from_json(content)
    found = phase_plan.extend(older, source, protocol_of(1, 1))
    assert found.largest_class == 3


def test_without_later_phases_the_new_classes_are_one_phase():
    protocol = protocol_of(base_classes=3, phases=0)
    begun = phase_plan.begin(source_of('abc'), protocol)
    grown = phase_plan.extend(begun, source_of('abcdef'), protocol)
    assert grown.bounds == ((0, 3), (3, 6))


def test_a_file_says_in_which_order_the_new_classes_come(tmp_path):
    path = tmp_path / 'order.txt'
    protocol = protocol_of(2, 1, path)
    path.write_text('c\na\nd\n')
    begun = phase_plan.begin(source_of('acd'), protocol)
    assert begun.bounds == ((0, 2), (2, 3))
    path.write_text('c\na\nd\ne\nb\n')
    grown = phase_plan.extend(begun, source_of('abcde'), protocol)
    assert grown.classes == ('c', 'a', 'd', 'e', 'b')
    path.write_text('c\nd\na\ne\nb\n')
    with pytest.raises(ValueError, match="class 2 is 'd': must be 'a'"):
        phase_plan.extend(begun, source_of('abcde'), protocol)


def test_a_class_that_is_gone_is_named():
    begun = phase_plan.begin(source_of('abcdefgh'), protocol_of())
    with pytest.raises(ValueError, match="missing class 'c': must have all 8"):
        phase_plan.extend(begun, source_of('abdefghi'), protocol_of())


def test_images_of_another_shape_are_refused():
    begun = phase_plan.begin(source_of('abcdefgh'), protocol_of())
    other = source_of('abcdefghi', image_shape=(4, 4, 3))
    with pytest.raises(ValueError, match=r'\(4, 4, 3\): must be \(4, 4, 1\)'):
        phase_plan.extend(begun, other, protocol_of())


def test_a_plan_is_the_same_after_json():
    mean = tuple(np.float32([0.1]))
    begun = phase_plan.begin(source_of('abcdefgh', mean), protocol_of())
    written = json.dumps(begun._asdict())
    assert phase_plan.from_json(json.loads(written)) == begun
