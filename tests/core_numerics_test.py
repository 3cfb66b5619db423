"""Tests of mnemonics_jax.core.numerics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mnemonics_jax.core import numerics
from mnemonics_jax.data import device_batch


def make_vectors(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(5, 4)).astype(dtype)


def test_norms_are_those_of_numpy_and_never_zero():
    vectors = np.concatenate([make_vectors(), np.zeros((1, 4), np.float32)])
    found = numerics.norms(jnp.asarray(vectors))
    expected = np.sqrt((vectors.astype(np.float64) ** 2).sum(-1))[:, None]
    np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-6)
    np.testing.assert_allclose(found[5], [1e-6], rtol=1e-6)


@pytest.mark.parametrize('length', [1e-2, 1.0, 1e6])
def test_unit_has_length_one_and_the_direction_of_its_argument(length):
    vectors = make_vectors()
    directions = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    found = numerics.unit(jnp.asarray(length * directions))
    np.testing.assert_allclose(found, directions, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)


def test_unit_keeps_zero_and_the_other_axes():
    found = numerics.unit(jnp.zeros((2, 3, 4)))
    np.testing.assert_array_equal(found, np.zeros((2, 3, 4)))


def test_unit_is_differentiable_twice():
    with jax.enable_x64(True):
        vectors = jnp.asarray(make_vectors(np.float64))
        check_grads(jax.jit(numerics.unit), (vectors,), order=2, modes=['rev'])


def test_derivatives_of_unit_at_zero_are_finite():
    def first(t):
        return numerics.unit(jnp.stack([t, 2 * t, jnp.zeros_like(t)]))[0]

    second = jax.jit(jax.grad(jax.grad(first)))
    third = jax.jit(jax.grad(jax.grad(jax.grad(first))))
    np.testing.assert_allclose(jax.jit(jax.grad(first))(0.0), 1e6, rtol=1e-5)
    assert second(0.0) == 0
    assert np.isfinite(third(0.0))


def test_weighted_mean_is_that_of_numpy():
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=7), rng.uniform(size=7)
    weights[2] = 0
    for scale in (0.01, 1, 100):
        found = numerics.weighted_mean(
            jnp.float32(values), jnp.float32(scale * weights)
        )
        expected = np.average(values, weights=weights)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('dtype', [bool, np.int32, np.float32])
def test_weighted_mean_takes_masks_and_counts(dtype):
    weights = np.array([1, 0, 1, 1], dtype)
    found = numerics.weighted_mean(jnp.float32([1, 10, 2, 6]), weights)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 3)


def test_weighted_mean_without_weight_is_zero_with_zero_gradient():
    mean = jax.value_and_grad(numerics.weighted_mean)
    value, gradient = mean(jnp.ones(3), jnp.zeros(3))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize('padding', [np.nan, np.inf, -np.inf])
def test_weighted_mean_ignores_padding_whatever_it_holds(padding):
    mean = jax.value_and_grad(numerics.weighted_mean)
    values = jnp.float32([1, padding, 3])
    value, gradient = mean(values, jnp.float32([1, 0, 1]))
    assert value == 2
    np.testing.assert_array_equal(gradient, [0.5, 0, 0.5])


def test_to_float_maps_grey_levels_to_the_unit_interval():
    levels = np.arange(256, dtype=np.uint8)
    found = jax.jit(device_batch.to_float)(levels)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, levels / 255.0, rtol=1e-7)
    assert (found[0], found[-1]) == (0, 1)


def test_to_float_returns_floats_as_they_are():
    images = jnp.float32([0.25, 1.0])
    assert device_batch.to_float(images) is images
