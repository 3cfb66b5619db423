"""What a step of learning takes of memory, and sends between devices.

Read off the compiled programs.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from mnemonics_jax.backbones import make_backbone
from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import StackedBatches
from mnemonics_jax.exemplars.inner_problem import ExemplarProblem
from mnemonics_jax.exemplars.steps import make_learner
from mnemonics_jax.experiment import step_shapes
from mnemonics_jax.plan import hlo
from tests import bilevel_test as small

NUM, SIZE = 64, 32


@functools.cache
def float_array(shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def compiled(scope, steps, microbatch=None, num_devices=1, num=NUM, **changes):
    """A step of learning `num` exemplars on 64 query images."""
    size = SIZE
    placement = parallel.make_placement(jax.devices()[:num_devices])
    backbone = make_backbone(
        'convnet_tiny',
        num_classes=10,
        image_shape=(size, size, 3),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    chosen = small.settings(scope, steps=steps)._replace(
        microbatch=microbatch, **changes
    )
    functions = make_learner(backbone, chosen, placement)
    state = jax.eval_shape(functions.init, float_array((num, size, size, 3)))
    state = jax.tree.map(
        lambda x: step_shapes.placed(x, placement.sharing(x.shape)), state
    )
    columns = {
        'image': jax.ShapeDtypeStruct((1, NUM, size, size, 3), jnp.uint8),
        'label': jax.ShapeDtypeStruct((1, NUM), jnp.int32),
        'index': jax.ShapeDtypeStruct((1, NUM), jnp.int32),
        'weight': float_array((1, NUM)),
    }
    problem = ExemplarProblem(
        jax.eval_shape(backbone.init, jax.random.key(0)),
        step_shapes.abstract_list(num),
        step_shapes.PHASE,
        jax.random.key(0),
        step_shapes.NUMBER,
        StackedBatches(columns, None, step_shapes.NUMBER),
    )
    return functions.learn.lower(state, problem, 1).compile()


def temporaries(*arguments):
    return compiled(*arguments).memory_analysis().temp_size_in_bytes


def sent(scope, steps, **changes):
    """Calls and bytes of each collective of a step on four devices."""
    text = compiled(scope, steps, num_devices=4, **changes).as_text()
    return hlo.collectives(text)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_memory_hardly_grows_with_the_number_of_inner_steps(scope):
    assert temporaries(scope, 16) <= 1.1 * temporaries(scope, 4)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_microbatches_of_an_eighth_take_less_than_half_the_memory(scope):
    assert temporaries(scope, 4, 8) < 0.5 * temporaries(scope, 4)


def test_gradients_of_pixels_are_summed_over_devices_once(all_devices):
    few, many = (sent('all', steps)['all-reduce'].bytes for steps in (4, 8))
    pixels = NUM * SIZE * SIZE * 3 * 4
    assert pixels < few < 2 * pixels
    # What each inner step sums: parameters, and not the pixels.
    assert many - few < 0.1 * pixels


def test_shared_pixels_stay_on_their_device_when_the_head_learns(all_devices):
    """Pixels that do not divide evenly are gathered once a step."""
    pixels = NUM * SIZE * SIZE * 3 * 4
    assert sent('head', 4)['all-gather'].bytes < 0.01 * pixels
    uneven = sent('head', 4, num=NUM + 2)['all-gather'].bytes
    assert pixels <= uneven < 1.2 * pixels


def test_inner_steps_of_the_head_exchange_nothing(all_devices):
    few, many = sent('head', 4), sent('head', 8)
    assert few == many
    # Features are gathered once; the loss and its gradient are summed once.
    assert few['all-gather'].calls == 1
    assert few['all-reduce'].calls == 2
    assert set(few) == {'all-gather', 'all-reduce'}


def test_mirrored_views_stay_on_their_device(all_devices):
    plain = sent('head', 1, objective='means')
    assert sent('head', 1, objective='means', mirror=True) == plain
    assert set(plain) == {'all-reduce'}
