"""Tests of mnemonics_jax.data.augment."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.data import augment, random_crop
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.device_batch import to_float

KEY = jax.random.key(7)
INDICES = jnp.array([3, 0, 11, 200, 5, 3])


CROPS = Augmentation(resized_crop=True)
SHIFTS = Augmentation(pad=4, flip=True, brightness=0.3)
ALL_OF_CROPS = Augmentation(flip=True, resized_crop=True, brightness=0.3)


@functools.cache
def jitted():
    return jax.jit(augment.augment, static_argnames='settings')


def make_images():
    images = np.random.default_rng(0).uniform(size=(6, 8, 9, 3))
    return jnp.asarray(images, jnp.float32)


def pixels(shape, offsets, flips, pad):
    """Positions of all pixels of the results and, inside the image, sources."""
    num, height, width, _ = shape
    for b, y, x in itertools.product(range(num), range(height), range(width)):
        column = width - 1 - x if flips[b] else x
        row = y + offsets[b, 0] - pad
        column = column + offsets[b, 1] - pad
        if 0 <= row < height and 0 <= column < width:
            yield (b, y, x), (b, row, column)


def by_numpy(images, offsets, flips, pad):
    """The same as a plain loop over the images, pixel by pixel in y and x."""
    result = np.zeros_like(images)
    for to, source in pixels(images.shape, offsets, flips, pad):
        result[to] = images[source]
    return result


@pytest.mark.parametrize('pad', [0, 1, 4])
@pytest.mark.parametrize('flip', [False, True])
def test_shifts_and_mirrors_equal_a_loop(pad, flip):
    images = make_images()
    offsets, flips = augment.crop_offsets_and_flips(KEY, INDICES, pad)
    flips = np.asarray(flips) & flip
    expected = by_numpy(np.asarray(images), np.asarray(offsets), flips, pad)
    settings = Augmentation(pad=pad, flip=flip)
    found = jitted()(KEY, images, INDICES, settings)
    np.testing.assert_array_equal(found, expected)
    eager = augment.augment(KEY, images, INDICES, settings)
    np.testing.assert_array_equal(found, eager)


def gradient_by_numpy(cotangents, offsets, flips, pad):
    """A plain loop as above: each pixel adds its cotangent to its source."""
    result = np.zeros_like(cotangents)
    for to, source in pixels(cotangents.shape, offsets, flips, pad):
        result[source] += cotangents[to]
    return result


@pytest.mark.parametrize('source', ['float32', 'float64', 'uint8'])
def test_shifts_and_their_gradients_are_exact_to_the_bit(source):
    random = np.random.default_rng(3)
    shape, settings = (6, 8, 9, 3), Augmentation(pad=4, flip=True)
    with jax.enable_x64(source == 'float64'):
        if source == 'uint8':
            grey_levels = random.integers(0, 256, shape).astype(np.uint8)
            images = to_float(jnp.asarray(grey_levels))
        else:
            images = jnp.asarray(random.uniform(size=shape), source)
        cotangents = random.normal(size=shape).astype(images.dtype)
        indices = jnp.asarray(INDICES, jnp.int32)
        drawn = augment.crop_offsets_and_flips(KEY, indices, settings.pad)
        found, pull = jax.vjp(
            lambda x: augment.augment(KEY, x, indices, settings), images
        )
        (gradient,) = pull(jnp.asarray(cotangents))
    drawn = [np.asarray(draw) for draw in drawn]
    for ours, theirs in (
        (found, by_numpy(np.asarray(images), *drawn, settings.pad)),
        (gradient, gradient_by_numpy(cotangents, *drawn, settings.pad)),
    ):
        assert ours.dtype == theirs.dtype == images.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_shifts_do_not_loop_over_the_images():
    """For any platform: on TPU, slices at each image's offset are a loop."""

    def squared(images):
        settings = Augmentation(pad=4, flip=True)
        shifted = augment.augment(KEY, images, INDICES, settings)
        return jnp.sum(shifted**2)

    program = str(jax.make_jaxpr(jax.grad(squared))(make_images()))
    assert 'dot_general' in program
    for loop in ('while', 'scan', 'gather', 'scatter', 'dynamic'):
        assert f' {loop}' not in program


def test_shifts_and_mirrors_are_drawn_as_ever():
    """A run that an earlier version began resumes as it would have."""
    offsets, flips = augment.crop_offsets_and_flips(KEY, INDICES, 4)
    assert offsets.tolist() == [[8, 4], [6, 3], [3, 4], [7, 8], [2, 3], [8, 4]]
    assert flips.tolist() == [True, True, False, True, False, True]


def resized_by_numpy(images, crops):
    """Bilinear interpolation as a loop, between the pixels of the box alone."""
    result = np.zeros(images.shape)
    _, height, width, _ = images.shape
    for b, (top, left, h, w) in enumerate(crops):
        box = images[b, top : top + h, left : left + w].astype(float)
        for y in range(height):
            for x in range(width):
                row = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
                column = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
                i, j = math.floor(row), math.floor(column)
                below, right = min(i + 1, h - 1), min(j + 1, w - 1)
                u, v = row - i, column - j
                result[b, y, x] = (1 - u) * (
                    (1 - v) * box[i, j] + v * box[i, right]
                ) + u * ((1 - v) * box[below, j] + v * box[below, right])
    return result


def test_resized_crops_equal_a_loop():
    images = make_images()
    crops = np.asarray(augment.crop_boxes(KEY, INDICES, 8, 9))
    assert len(np.unique(crops[:5], axis=0)) == 5
    found = jitted()(KEY, images, INDICES, CROPS)
    expected = resized_by_numpy(np.asarray(images), crops)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('box', [(0, 0, 8, 9), (5, 0, 1, 9), (2, 8, 6, 1)])
def test_any_box_is_resized_as_by_the_loop(monkeypatch, box):
    images = make_images()
    crops = np.tile(np.array(box, np.int32), (6, 1))
    monkeypatch.setattr(augment, 'crop_boxes', lambda *_: jnp.asarray(crops))
    found = augment.augment(KEY, images, INDICES, CROPS)
    expected = resized_by_numpy(np.asarray(images), crops)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if box == (0, 0, 8, 9):
        np.testing.assert_array_equal(found, images)


def test_nothing_outside_of_the_box_is_seen():
    images = make_images()
    crops = np.asarray(augment.crop_boxes(KEY, INDICES, 8, 9))
    outside = np.ones(images.shape, bool)
    for b, (top, left, h, w) in enumerate(crops):
        outside[b, top : top + h, left : left + w] = False
    assert outside.any((1, 2, 3)).sum() >= 4
    found = jitted()(KEY, jnp.where(outside, 7.0, images), INDICES, CROPS)
    expected = jitted()(KEY, images, INDICES, CROPS)
    np.testing.assert_array_equal(found, expected)


def test_boxes_follow_their_rule():
    crops = augment.crop_boxes(KEY, jnp.arange(2000), 40, 40)
    assert crops.dtype == jnp.int32
    crops = np.asarray(crops)
    assert crops.shape == (2000, 4)
    # The same rule, from other random numbers.
    draws = np.random.default_rng(0).random((2000, random_crop.ATTEMPTS, 4))
    expected = np.array([random_crop.crop_box(40, 40, d) for d in draws])
    for ours, theirs in (
        (crops, expected),
        (crops[:, 2:].prod(1), expected[:, 2:].prod(1)),
        (np.log(crops[:, 3] / crops[:, 2]), np.zeros(2000)),
    ):
        error = (ours.var(0) / 2000 + theirs.var(0) / 2000) ** 0.5
        assert (abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()


def test_brightness_is_multiplied_and_clipped():
    images = make_images()
    factors = np.asarray(augment.brightness_factors(KEY, INDICES, 0.3))
    assert factors[0] == factors[5]
    found = jitted()(KEY, images, INDICES, Augmentation(brightness=0.3))
    expected = np.clip(np.asarray(images) * factors[:, None, None, None], 0, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (expected == 1).any()
    # Uniform: the 99.9 % quantile for 9 degrees of freedom.
    factors = augment.brightness_factors(KEY, jnp.arange(5000), 0.3)
    cells = np.floor((np.asarray(factors) - 0.7) / 0.06).astype(int)
    assert chi_square(cells, 10) < 27.9


def test_draws_are_independent_of_each_other():
    indices = jnp.arange(4000)
    offsets, flips = augment.crop_offsets_and_flips(KEY, indices, 4)
    crops = augment.crop_boxes(KEY, indices, 1000, 1000)
    tops, lefts, heights, widths = crops.T
    drawn = [
        offsets[:, 0],
        offsets[:, 1],
        flips,
        heights * widths,
        heights / widths,
        tops / (1001 - heights),
        lefts / (1001 - widths),
        augment.brightness_factors(KEY, indices, 0.3),
    ]
    correlations = np.corrcoef(np.array(drawn, float))
    assert abs(correlations - np.eye(8)).max() < 4 / 4000**0.5


@pytest.mark.parametrize(
    'settings', [SHIFTS, ALL_OF_CROPS], ids=['shifts', 'crops']
)
def test_each_draw_is_the_same_with_and_without_the_others(settings):
    images = make_images()
    expected = images
    for name in ('pad', 'resized_crop', 'flip', 'brightness'):
        one = Augmentation(**{name: getattr(settings, name)})
        expected = jitted()(KEY, expected, INDICES, one)
    found = jitted()(KEY, images, INDICES, settings)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nothing_to_do_returns_the_images():
    images = make_images()
    found = augment.augment(KEY, images, INDICES, Augmentation())
    assert found is images


@pytest.mark.parametrize(
    'settings', [SHIFTS, ALL_OF_CROPS, Augmentation(flip=True)]
)
def test_images_that_are_not_chosen_keep_their_bits(settings):
    images, chosen = make_images(), np.array(INDICES) % 2 == 0
    every = jitted()(KEY, images, INDICES, settings)
    found = jitted()(KEY, images, INDICES, settings, chosen)
    np.testing.assert_array_equal(found[~chosen], images[~chosen])
    np.testing.assert_array_equal(found[chosen], every[chosen])
    assert (every != images)[~chosen].any()


# Sizes for which a compiled division by twice the size is rounded.
@pytest.mark.parametrize('size', [7, 28, 224])
def test_images_that_are_not_chosen_keep_their_bits_at_any_size(size):
    random = np.random.default_rng(0)
    images = random.uniform(size=(2, size, size, 1)).astype(np.float32)
    found = jitted()(KEY, images, INDICES[:2], ALL_OF_CROPS, np.zeros(2, bool))
    np.testing.assert_array_equal(found, images)


def test_padding_and_resized_crops_exclude_each_other():
    settings = Augmentation(pad=4, resized_crop=True)
    with pytest.raises(ValueError) as error:
        augment.augment(KEY, make_images(), INDICES, settings)
    assert str(error.value) == 'pad=4: must be 0 with resized_crop'


@pytest.mark.parametrize(
    'settings', [SHIFTS, ALL_OF_CROPS], ids=['shifts', 'crops']
)
def test_depends_on_key_and_index_but_not_on_the_batch(settings):
    images = make_images()
    whole = jitted()(KEY, images, INDICES, settings)
    shuffle = np.array([4, 2, 0])
    part = jitted()(KEY, images[shuffle], INDICES[shuffle], settings)
    np.testing.assert_allclose(part, whole[shuffle], rtol=1e-6)
    other = jitted()(jax.random.key(8), images, INDICES, settings)
    assert not np.allclose(other, whole, atol=0.1)


def test_a_scan_over_keys_equals_a_loop():
    images = make_images()
    keys = jax.random.split(KEY, 3)

    def step(carry, key):
        return carry, augment.augment(key, images, INDICES, ALL_OF_CROPS)

    _, found = jax.jit(lambda keys: jax.lax.scan(step, (), keys))(keys)
    expected = [jitted()(key, images, INDICES, ALL_OF_CROPS) for key in keys]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)


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


def test_gradients_of_shifts_are_ones_and_zeros():
    images = make_images()
    settings = Augmentation(pad=2, flip=True)
    offsets, _ = augment.crop_offsets_and_flips(KEY, INDICES, 2)
    grads = jax.grad(
        lambda images: jitted()(KEY, images, INDICES, settings).sum()
    )(images)
    # A pixel counts once where it stays inside, else not at all.
    assert set(np.unique(grads)) <= {0.0, 1.0}
    kept = (8 - abs(offsets[:, 0] - 2)) * (9 - abs(offsets[:, 1] - 2)) * 3
    np.testing.assert_array_equal(grads.sum((1, 2, 3)), kept)


def test_gradients_of_resized_crops_are_those_of_a_linear_map():
    images = make_images()
    outputs, pull = jax.vjp(
        lambda images: jitted()(KEY, images, INDICES, CROPS), images
    )
    random = np.random.default_rng(1)
    cotangents = random.normal(size=images.shape).astype(np.float32)
    (grads,) = pull(jnp.asarray(cotangents))
    assert np.isfinite(grads).all()
    # <A x, y> = <x, A' y>, image by image.
    left = (np.asarray(outputs, float) * cotangents).sum((1, 2, 3))
    right = (np.asarray(grads, float) * images).sum((1, 2, 3))
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_gradients_of_brightness_are_the_factor_where_nothing_is_clipped():
    images = make_images().at[0, 0, 0].set(0.0)
    factors = augment.brightness_factors(KEY, INDICES, 0.3)
    settings = Augmentation(brightness=0.3)
    grads = jax.grad(
        lambda images: jitted()(KEY, images, INDICES, settings).sum()
    )(images)
    factors = np.broadcast_to(factors[:, None, None, None], images.shape)
    expected = np.where(images * factors < 1, factors, 0)
    np.testing.assert_allclose(grads, expected, rtol=1e-6)
