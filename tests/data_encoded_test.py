"""Tests of what sources give of images that are not in memory."""

import concurrent.futures
import io
import pathlib
import struct

import numpy as np
import pytest
from data_arrays_test import write as write_arrays
from data_bad_files_test import spoil
from data_folder_test import make, photo, write_folder
from data_tfds_test import CIFAR, write_set

from mnemonics_jax.data import decode, errors, sources
from mnemonics_jax.data.sources import tfds


def jpegs(num):
    """Encoded images of many sizes; no two are the same."""
    random = np.random.default_rng(num)
    found = []
    for number in range(num):
        file = io.BytesIO()
        size = tuple(random.integers(20, 60, 2).tolist())
        photo(number, size).save(file, 'JPEG')
        found.append(file.getvalue())
    return found


@pytest.fixture(name='food', scope='module', params=['array_record', 'parquet'])
def _food(tmp_path_factory, request):
    """Options of a set with images of many sizes, and what was written."""
    directory = str(tmp_path_factory.mktemp(request.param))
    written = {'train': jpegs(202), 'validation': jpegs(101)}
    splits = {
        split: [
            {'image': io.BytesIO(data), 'label': number % 101}
            for number, data in enumerate(blobs)
        ]
        for split, blobs in written.items()
    }
    write_set('food101', directory, splits, request.param, num_shards=5)
    written['test'] = written.pop('validation')
    return {'name': 'food101', 'dir': directory, 'image_size': 8}, written


def decoded(source, split, shorter=None):
    """All images of a split, decoded one by one."""
    size, _, channels = source.image_shape
    return np.stack(
        [
            decode.decode(
                source.encoded.load(split, row), channels, size, shorter
            )
            for row in range(len(source.labels[split]))
        ]
    )


def read_all(source, split):
    return source.read(split, np.arange(len(source.labels[split])))


def test_a_folder_gives_the_bytes_of_its_files(tmp_path):
    source = make(write_folder(tmp_path, size=(40, 30)))
    for split in ('train', 'test'):
        paths = [source.encoded.describe(split, row) for row in range(9)]
        assert len(set(paths)) == 9
        for row, path in enumerate(paths):
            data = pathlib.Path(path).read_bytes()
            assert source.encoded.load(split, row) == data
        np.testing.assert_array_equal(
            decoded(source, split), read_all(source, split)
        )
    assert paths[4] == f'{tmp_path}/validation/bee/1.png'


def test_a_file_that_is_gone_raises_an_os_error(tmp_path):
    source = make(write_folder(tmp_path))
    pathlib.Path(source.encoded.describe('train', 2)).unlink()
    with pytest.raises(OSError, match='No such file'):
        source.encoded.load('train', 2)


def test_tfds_gives_the_bytes_of_its_records(food):
    options, written = food
    source = sources.make_source('tfds', options)
    for split, blobs in written.items():
        found = [source.encoded.load(split, row) for row in range(len(blobs))]
        assert sorted(found) == sorted(blobs)
        numbers = [blobs.index(data) % 101 for data in found]
        assert source.labels[split].tolist() == numbers
        np.testing.assert_array_equal(
            decoded(source, split), read_all(source, split)
        )
    assert source.encoded.describe('test', 7) == (
        "data.name='food101': split 'validation': record 7"
    )


def test_threads_may_load_records_at_the_same_time(food):
    options, written = food
    source = sources.make_source('tfds', options)
    rows = np.random.default_rng(0).permutation(4 * len(written['train']))
    rows = (rows % len(written['train'])).tolist()
    # Files are opened when they are needed: by all threads at once.
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        found = list(
            pool.map(lambda row: source.encoded.load('train', row), rows)
        )
    assert found == [source.encoded.load('train', row) for row in rows]
    assert set(found) == set(written['train'])


@pytest.mark.parametrize('name', ['digits', 'synthetic', 'arrays', 'tfds'])
def test_images_in_memory_are_not_given_encoded(tmp_path, name):
    options = {}
    if name == 'arrays':
        options = {'dir': write_arrays(tmp_path / 'a.npz')}
    elif name == 'tfds':
        write_set('cifar100', tmp_path, CIFAR, 'array_record')
        options = {'name': 'cifar100', 'dir': str(tmp_path)}
    source = sources.make_source(name, options)
    assert source.encoded is None
    assert sources.take_classes(source, np.array([1])).encoded is None


def test_images_that_are_not_square_are_not_given_encoded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    file = io.BytesIO()
    photo(0, (480, 360)).save(file, 'JPEG')
    splits = {
        split: [
            {
                'filename': f'{label}.jpg',
                'image': io.BytesIO(file.getvalue()),
                'label': label,
            }
            for label in range(6)
        ]
        for split in ('train', 'test')
    }
    write_set('dmlab', tmp_path, splits, 'array_record')
    options = {'name': 'dmlab', 'dir': str(tmp_path)}
    source = sources.make_source('tfds', options)
    assert source.image_shape == (360, 480, 3)
    assert source.encoded is None
    assert read_all(source, 'test').shape == (6, 360, 480, 3)
    source = sources.make_source('tfds', {**options, 'image_size': 8})
    np.testing.assert_array_equal(
        decoded(source, 'test'), read_all(source, 'test')
    )


def test_some_classes_have_their_own_images(tmp_path):
    write_folder(tmp_path, per_class=4)
    spoil(tmp_path / 'train' / 'ant' / '1.png', 'empty')
    whole = make(tmp_path, on_bad_image='skip')
    part = sources.take_classes(whole, np.array([2, 0]))
    for split, per_class in (('train', [4, 3]), ('test', [4, 4])):
        assert np.bincount(part.labels[split]).tolist() == per_class
        for row, label in enumerate(part.labels[split].tolist()):
            path = pathlib.Path(part.encoded.describe(split, row))
            assert path.parent.name == ('cow', 'ant')[label]
            assert part.encoded.load(split, row) == path.read_bytes()
        np.testing.assert_array_equal(
            decoded(part, split), read_all(part, split)
        )
    assert part.skipped == (f'{tmp_path}/train/ant/1.png: empty',)


def test_evaluation_cuts_the_middle_out_of_a_larger_image(tmp_path, food):
    root = write_folder(tmp_path, size=(40, 30))
    folder = {'dir': str(root), 'image_size': 8, 'on_bad_image': 'skip'}
    for name, options in (('folder', folder), ('tfds', food[0])):
        plain, same, large = (
            sources.make_source(name, {**options, 'eval_resize': shorter})
            for shorter in (None, 8, 10)
        )
        pixels = read_all(large, 'test')
        assert pixels.shape[1:] == large.image_shape == (8, 8, 3)
        np.testing.assert_array_equal(pixels, decoded(large, 'test', 10))
        assert not np.array_equal(pixels, read_all(plain, 'test'))
        np.testing.assert_array_equal(
            read_all(same, 'test'), decoded(same, 'test', 8)
        )


def test_evaluation_by_tfds_in_memory(tmp_path):
    write_set('cifar100', tmp_path, CIFAR, 'tfrecord')
    options = {'name': 'cifar100', 'dir': str(tmp_path)}
    whole, large = (
        sources.make_source('tfds', {**options, **more})
        for more in ({}, {'image_size': 16, 'eval_resize': 32})
    )
    # The same side: nothing is resized.
    np.testing.assert_array_equal(
        read_all(large, 'test'), read_all(whole, 'test')[:, 8:24, 8:24]
    )


def test_options_of_evaluation_by_tfds(tmp_path):
    options = {'name': 'cifar100', 'dir': str(tmp_path), 'eval_resize': 32}
    for size, message in (
        (
            None,
            'must be None without data.image_size, the side of the central '
            'crop',
        ),
        (33, 'must be >= data.image_size=33'),
    ):
        with pytest.raises(ValueError) as error:
            sources.make_source('tfds', {**options, 'image_size': size})
        assert str(error.value) == f'data.eval_resize=32: {message}'
    assert not list(tmp_path.iterdir())  # Nothing was prepared before.


def cut_at_a_record(data):
    """A tfrecord file without its last three records, and no half one."""
    ends = [0]
    while ends[-1] < len(data):
        (size,) = struct.unpack_from('<Q', data, ends[-1])
        ends.append(ends[-1] + 16 + size)
    return data[: ends[-4]]


DAMAGES = {
    'end': lambda data: data[:-2000],
    'half': lambda data: data[: len(data) // 2],
    'bit': lambda data: data[:150000] + b'?' + data[150001:],
    'empty': lambda data: b'',
    'record': cut_at_a_record,
}


@pytest.mark.parametrize(
    ('file_format', 'damage'),
    [
        *(('array_record', damage) for damage in ('half', 'bit', 'empty')),
        *(('tfrecord', damage) for damage in DAMAGES),
    ],
)
def test_files_that_break_after_the_start(
    tmp_path, file_format, damage, monkeypatch
):
    if file_format == 'array_record':
        monkeypatch.setattr(tfds, '_MEMORY', 0)
    splits = {'train': CIFAR['test'], 'test': CIFAR['test']}
    builder = write_set('cifar100', tmp_path, splits, file_format)
    options = {'name': 'cifar100', 'dir': str(tmp_path)}
    source = sources.make_source('tfds', options)
    (path,) = builder.data_path.glob('*-train*-of-*')
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    reads = [lambda: read_all(source, 'train')]
    if source.encoded:
        reads.append(
            lambda: [source.encoded.load('train', row) for row in range(100)]
        )
    for read in reads:
        with pytest.raises(errors.BadDataError) as error:
            read()
        assert '\n' not in str(error.value)
        assert str(error.value).startswith(
            f"data.name='cifar100': split 'train': the files in "
            f'{builder.data_dir} cannot be read: '
        )
        assert '{{' not in str(error.value)  # TensorFlow's own names.
    assert read_all(source, 'test').shape == (100, 32, 32, 3)
