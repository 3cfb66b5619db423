"""Exemplars learned in microbatches: the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import bilevel
from mnemonics_jax.core import parallel
from mnemonics_jax.exemplars.inner_problem import layout_of
from tests import bilevel_test as small

# Six exemplars and eight queries: the last microbatch of exemplars is padded.
MICROBATCH = 4


def gradient(scope, dtype, microbatch, layout=small.ALONE):
    """A compiled function of pixels and query, and those."""
    pixels, labels, query = jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == np.float64 else x,
        small.float64_problem(),
    )
    chosen = small.settings(scope, start='redraw')
    chosen = chosen._replace(microbatch=microbatch)
    backbone = small.make_model('cosine')

    # Draws are float32, which each program would round in its own way.
    inner = small.make_inner(backbone, chosen, dtype, layout)

    def run(pixels, query):
        return bilevel.pixel_gradient(
            inner.problem, inner.params, pixels, labels, inner.indices, query
        )

    return jax.jit(run), (pixels, query)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_microbatches_have_the_gradient_of_the_whole(scope):
    with jax.enable_x64(True):
        found = []
        for microbatch in (None, MICROBATCH):
            run, inputs = gradient(scope, jnp.float64, microbatch)
            found.append(jax.tree.map(np.asarray, run(*inputs)))
    (whole, metrics), (parts, metrics_of_parts) = found
    scale = np.abs(whole).max()
    assert scale > 0
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12 * scale)
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_of_parts[name], value, rtol=1e-12)


def test_microbatches_on_four_devices_agree_with_the_whole_on_one(all_devices):
    placement = parallel.make_placement(
        list(all_devices.mesh.devices.flat)[:MICROBATCH]
    )
    run, (pixels, query) = gradient(
        'all', jnp.float32, MICROBATCH, layout_of(placement)
    )
    found, _ = run(
        parallel.replicate(placement, pixels),
        parallel.shard_batch(placement, query),
    )
    run, inputs = gradient('all', jnp.float32, None)
    whole, _ = run(*inputs)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5 * scale)
