"""Tests of mnemonics_jax.data.random_crop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.data import random_crop


def make_draws(seed, num=1):
    return np.random.default_rng(seed).random((num, random_crop.ATTEMPTS, 4))


def by_definition(height, width, draws):
    """The rule, attempt by attempt, as it is usually written."""
    for area, ratio, top, left in draws:
        target = height * width * (0.08 + area * (1 - 0.08))
        low, high = math.log(3 / 4), math.log(4 / 3)
        ratio = math.exp(low + ratio * (high - low))
        w = round(math.sqrt(target * ratio))
        h = round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return (
                int(top * (height - h + 1)),
                int(left * (width - w + 1)),
                h,
                w,
            )
    h, w = height, width
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ('height', 'width'),
    [(375, 500), (500, 333), (64, 64), (3, 2), (1, 1), (1, 40), (900, 30)],
)
def test_the_box_is_that_of_the_definition(height, width):
    for draws in make_draws(0, 100):
        found = random_crop.crop_box(height, width, draws)
        assert tuple(found) == by_definition(height, width, draws)


def test_numpy_and_jax_choose_alike():
    draws = make_draws(1, 500).astype(np.float32)
    choose = jax.jit(jax.vmap(lambda d: random_crop.crop_box(48, 64, d)))
    found = choose(jnp.asarray(draws))
    assert found.dtype == np.int32
    expected = np.array([random_crop.crop_box(48, 64, d) for d in draws])
    # Half a pixel may be rounded up by one and down by the other.
    assert (found == expected).all(1).mean() > 0.99


@pytest.mark.parametrize(
    ('height', 'width', 'box'),
    [
        (60, 60, (0, 0, 60, 60)),
        (60, 75, (0, 0, 60, 75)),
        (60, 100, (0, 10, 60, 80)),
        (101, 30, (30, 0, 40, 30)),
    ],
)
def test_what_never_fits_is_the_largest_central_box(height, width, box):
    # All of the area, at the ratio that is farther from the image's.
    draws = make_draws(2)[0]
    draws[:, 0] = 0.999
    draws[:, 1] = 0 if width >= height else 0.999
    assert tuple(random_crop.crop_box(height, width, draws)) == box


def test_areas_ratios_and_positions_are_as_they_should_be():
    size = 1000
    found = np.array(
        [
            random_crop.crop_box(size, size, drawn)
            for drawn in make_draws(3, 4000)
        ]
    )
    tops, lefts, heights, widths = found.T
    assert (found >= 0).all()
    assert (tops + heights).max() <= size
    assert (lefts + widths).max() <= size
    areas = heights * widths / size**2
    assert 0.079 < areas.min() < 0.085
    assert 0.98 < areas.max() <= 1
    ratios = np.log(widths / heights)
    assert 0.28 < np.abs(ratios).max() < math.log(4 / 3) + 0.004
    # Kept are the pairs of area a and log ratio r with a exp|r| <= 1. Of those
    # the mean of a is the quotient of two integrals.
    bound = math.log(4 / 3)
    accepted = 0.25 / bound - 0.08
    mean = (0.4375 / (2 * bound) - 0.08**2) / 2 / accepted
    assert abs(areas.mean() - mean) < 4 * areas.std() / 4000**0.5
    assert abs(ratios.mean()) < 4 * ratios.std() / 4000**0.5
    for starts, sides in ((tops, heights), (lefts, widths)):
        cells = (9 * (starts + 0.5) / (size - sides + 1))[sides < 900]
        counts = np.bincount(cells.astype(int), minlength=9)
        expected = counts.sum() / 9
        # The 99.9 % quantile for 8 degrees of freedom.
        assert ((counts - expected) ** 2 / expected).sum() < 26.1
