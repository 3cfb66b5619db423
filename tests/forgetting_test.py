"""Inner steps that start elsewhere: before the phase, or after forgetting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import config as config_lib
from mnemonics_jax import experiment
from mnemonics_jax.exemplars import forgetting, inner_problem, objectives
from mnemonics_jax.exemplars.inner_problem import Context
from mnemonics_jax.experiment import components, exemplar_stages
from mnemonics_jax.experiment import context as context_lib
from mnemonics_jax.types import Phase
from tests import bilevel_test as small
from tests import objectives_test


def test_turned_images_are_those_of_numpy():
    images = np.random.default_rng(0).uniform(size=(30, 5, 5, 2))
    index = np.arange(30, dtype=np.int32)
    found, turns = forgetting.turn(jax.random.key(0), images, index)
    assert set(np.asarray(turns)) == {0, 1, 2}
    for image, turned, number in zip(images, found, turns, strict=True):
        expected = np.rot90(image, int(number) + 1)
        np.testing.assert_array_equal(turned, np.float32(expected))
    # An example's turn does not depend on the rest of the batch.
    again, _ = forgetting.turn(jax.random.key(0), images[7:9], index[7:9])
    np.testing.assert_array_equal(again, found[7:9])


def test_a_step_is_sgd_on_made_up_classes():
    backbone = small.make_model('cosine')
    settings = small.settings('head')._replace(forget_lr=0.3)
    context = Context(backbone, settings, small.ALONE)
    phase = Phase(*np.int32([1, 1, 3]))
    rng = np.random.default_rng(1)
    batch = {
        'image': rng.uniform(size=(6, small.SIZE, small.SIZE, 1)),
        'label': np.int32([1, 2, 1, 2, 2, 0]),
        'index': np.arange(6, dtype=np.int32),
        'weight': np.float64([1, 1, 1, 1, 1, 0]),
    }
    key = jax.random.key(2)
    with jax.enable_x64(True):
        variables = small.variables_of(backbone, jnp.float64)
        model = forgetting.begin(variables, jax.random.key(3))
        rows = model.params['head']['kernel']
        assert rows.shape == (
            3 * 4,
            variables.params['head']['kernel'].shape[1],
        )
        turned, turns = forgetting.turn(
            jax.random.split(key)[1], batch['image'], batch['index']
        )
        labels = (3 * (batch['label'] - 1) + turns)[:5]

        def loss(params):
            found = backbone.embed(model.replace(params=params), turned)[0][:5]
            found /= jnp.linalg.norm(found, axis=1, keepdims=True)
            head = params['head']['kernel'][:6]
            head /= jnp.linalg.norm(head, axis=1, keepdims=True)
            logits = params['head']['sigma'] * found @ head.T
            log_probs = jax.nn.log_softmax(logits)
            return -jnp.mean(log_probs[jnp.arange(5), labels])

        expected = jax.tree.map(
            lambda x, g: x - 0.3 * g,
            model.params,
            jax.jit(jax.grad(loss))(model.params),
        )
        found = jax.jit(functools.partial(forgetting.step, context))(
            model, batch, phase, key
        )
    # The made-up rows are float32.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, found.params, expected)
    jax.tree.map(
        np.testing.assert_array_equal, found.batch_stats, model.batch_stats
    )
    moved = found.params['trunk'], model.params['trunk']
    assert any(
        jax.tree.leaves(jax.tree.map(lambda x, y: np.any(x != y), *moved))
    )


def context_of(parts, index):
    return context_lib.PhaseContext(
        parts, index, *parts.bounds[index], None, None
    )


@pytest.mark.parametrize('start', inner_problem.STARTS)
def test_each_start_is_the_model_that_it_says(start, tiny_config, one_device):
    tiny_config.exemplars.update(inner_start=start, forget_steps=3)
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    after = experiment.first_carry(parts).variables
    before = after.replace(params={**after.params, 'head': 'of another'})
    context = context_of(parts, 1)
    models = (after, after) if start == 'forgot' else (after, before)
    data = context.examples('train', *parts.bounds[1])
    found = exemplar_stages.starting_model(context, models, data)
    if start in ('current', 'redraw'):
        assert found is None
    elif start in inner_problem.FROM_BEFORE:
        jax.tree.map(np.testing.assert_array_equal, found, after)
        context = context_of(parts, 0)
        assert exemplar_stages.starting_model(context, models, data) is None
    else:
        jax.tree.map(
            np.testing.assert_array_equal,
            found.params['head'],
            after.params['head'],
        )
        again = exemplar_stages.starting_model(context, models, data)
        jax.tree.map(np.testing.assert_array_equal, found, again)
        trunks = found.params['trunk'], after.params['trunk']
        changes = jax.tree.map(lambda x, y: np.abs(x - y).max(), *trunks)
        assert max(jax.tree.leaves(changes)) > 1e-4


def test_steps_that_start_elsewhere_are_those_of_that_model():
    backbone = small.make_model('cosine')
    settings = objectives_test.make_settings('unroll', inner_start='previous')
    context = Context(backbone, settings, small.ALONE)
    situation = objectives_test.make_situation(backbone, jnp.float32)
    pixels = objectives_test.arrays()[0].astype(np.float32)
    other = situation.variables.replace(
        params=jax.tree.map(lambda x: x * 1.1, situation.variables.params)
    )
    gradient = jax.jit(functools.partial(objectives.pixel_gradient, context))
    elsewhere, _ = gradient(situation._replace(start=other), pixels)
    there, _ = gradient(situation._replace(variables=other), pixels)
    here, _ = gradient(situation, pixels)
    np.testing.assert_array_equal(elsewhere, there)
    assert np.any(elsewhere != here)


def test_a_start_on_the_path_is_between_both_models_and_another_each_time():
    backbone = small.make_model('cosine')
    settings = objectives_test.make_settings(
        'unroll', inner_start='path', inner_scope='all'
    )
    context = Context(backbone, settings, small.ALONE)
    situation = objectives_test.make_situation(backbone, jnp.float32)
    other = jax.tree.map(lambda x: x + 1.0, situation.variables)

    def shares(number):
        """How far each number of the model is on its way from `other`."""
        key = jax.random.key(number)
        started = objectives.inner_of(
            context, situation._replace(start=other, key=key)
        ).params
        moved = jax.tree.map(
            lambda x, y: y + 1.0 - x, started, situation.variables.params
        )
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(moved)])

    drawn = [shares(number) for number in range(3)]
    for values in drawn:
        np.testing.assert_allclose(values, values[0], atol=1e-5)
        assert 0 < values[0] < 1
    assert len({round(float(values[0]), 4) for values in drawn}) == 3


def test_before_the_first_phase_there_is_only_a_redrawn_head():
    backbone = small.make_model('cosine')
    situation = objectives_test.make_situation(backbone, jnp.float32)

    def start(name, index):
        settings = objectives_test.make_settings('unroll', inner_start=name)
        context = Context(backbone, settings, small.ALONE)
        phase = Phase(*np.int32([index, 1, 3]))
        return objectives.inner_of(
            context, situation._replace(phase=phase)
        ).params['kernel']

    for name in inner_problem.FROM_BEFORE:
        np.testing.assert_array_equal(start(name, 0), start('redraw', 0))
    rows = situation.variables.params['head']['kernel']
    for name in (*inner_problem.FROM_BEFORE, 'forgot'):
        np.testing.assert_array_equal(start(name, 1), rows)
    assert np.any(start('redraw', 1) != rows)


def test_images_that_cannot_be_turned_are_refused(tiny_config, one_device):
    tiny_config.exemplars.inner_start = 'forgot'
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    flat = parts.source._replace(image_shape=(8, 6, 1))
    with pytest.raises(
        ValueError, match=r'inner_start=forgot: turns images of 8x6 .*allowed: '
    ):
        components.learner_settings(parts.config, flat)
