"""Batches in microbatches: the same rows, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.bilevel import microbatch


def test_microbatches_have_every_row_once_and_repeated_ones_weigh_nothing():
    rows = jnp.arange(7)
    parts = microbatch.split(rows, 3)
    weights = microbatch.weights(jnp.ones(7), 3)
    assert parts.shape == weights.shape == (3, 3)
    assert sorted(np.asarray(parts[weights > 0]).tolist()) == list(range(7))
    assert float(weights.sum()) == 7


def test_a_split_batch_gives_each_device_its_own_rows_of_every_microbatch():
    """What device 1 of 2 has, the second half, is half of each microbatch."""
    parts = np.asarray(microbatch.split(jnp.arange(8), 4))
    assert all(set(part[2:]) <= {4, 5, 6, 7} for part in parts)


@pytest.mark.parametrize('size', [None, 1, 3, 4, 7, 9])
def test_mapping_microbatches_keeps_values_gradients_and_order(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(7, 2)))

    def total(size, x):
        y = microbatch.map_microbatches(
            lambda rows: jnp.sin(rows) ** 2, x, size
        )
        assert y.shape == x.shape
        return jnp.sum(y * jnp.arange(14.0).reshape(7, 2))

    found = jax.value_and_grad(total, argnums=1)(size, x)
    expected = jax.value_and_grad(total, argnums=1)(None, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        found,
        expected,
    )
