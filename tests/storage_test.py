"""Tests of mnemonics_jax.data.storage, for all codecs."""

import io

import numpy as np
import PIL
import pytest
from PIL import Image

from mnemonics_jax.data import storage
from mnemonics_jax.exemplars import memory
from tests import storage_images

SHAPES = ((12, 10, 3), (9, 8, 1))


def pixels_of_file(file, suffix, channels):
    """An exported image as [H, W, C], read as anyone would."""
    if suffix == '.npy':
        return np.load(io.BytesIO(file))
    with Image.open(io.BytesIO(file)) as image:
        # WebP alone has no grey images.
        assert image.mode == ('L' if channels == 1 else 'RGB') or (
            suffix == '.webp'
        )
        pixels = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
    return pixels.reshape(*pixels.shape[:2], channels)


def test_the_names_are_the_files_of_the_folder():
    assert storage.names() == ['float32', 'jpeg', 'uint8', 'webp']


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', storage.names())
def test_what_is_encoded_comes_back(name, shape):
    codec = storage.make(name, shape, quality=95, subsampling='4:4:4')
    images = storage_images.make('smooth', 4, shape)
    encoded = codec.encode(images)
    decoded = codec.decode(encoded)
    assert decoded.shape == images.shape
    assert decoded.dtype == codec.dtype
    floats = decoded / 255 if codec.dtype == 'uint8' else decoded
    assert np.abs(floats - images).mean() < 0.03
    np.testing.assert_array_equal(codec.decode(encoded), decoded)
    # In any order, one at a time, and none.
    np.testing.assert_array_equal(codec.decode(encoded[2:3])[0], decoded[2])
    assert codec.encode(images[2:3]) == encoded[2:3]
    assert codec.encode(images[:0]) == []
    assert codec.decode([]).shape == (0, *shape)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', storage.names())
def test_files_are_complete_and_bytes_are_counted(name, shape):
    codec = storage.make(name, shape)
    encoded = codec.encode(storage_images.make('noise', 3, shape))
    for image, decoded in zip(encoded, codec.decode(encoded), strict=True):
        assert codec.num_bytes(image) == len(image)
        file = codec.file(image)
        found = pixels_of_file(file, codec.suffix, shape[2])
        np.testing.assert_array_equal(found, decoded)
        if name in ('jpeg', 'webp'):
            assert len(codec.header) + len(image) == len(file)


@pytest.mark.parametrize('name', storage.names())
def test_all_types_of_pixels_are_encoded_alike(name):
    shape = (12, 10, 3)
    codec = storage.make(name, shape)
    levels = storage_images.make('noise', 2, shape)
    levels = np.round(levels * 255).astype(np.uint8)
    floats = levels.astype(np.float32) / np.float32(255)
    assert codec.encode(floats) == codec.encode(levels)
    if name != 'float32':
        assert codec.encode(levels / np.float64(255)) == codec.encode(levels)
    outside = np.where(levels == 0, -0.5, np.where(levels == 255, 1.5, floats))
    clipped = np.clip(outside, 0, 1).astype(np.float32)
    assert codec.encode(outside.astype(np.float32)) == codec.encode(clipped)


@pytest.mark.parametrize('name', ['uint8', 'float32'])
def test_raw_pixels_are_those_of_the_memory(name):
    shape = (5, 4, 3)
    codec = storage.make(name, shape)
    images = 1.5 * storage_images.make('noise', 20, shape) - 0.25
    decoded = codec.decode(codec.encode(images))
    np.testing.assert_array_equal(decoded, memory.to_storage(images, name))
    assert codec.num_bytes(codec.encode(images)[0]) == decoded[0].nbytes
    assert codec.header == b''
    decoded[0] = 0  # May be changed.


def test_only_webp_is_not_learned_through():
    for name in storage.names():
        codec = storage.make(name, (8, 8, 3))
        assert codec.learnable == (name != 'webp')
        assert (codec.shown is None) == (codec.kept is None) == (name != 'jpeg')


def test_grey_images_in_webp_stay_grey():
    """Of three colours that are equal, but for WebP's rounding."""
    images = storage_images.make('smooth', 3, (16, 18, 1))
    codec = storage.make('webp', (16, 18, 1), 50)
    encoded = codec.encode(images)
    for file, decoded in zip(encoded, codec.decode(encoded), strict=True):
        with Image.open(io.BytesIO(file)) as image:
            colours = np.asarray(image.convert('RGB'))
        assert np.abs(colours - decoded.astype(int)).max() <= 1
        assert (colours == decoded).mean() > 0.95


@pytest.mark.parametrize('name', ['jpeg', 'webp'])
def test_lower_quality_takes_fewer_bytes_and_is_further_off(name):
    images = storage_images.make('smooth', 4, (32, 32, 3))
    sizes, quality = [], []
    for q in (10, 50, 90):
        codec = storage.make(name, (32, 32, 3), q)
        encoded = codec.encode(images)
        sizes.append(sum(map(codec.num_bytes, encoded)))
        quality.append(storage.psnr(codec.decode(encoded), images).mean())
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]
    assert quality[0] < quality[1] < quality[2]


def test_a_codec_is_made_once():
    """Programs that were compiled with its functions are found again."""
    first = storage.make('jpeg', (8, 8, 3), 50, '4:2:0')
    assert storage.make('jpeg', (8, 8, 3), 50, '4:2:0').shown is first.shown
    assert storage.make('jpeg', (8, 8, 3), 51, '4:2:0').header != first.header


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            {'name': 'gif'},
            "exemplars.storage='gif': must be one of float32, jpeg, uint8, "
            'webp',
        ),
        (
            {'quality': 0},
            'exemplars.quality=0: must be an integer from 1 to 100',
        ),
        (
            {'quality': 101},
            'exemplars.quality=101: must be an integer from 1 to 100',
        ),
        (
            {'subsampling': '4:2:2'},
            "exemplars.subsampling='4:2:2': must be one of 4:2:0, 4:4:4",
        ),
        (
            {'image_shape': (8, 8, 4)},
            "exemplars.storage='jpeg': must have images of 1 or 3 channels, "
            'not 4',
        ),
        (
            {'name': 'webp', 'image_shape': (8, 8, 2)},
            "exemplars.storage='webp': must have images of 1 or 3 channels, "
            'not 2',
        ),
        (
            {'image_shape': (8, 2**16, 3)},
            "exemplars.storage='jpeg': must have images of 1 to 65535 pixels "
            'a side, not 8 x 65536',
        ),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message):
    with pytest.raises(ValueError) as e:
        storage.make(**{'name': 'jpeg', 'image_shape': (8, 8, 3), **arguments})
    assert str(e.value) == message


@pytest.mark.parametrize('name', storage.names())
def test_images_of_another_shape_or_not_finite_are_one_line(name):
    codec = storage.make(name, (8, 8, 3))
    with pytest.raises(ValueError) as e:
        codec.encode(np.zeros((2, 8, 9, 3), np.float32))
    assert str(e.value) == (
        'exemplars: images [2, 8, 9, 3]: must be [n, 8, 8, 3]'
    )
    with pytest.raises(ValueError) as e:
        codec.encode(np.full((2, 8, 8, 3), np.nan, np.float32))
    assert str(e.value) == 'exemplars: pixels must be finite'


@pytest.mark.parametrize('name', storage.names())
def test_bytes_that_are_no_image_are_one_line(name):
    codec = storage.make(name, (16, 16, 3))
    good = codec.encode(storage_images.make('noise', 1, (16, 16, 3)))[0]
    for bad in (b'', good[:3], good[: len(good) // 2]):
        with pytest.raises(ValueError) as e:
            codec.decode([good, bad])
        assert str(e.value).startswith('exemplars: image 1 must ')
        assert '\n' not in str(e.value)


def test_an_image_of_another_size_is_one_line():
    small, large = (storage.make('webp', (s, s, 3)) for s in (8, 16))
    encoded = small.encode(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError) as e:
        large.decode(encoded)
    assert str(e.value) == (
        'exemplars: image 0 must be WEBP of 16 x 16 pixels: 8 x 8 pixels'
    )


def test_the_decoder_is_named_by_its_versions():
    found = storage.decoder_version()
    assert found['pillow'] == PIL.__version__
    assert set(found) == {'pillow', 'jpg', 'libjpeg_turbo', 'webp'}
    assert found['jpg'] is not None


def test_psnr_is_its_formula():
    images = storage_images.make('noise', 3, (4, 5, 3))
    changed = images.copy()
    changed[0] += 0.1
    changed[1, 0, 0, 0] += 0.5
    found = storage.psnr(changed, images)
    assert found.dtype == np.float64
    # Mean squares are 1/100, and 1/4 of one value of 60.
    np.testing.assert_allclose(found[:2], [20, 10 * np.log10(240)], rtol=1e-5)
    assert found[2] == np.inf
    levels = np.zeros((1, 2, 2, 1), np.uint8)
    np.testing.assert_allclose(
        storage.psnr(levels + np.uint8(51), levels), 20 * np.log10(5)
    )


def test_equal_images_are_left_out_of_the_mean():
    assert storage.mean_psnr(np.array([20.0, np.inf, 40.0])) == 30
    assert storage.mean_psnr(np.array([np.inf, np.inf])) == np.inf
    assert storage.mean_psnr(np.array([])) == np.inf
