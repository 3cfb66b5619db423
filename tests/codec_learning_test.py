"""Objectives of what a codec stores: closed form, and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.core import parallel
from mnemonics_jax.data import storage
from mnemonics_jax.exemplars import objectives
from mnemonics_jax.exemplars.inner_problem import LearnerContext
from tests import bilevel_test as small
from tests import objectives_test as bench
from tests.storage_jpeg_gradient_test import dense, smooth

SHAPE = (bench.SIZE, bench.SIZE, 1)
CODEC = storage.make('jpeg', SHAPE, 30)


def gradient(settings, problem, pixels):
    context = LearnerContext(small.make_model('cosine'), settings, small.ALONE)
    run = functools.partial(objectives.pixel_gradient, context)
    return jax.tree.map(np.asarray, jax.jit(run)(problem, pixels))


@pytest.mark.parametrize(
    ('objective', 'changes'),
    [
        ('unroll+means', {'inner_augment': True, 'mirror': True}),
        ('unroll', {'hypergradient': 'neumann', 'hypergradient_terms': 2}),
        ('prototypes+means', {'microbatch': 4}),
    ],
)
def test_the_gradient_is_that_at_the_stored_images_pulled_back(
    objective, changes
):
    """g(pixels) = J' g(stored images), J the codec's map without rounding.

    The stored images are Pillow's; J comes from SciPy's transform of a loop.
    """
    settings = bench.make_settings(objective, **changes)
    pixels = bench.arrays()[0]
    # Of other images, so that some coefficients are lost.
    kept = np.asarray(
        CODEC.kept(np.tile(pixels.mean((1, 2, 3), keepdims=True), (1, *SHAPE)))
    )
    kept |= np.random.default_rng(3).uniform(size=kept.shape) < 0.5
    stored = CODEC.decode(CODEC.encode(pixels, kept)) / 255
    assert np.abs(stored - pixels).max() > 0.1
    with jax.enable_x64(True):
        problem = bench.make_problem(small.make_model('cosine'))
        at_stored, expected_metrics = gradient(settings, problem, stored)
        found, metrics = gradient(
            settings._replace(shown=CODEC.shown),
            problem._replace(kept=jnp.asarray(kept)),
            pixels,
        )
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-9)
    scale = np.abs(at_stored).max()
    assert scale > 0
    for i in range(len(pixels)):
        matrix = dense(lambda x, i=i: smooth(x, kept[i], '4:4:4'), SHAPE)
        expected = (matrix.T @ at_stored[i].ravel()).reshape(SHAPE)
        # Constants of the decoder have 13 bits.
        np.testing.assert_allclose(
            found[i], expected, rtol=0, atol=1e-3 * scale
        )
    assert np.abs(found - at_stored).max() > 0.1 * scale


def test_four_devices_learn_what_one_learns(one_device, all_devices):
    """Steps of a rounded function: equal sums must round alike."""
    four = parallel.make_placement(list(all_devices.mesh.devices.flat)[:4])
    alone, together = (
        bench.learned('prototypes+means', placement, CODEC)
        for placement in (one_device, four)
    )
    scale = np.abs(alone).max()
    assert scale > 1e-3
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4 * scale)
