"""Tests of mnemonics_jax.augment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import augment

KEY = jax.random.key(7)
INDICES = jnp.array([3, 0, 11, 200, 5, 3])


@functools.cache
def jitted():
    return jax.jit(augment.pad_crop_flip, static_argnames=('pad', 'flip'))


def make_images():
    images = np.random.default_rng(0).uniform(size=(6, 8, 9, 3))
    return jnp.asarray(images, jnp.float32)


def by_numpy(images, offsets, flips, pad):
    """The same as a plain loop over the images, pixel by pixel in y and x."""
    result = np.zeros_like(images)
    num, height, width, _ = images.shape
    for b in range(num):
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if flips[b] else x
                row = y + offsets[b, 0] - pad
                column = column + offsets[b, 1] - pad
                if 0 <= row < height and 0 <= column < width:
                    result[b, y, x] = images[b, row, column]
    return result


@pytest.mark.parametrize('pad', [0, 1, 4])
@pytest.mark.parametrize('flip', [False, True])
def test_equals_a_loop(pad, flip):
    images = make_images()
    offsets, flips = augment.crop_offsets_and_flips(KEY, INDICES, pad)
    flips = np.asarray(flips) & flip
    expected = by_numpy(np.asarray(images), np.asarray(offsets), flips, pad)
    found = jitted()(KEY, images, INDICES, pad=pad, flip=flip)
    np.testing.assert_array_equal(found, expected)
    eager = augment.pad_crop_flip(KEY, images, INDICES, pad=pad, flip=flip)
    np.testing.assert_array_equal(found, eager)


def test_nothing_to_do_returns_the_images():
    images = make_images()
    found = augment.pad_crop_flip(KEY, images, INDICES, pad=0, flip=False)
    assert found is images


def test_depends_on_key_and_index_but_not_on_the_batch():
    images = make_images()
    whole = jitted()(KEY, images, INDICES, pad=4, flip=True)
    shuffle = np.array([4, 2, 0])
    part = jitted()(KEY, images[shuffle], INDICES[shuffle], pad=4, flip=True)
    np.testing.assert_array_equal(part, whole[shuffle])
    other = jitted()(jax.random.key(8), images, INDICES, pad=4, flip=True)
    assert not np.array_equal(other, whole)


def test_equal_index_means_equal_draw():
    offsets, flips = augment.crop_offsets_and_flips(KEY, INDICES, 4)
    assert offsets.dtype == jnp.int32
    assert flips.dtype == bool
    np.testing.assert_array_equal(offsets[0], offsets[5])
    assert flips[0] == flips[5]


def chi_square(cells, num_cells):
    counts = np.bincount(np.asarray(cells), minlength=num_cells)
    assert len(counts) == num_cells
    expected = len(cells) / num_cells
    return ((counts - expected) ** 2 / expected).sum()


def test_offsets_and_flips_are_uniform_and_independent():
    offsets, flips = augment.crop_offsets_and_flips(KEY, jnp.arange(9000), 4)
    # Bounds: the 99.9 % quantiles for 8 and 161 degrees of freedom.
    assert chi_square(offsets[:, 0], 9) < 26.1
    assert chi_square(offsets[:, 1], 9) < 26.1
    cells = (offsets[:, 0] * 9 + offsets[:, 1]) * 2 + flips
    assert chi_square(cells, 162) < 223


def test_is_differentiable_in_the_pixels():
    images = make_images()

    def total(images):
        augmented = augment.pad_crop_flip(
            KEY, images, INDICES, pad=2, flip=True
        )
        return augmented.sum()

    offsets, _ = augment.crop_offsets_and_flips(KEY, INDICES, 2)
    grads = jax.grad(total)(images)
    # A pixel counts once where it stays inside, else not at all.
    assert set(np.unique(grads)) <= {0.0, 1.0}
    kept = (8 - abs(offsets[:, 0] - 2)) * (9 - abs(offsets[:, 1] - 2)) * 3
    np.testing.assert_array_equal(grads.sum((1, 2, 3)), kept)
