"""Exemplars learned in pieces: the same gradients, and less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import bilevel, learner, parallel, programs
from mnemonics_jax.backbones import make_backbone
from tests import bilevel_test as small

# Six exemplars and eight queries: the last piece of exemplars is padded.
MICROBATCH = 4


def gradient(scope, dtype, microbatch, split=lambda x: x):
    """A compiled function of pixels and query, and those."""
    pixels, labels, query = jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == np.float64 else x,
        small.float64_problem(),
    )
    chosen = small.settings(scope, start='redraw')
    chosen = chosen._replace(microbatch=microbatch)
    backbone = small.make_model('cosine')

    def run(pixels, query):
        inner = small.make_inner(backbone, chosen, dtype, split)
        return bilevel.pixel_gradient(
            inner.problem, inner.params, pixels, labels, inner.indices, query
        )

    return jax.jit(run), (pixels, query)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_pieces_have_the_gradient_of_the_whole(scope):
    with jax.enable_x64(True):
        found = []
        for microbatch in (None, MICROBATCH):
            run, inputs = gradient(scope, jnp.float64, microbatch)
            found.append(jax.tree.map(np.asarray, run(*inputs)))
    (whole, metrics), (pieces, metrics_of_pieces) = found
    scale = np.abs(whole).max()
    assert scale > 0
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-12 * scale)
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_of_pieces[name], value, rtol=1e-12)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_pieces_on_four_devices_agree_with_the_whole_on_one(scope, all_devices):
    placement = parallel.make_placement(
        list(all_devices.mesh.devices.flat)[:MICROBATCH]
    )
    run, (pixels, query) = gradient(
        scope, jnp.float32, MICROBATCH, placement.split
    )
    found, _ = run(
        parallel.replicate(placement, pixels),
        parallel.shard_batch(placement, query),
    )
    run, inputs = gradient(scope, jnp.float32, None)
    whole, _ = run(*inputs)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5 * scale)


@functools.cache
def temporaries(scope, steps, microbatch=None):
    """Bytes of a step of learning 64 exemplars, judged by as many images."""
    num, size = 64, 32
    placement = parallel.make_placement(jax.devices()[:1])
    backbone = make_backbone(
        'convnet_tiny',
        num_classes=10,
        image_shape=(size, size, 3),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    chosen = small.settings(scope, steps=steps)._replace(microbatch=microbatch)
    functions = learner.make_learner(backbone, chosen, placement)
    state = jax.eval_shape(
        functions.init, programs.float_array((num, size, size, 3))
    )
    columns = {
        'image': jax.ShapeDtypeStruct((1, num, size, size, 3), jnp.uint8),
        'label': jax.ShapeDtypeStruct((1, num), jnp.int32),
        'index': jax.ShapeDtypeStruct((1, num), jnp.int32),
        'weight': programs.float_array((1, num)),
    }
    inputs = learner.LearnInputs(
        programs.abstract_list(num),
        jax.eval_shape(backbone.init, jax.random.key(0)),
        programs.PHASE,
        programs.NUMBER,
        jax.random.key(0),
        learner.Block(columns, None, programs.NUMBER),
    )
    compiled = functions.learn.lower(state, inputs, 1).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_memory_hardly_grows_with_the_number_of_inner_steps(scope):
    assert temporaries(scope, 16) <= 1.1 * temporaries(scope, 4)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_pieces_of_an_eighth_take_less_than_half_the_memory(scope):
    assert temporaries(scope, 4, 8) < 0.5 * temporaries(scope, 4)
