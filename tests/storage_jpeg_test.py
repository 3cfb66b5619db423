"""JPEG's pixels and coefficients: NumPy, JAX, Pillow, real numbers agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from mnemonics_jax.data import storage
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.data.storage import jpeg
from mnemonics_jax.data.storage.jpeg import transform
from tests import storage_images

# Not multiples of a block; narrower than what colours are interpolated for.
CASES = [
    ((28, 28, 1), '4:2:0'),
    ((30, 34, 3), '4:2:0'),
    ((30, 34, 3), '4:4:4'),
    ((32, 32, 3), '4:2:0'),
    ((9, 4, 3), '4:2:0'),
    ((1, 1, 3), '4:4:4'),
]
# JFIF, in real numbers.
TO_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)


def random_kept(codec, num, seed=0):
    """Coefficients at random: images far from natural ones."""
    rng = np.random.default_rng(seed)
    return rng.random((num, *codec.kept_shape)) < 0.5


def real_coefficients(images, subsampling):
    """Coefficients f64[n, blocks, 8, 8], not quantised, plane by plane."""
    levels = images.astype(np.float64) * 255
    if levels.shape[-1] == 1:
        planes = [levels[..., 0] - 128]
    else:
        ycc = levels @ TO_YCC.T
        planes = [ycc[..., 0] - 128, ycc[..., 1], ycc[..., 2]]
    blocks = [[] for _ in images]
    for i in range(len(images)):
        for k, all_of_plane in enumerate(planes):
            plane = all_of_plane[i]
            if k and subsampling == '4:2:0':
                spare = (plane.shape[0] % 2, -plane.shape[1] % 16)
                plane = np.pad(plane, [(0, s) for s in spare], mode='edge')
                plane = (
                    plane[::2, ::2]
                    + plane[1::2, ::2]
                    + plane[::2, 1::2]
                    + plane[1::2, 1::2]
                ) / 4
            spare = [(0, -size % 8) for size in plane.shape]
            plane = np.pad(plane, spare, mode='edge')
            for y in range(0, plane.shape[0], 8):
                for x in range(0, plane.shape[1], 8):
                    block = plane[y : y + 8, x : x + 8]
                    blocks[i].append(scipy.fft.dctn(block, norm='ortho'))
    return np.array(blocks)


@pytest.mark.parametrize('quality', [5, 50, 95, 100])
@pytest.mark.parametrize(('shape', 'subsampling'), CASES)
def test_what_training_is_shown_is_what_pillow_decodes(
    shape, subsampling, quality
):
    codec = storage.make('jpeg', shape, quality, subsampling)
    for kind in storage_images.KINDS:
        images = storage_images.make(kind, 3, shape)
        for kept in (codec.kept(images), random_kept(codec, 3)):
            shown = codec.shown(jnp.asarray(images), jnp.asarray(kept))
            decoded = codec.decode(codec.encode(images, kept))
            levels = np.round(np.asarray(shown) * 255)
            # Not one pixel is off, of 0 to 255.
            np.testing.assert_array_equal(levels, decoded, kind)


@pytest.mark.parametrize(('shape', 'subsampling'), CASES[:4])
def test_compiled_it_shows_the_same(shape, subsampling):
    codec = storage.make('jpeg', shape, 50, subsampling)
    images = storage_images.make('noise', 3, shape)
    kept = random_kept(codec, 3)
    shown = jax.jit(codec.shown)(images, kept)
    decoded = codec.decode(codec.encode(images, kept))
    np.testing.assert_array_equal(shown, jax.jit(to_float)(decoded))
    assert shown.dtype == np.float32


def test_in_float64_it_shows_the_same():
    codec = storage.make('jpeg', (30, 34, 3), 50)
    images = storage_images.make('noise', 3, (30, 34, 3)).astype(np.float64)
    kept = random_kept(codec, 3)
    with jax.enable_x64(True):
        shown = codec.shown(jnp.asarray(images), jnp.asarray(kept))
        assert shown.dtype == np.float64
        assert codec.kept(jnp.asarray(images)).dtype == bool
    decoded = codec.decode(codec.encode(images, kept))
    np.testing.assert_array_equal(np.round(np.asarray(shown) * 255), decoded)


@pytest.mark.parametrize('quality', [30, 95])
@pytest.mark.parametrize(('shape', 'subsampling'), CASES)
def test_coefficients_are_those_of_real_numbers_rounded(
    shape, subsampling, quality
):
    layout = transform.make_layout(shape, quality, subsampling)
    for kind in ('noise', 'saturated', 'smooth'):
        images = storage_images.make(kind, 3, shape)
        found = transform.coefficients(images, layout)
        real = real_coefficients(images, subsampling)
        assert found.shape == real.shape
        errors = np.abs(found * layout.tables - real)
        # Half a step, and the rounding of pixels to 1/16 grey level.
        assert (errors - layout.tables / 2).max() < 0.2, kind
        # Most are the nearest, all but those that are about half a step off.
        nearest = np.round(real / layout.tables)
        assert (found == nearest).mean() > 0.98, kind
        in_jax = transform.coefficients(jnp.asarray(images), layout)
        np.testing.assert_array_equal(in_jax, found)


def test_only_kept_coefficients_are_stored():
    shape = (16, 16, 3)
    codec = storage.make('jpeg', shape, 50, '4:4:4')
    start = storage_images.make('smooth', 2, shape)
    kept = codec.kept(start)
    assert kept.shape == (2, *codec.kept_shape) == (2, 12, 8, 8)
    assert kept.dtype == bool
    assert kept[..., 0, 0].all()
    assert 0 < kept.mean() < 0.5
    # The start is what it was, and changes stay within.
    assert codec.encode(start, kept) == codec.encode(start)
    changed = np.clip(start + storage_images.make('noise', 2, shape), 0, 1)
    layout = transform.make_layout(shape, 50, '4:4:4')
    decoded = codec.decode(codec.encode(changed, kept)) / np.float32(255)
    again = transform.coefficients(decoded, layout)
    assert np.abs(again[~kept]).max() <= 1
    assert np.abs(again[~kept]).mean() < 0.05
    free = transform.coefficients(changed, layout)
    assert np.abs(free[~kept]).mean() > 0.2
    sizes = [
        sum(map(codec.num_bytes, codec.encode(changed, k)))
        for k in (kept, None)
    ]
    assert sizes[0] < 0.7 * sizes[1]


def test_small_steps_of_learning_are_not_rounded_away():
    """An eighth of a grey level, where pixels of 8 bits would all stay."""
    x = np.cos((np.arange(8) + 0.5) * np.pi / 8)
    pattern = (0.13 / 255 * np.sign(x)).astype(np.float32)
    start = np.full((1, 8, 8, 1), 128 / 255, np.float32)
    changed = start + pattern[:, None]
    np.testing.assert_array_equal(
        np.round(start * 255), np.round(changed * 255)
    )
    layout = transform.make_layout((8, 8, 1), 100, '4:4:4')
    assert transform.coefficients(start, layout)[0, 0, 0, 1] == 0
    assert transform.coefficients(changed, layout)[0, 0, 0, 1] == 1


def test_many_images_are_encoded_in_parts(monkeypatch):
    codec = storage.make('jpeg', (16, 16, 3), 50)
    images = storage_images.make('noise', 7, (16, 16, 3))
    kept = codec.kept(images)
    whole = codec.encode(images, kept)
    # Two images at a time: 6 blocks of 64 coefficients each.
    monkeypatch.setattr(jpeg, '_CHUNK', 2 * 6 * 64)
    assert codec.encode(images, kept) == whole
