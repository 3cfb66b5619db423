"""Tests of the sources of images and of reading a phase's classes."""

import subprocess
import sys
import types

import numpy as np
import pytest

from mnemonics_jax.data import class_order, sources

SPLITS = ('train', 'test')


@pytest.fixture(name='digits', scope='module')
def _digits():
    return sources.make_source('digits', {})


def read_all(source, split):
    return source.read(split, np.arange(len(source.labels[split])))


def nearest_mean_accuracy(source):
    flat = {
        split: read_all(source, split).reshape(len(source.labels[split]), -1)
        for split in SPLITS
    }
    means = [
        flat['train'][source.labels['train'] == label].mean(0)
        for label in range(source.num_classes)
    ]
    distances = ((flat['test'][:, None] - np.stack(means)) ** 2).sum(-1)
    return np.mean(distances.argmin(1) == source.labels['test'])


def test_names():
    assert {'digits', 'synthetic'} <= set(sources.source_names())
    assert not {'classes', 'pipeline', 'sources'} & set(sources.source_names())


def test_a_miss_names_what_exists():
    with pytest.raises(ValueError) as error:
        sources.make_source('nothing', {})
    assert str(error.value) == (
        "data.source='nothing': must be one of "
        + ', '.join(sources.source_names())
    )


@pytest.mark.parametrize('name', ['digits', 'synthetic'])
def test_contract(name):
    source = sources.make_source(name, {})
    assert len(source.class_names) == source.num_classes
    assert len(source.mean) == len(source.std) == source.image_shape[-1]
    assert set(source.labels) == set(SPLITS)
    for split in SPLITS:
        labels = source.labels[split]
        assert labels.dtype == np.int32
        assert set(labels) == set(range(source.num_classes))
        images = read_all(source, split)
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), *source.image_shape)
        some = np.array([5, 0, 5, len(labels) - 1])
        np.testing.assert_array_equal(source.read(split, some), images[some])
        assert source.read(split, some[:0]).shape == (0, *source.image_shape)
    again = sources.make_source(name, types.SimpleNamespace())
    np.testing.assert_array_equal(read_all(again, 'test'), images)
    assert nearest_mean_accuracy(source) > 0.6


def test_digits_are_whole_and_disjoint(digits):
    from sklearn import datasets

    values, labels = datasets.load_digits(return_X_y=True)
    expected = sorted(
        (int(label), np.rint(row * 255 / 16).astype(np.uint8).tobytes())
        for row, label in zip(values, labels, strict=True)
    )
    found = sorted(
        (int(label), image.tobytes())
        for split in SPLITS
        for image, label in zip(
            read_all(digits, split), digits.labels[split], strict=True
        )
    )
    # Equal as multisets of 1797: nothing is lost and nothing is in both.
    assert found == expected
    assert len(found) == 1797


def test_digits_are_stratified(digits):
    num_train, num_test = (np.bincount(digits.labels[key]) for key in SPLITS)
    np.testing.assert_array_equal(
        num_test, np.rint(0.25 * (num_train + num_test))
    )


def test_digits_split_is_fixed(digits):
    assert len(digits.labels['test']) == 450
    assert digits.labels['test'][:8].tolist() == [3, 7, 3, 6, 9, 2, 6, 0]
    assert int(read_all(digits, 'test').sum(dtype=np.int64)) == 2220943


def test_digits_statistics_are_of_the_training_split(digits):
    pixels = read_all(digits, 'train') / 255
    np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-6)


def test_synthetic_options():
    source = sources.make_source(
        'synthetic',
        types.SimpleNamespace(
            num_classes=3,
            train_per_class=5,
            test_per_class=2,
            image_size=12,
            channels=1,
        ),
    )
    assert source.image_shape == (12, 12, 1)
    assert np.bincount(source.labels['train']).tolist() == [5, 5, 5]
    assert np.bincount(source.labels['test']).tolist() == [2, 2, 2]


def test_synthetic_images_all_differ():
    source = sources.make_source('synthetic', {})
    images = [image for split in SPLITS for image in read_all(source, split)]
    assert len({image.tobytes() for image in images}) == len(images) == 600


def test_synthetic_is_not_trivial():
    source = sources.make_source('synthetic', {})
    assert nearest_mean_accuracy(source) < 1


@pytest.mark.parametrize('value', [0, -2, 1.5, 'many'])
def test_synthetic_refuses_an_option(value):
    with pytest.raises(ValueError) as error:
        sources.make_source('synthetic', {'image_size': value})
    assert str(error.value) == (
        f'data.image_size={value!r}: must be an integer >= 1'
    )


def test_phases_cover_a_split_once(digits):
    order = class_order.class_order(10, 0)
    positions = [
        sources.phase_positions(digits, 'train', order, low, high)[0]
        for low, high in class_order.phase_bounds(10, 4, 3)
    ]
    np.testing.assert_array_equal(
        np.sort(np.concatenate(positions)),
        np.arange(len(digits.labels['train'])),
    )


def test_finding_positions_reads_nothing(digits):
    blind = digits._replace(read=None)
    order = class_order.class_order(10, 0)
    assert len(sources.phase_positions(blind, 'test', order, 0, 10)[0]) == 450
    assert len(sources.phase_positions(blind, 'test', order, 3, 3)[0]) == 0


def test_importing_data_imports_no_heavy_library():
    code = (
        'import sys;'
        'from mnemonics_jax.data import class_order, loader, sources;'
        'sources.source_names();'
        'print(*{"tensorflow", "jax", "sklearn"} & set(sys.modules))'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == ''


def test_some_classes_of_a_source_are_a_source():
    whole = sources.make_source('digits', {})
    part = sources.take_classes(whole, np.array([2, 7, 9]))
    assert part.num_classes == 3
    assert part.class_names == tuple(whole.class_names[k] for k in (2, 7, 9))
    for split in ('train', 'test'):
        labels = whole.labels[split]
        positions = np.flatnonzero(np.isin(labels, [2, 7, 9]))
        expected = np.searchsorted([2, 7, 9], labels[positions])
        np.testing.assert_array_equal(part.labels[split], expected)
        wanted = np.array([5, 0, 40])
        np.testing.assert_array_equal(
            part.read(split, wanted), whole.read(split, positions[wanted])
        )
