"""Tests of the source of arrays in an .npz file."""

import subprocess
import sys

import numpy as np
import pytest

from mnemonics_jax.data import sources


def good_arrays():
    random = np.random.default_rng(0)
    return {
        'train_images': random.integers(0, 256, (12, 5, 4, 3), np.uint8),
        'train_labels': np.arange(12) % 3,
        'test_images': random.integers(0, 256, (6, 5, 4, 3), np.uint8),
        'test_labels': np.arange(6)[::-1] % 3,
    }


EXPECTED = (
    'expected: train_images, train_labels, test_images, test_labels (or '
    'x_train, y_train, x_test, y_test) and perhaps class_names'
)


def write(path, **changes):
    """Writes good arrays with changes; None leaves one out."""
    arrays = {**good_arrays(), **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def make(path):
    return sources.make_source('arrays', {'dir': str(path)})


@pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.int64, np.uint64])
def test_contract(tmp_path, dtype):
    arrays = good_arrays()
    labels = arrays['train_labels'].astype(dtype)
    source = make(write(tmp_path / 'a.npz', train_labels=labels))
    assert source.num_classes == 3
    assert source.class_names == ('class 0', 'class 1', 'class 2')
    assert source.image_shape == (5, 4, 3)
    pixels = arrays['train_images'] / 255
    np.testing.assert_allclose(source.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(source.std, pixels.std((0, 1, 2)), rtol=1e-6)
    for split in ('train', 'test'):
        assert source.labels[split].dtype == np.int32
        np.testing.assert_array_equal(
            source.labels[split], arrays[f'{split}_labels']
        )
        some = np.array([5, 0, 5])
        images = source.read(split, some)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, arrays[f'{split}_images'][some])
        assert source.read(split, some[:0]).shape == (0, 5, 4, 3)


def test_class_names_and_compressed_files(tmp_path):
    names = ['cat', 'dog', 'zebra']
    path = tmp_path / 'a.npz'
    np.savez_compressed(path, **good_arrays(), class_names=names)
    assert make(path).class_names == tuple(names)


def test_other_arrays_are_named_and_not_read(tmp_path):
    path = write(tmp_path / 'a.npz', note=np.array([{'a': 1}], object))
    source = make(path)
    assert source.num_classes == 3
    assert source.about == {'unread_arrays': ['note']}
    assert source.notes == (
        f'data.dir={path!r}: arrays that are not read: note',
    )


def test_the_names_of_keras_and_grey_images(tmp_path):
    """As `keras.datasets` gives MNIST, and the labels of CIFAR."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (12, 5, 4), np.uint8)
    y = np.arange(12, dtype=np.uint8) % 3
    path = tmp_path / 'mnist.npz'
    np.savez(
        path, x_train=x, y_train=y, x_test=x[:6, ..., None], y_test=y[:6, None]
    )
    source = make(path)
    assert source.image_shape == (5, 4, 1)
    assert source.labels['test'].tolist() == [0, 1, 2, 0, 1, 2]
    for split, num in (('train', 12), ('test', 6)):
        np.testing.assert_array_equal(
            source.read(split, np.arange(num))[..., 0], x[:num]
        )
    np.testing.assert_allclose(source.mean, (x / 255).mean())


def test_a_field_of_another_source_is_refused(tmp_path):
    path = write(tmp_path / 'a.npz')
    with pytest.raises(ValueError) as error:
        sources.make_source('arrays', {'dir': path, 'test_fraction': 0.2})
    assert str(error.value) == (
        'data.test_fraction=0.2: must be None with data.source=arrays; folder '
        'has it'
    )


def test_images_of_one_colour_have_a_std_to_divide_by(tmp_path):
    blank = np.full((12, 5, 4, 3), 51, np.uint8)
    source = make(write(tmp_path / 'a.npz', train_images=blank))
    np.testing.assert_allclose(source.mean, [0.2] * 3)
    np.testing.assert_allclose(source.std, [1 / 255] * 3)


def ragged():
    return np.array([np.zeros(n, np.uint8) for n in (1, 2)], object)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'test_labels': None}, 'test_labels: missing'),
        (
            {'train_images': np.zeros((12, 5, 4, 3), np.float32)},
            'train_images: dtype float32: must be uint8',
        ),
        (
            {'train_images': np.zeros((12, 60), np.uint8)},
            'train_images: rank 2: must be [n,H,W,C], or [n,H,W] if grey',
        ),
        (
            {'train_images': np.zeros((12, 3, 28, 28), np.uint8)},
            'train_images: shape (12, 3, 28, 28): channels must come last, '
            '[n,H,W,C]; train_images.transpose(0, 2, 3, 1) moves them there',
        ),
        (
            {'x_train': np.zeros((12, 5, 4, 3), np.uint8)},
            'train_images and x_train: must be one of them',
        ),
        (
            {'train_images': ragged()},
            'train_images: dtype object: must be uint8',
        ),
        (
            {'class_names': np.array(['a', 'b', 'c'], object)},
            'class_names: dtype object: must be a string type',
        ),
        (
            {'test_images': np.zeros((6, 5, 5, 3), np.uint8)},
            'test_images: image shape (5, 5, 3): must be (5, 4, 3), as in '
            'train_images',
        ),
        (
            {'test_images': np.zeros((0, 5, 4, 3), np.uint8)},
            'test_images: empty, of shape (0, 5, 4, 3)',
        ),
        (
            {'train_labels': np.zeros(12)},
            'train_labels: dtype float64: must be an integer type',
        ),
        (
            {'train_labels': np.zeros((12, 3), int)},
            'train_labels: shape (12, 3): must be one integer per image, not '
            'one-hot rows',
        ),
        (
            {'train_labels': np.arange(11) % 3},
            'train_labels: 11 labels: must be 12, the number of images',
        ),
        (
            {'test_labels': np.array([0, 1, 2, 3, 0, 0])},
            'test_labels: label 3: must be in 0..2',
        ),
        (
            {'train_labels': np.arange(12) % 3 - 1},
            'train_labels: label -1: must be in 0..2',
        ),
        (
            {'train_labels': np.array([0, 1, 10**12] * 4)},
            'train_labels: label 1000000000000: must be in 0..2',
        ),
        (
            {'test_labels': np.zeros(6, int)},
            "test_labels: no image of class 'class 1' (label 1)",
        ),
        (
            {'class_names': ['a', 'b', 'c', 'd']},
            "train_labels: no image of class 'd' (label 3)",
        ),
        (
            {'class_names': ['a', 'b', 'a']},
            "class_names: 'a' is repeated",
        ),
        (
            {'class_names': [1, 2, 3]},
            'class_names: dtype int64: must be a string type',
        ),
    ],
)
def test_bad_arrays(tmp_path, changes, message):
    path = write(tmp_path / 'a.npz', **changes)
    with pytest.raises(ValueError) as error:
        make(path)
    line = str(error.value)
    assert line.startswith(f'data.dir={path!r}: {message}; {EXPECTED}')
    found = line.partition('; found: ')[2]
    if found:
        with np.load(path) as arrays:
            assert [word.split()[0] for word in found.split(', ')] == sorted(
                arrays.files
            )


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (None, 'No such file or directory'),
        (b'', 'no .npz file: File is not a zip file'),
        (b'no arrays at all', 'no .npz file: File is not a zip file'),
        ('truncated', 'no .npz file: File is not a zip file'),
        ('damaged', "train_images: Bad CRC-32 for file 'train_images.npy'"),
    ],
)
def test_bad_files(tmp_path, data, message):
    path = tmp_path / 'a.npz'
    if data in ('truncated', 'damaged'):
        write(path)
        whole = bytearray(path.read_bytes())
        place = whole.index(b'train_images.npy') + 300
        whole[place] ^= 1
        path.write_bytes(whole[:-100] if data == 'truncated' else whole)
    elif data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        make(path)
    assert str(error.value) == f"data.dir='{path}': {message}; {EXPECTED}"


def test_no_file_is_named():
    with pytest.raises(ValueError) as error:
        sources.make_source('arrays', {})
    assert str(error.value) == (
        'data.dir=None: must be the path of an .npz file with train_images'
    )


def test_tensorflow_stays_out(tmp_path):
    path = write(tmp_path / 'a.npz')
    code = (
        'import sys, numpy as np; from mnemonics_jax.data import sources;'
        f'source = sources.make_source("arrays", {{"dir": {path!r}}});'
        'source.read("train", np.arange(3));'
        'print([m for m in sys.modules if m.startswith("tensorflow")])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == '[]'
