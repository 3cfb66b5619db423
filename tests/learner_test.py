"""Learned exemplars train better models than real ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from configs import digits
from mnemonics_jax import config as config_lib
from mnemonics_jax import exemplars, experiment
from mnemonics_jax.backbones import heads
from mnemonics_jax.core.rng import Stage, draw_minibatches
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.exemplars import inner_problem, memory, stored
from mnemonics_jax.experiment import components, exemplar_stages, model_stages
from mnemonics_jax.experiment import context as context_lib
from mnemonics_jax.train.loop import ResumableLoops
from mnemonics_jax.train.metric_writer import Recorder
from mnemonics_jax.types import Variables


def test_minibatches_are_distinct_valid_positions():
    mask = jnp.array([True, False, True, True, False, True])
    drawn = np.asarray(draw_minibatches(jax.random.key(0), mask, 50, 3))
    assert drawn.shape == (50, 3)
    for row in drawn:
        assert len(set(row.tolist())) == 3
        assert set(row.tolist()) <= {0, 2, 3, 5}
    assert set(drawn.ravel().tolist()) == {0, 2, 3, 5}
    assert len({tuple(row) for row in drawn.tolist()}) > 5


def test_minibatches_larger_than_the_valid_positions_are_padded():
    mask = jnp.array([True, False, True, False, False, False])
    drawn = np.asarray(draw_minibatches(jax.random.key(0), mask, 4, 5))
    for row in drawn:
        assert sorted(row.tolist()) == [-1, -1, -1, 0, 2]
    for size in (0, 6, 9):
        everything = draw_minibatches(jax.random.key(0), mask, 2, size)
        np.testing.assert_array_equal(everything, [[0, -1, 2, -1, -1, -1]] * 2)


@pytest.fixture(scope='module')
def base_parts(one_device):
    """Digits with the bilevel preset, starting from random exemplars."""
    config = digits.get_config()
    # All ten classes: on four, a trained model leaves exemplars no room.
    config.protocol.base_classes = 10
    config.protocol.phases = 0
    config.train.epochs = 8
    config.exemplars.preset = 'bilevel'
    config.exemplars.init = 'random'
    config.exemplars.per_class = 2
    return components.build(config_lib.resolve(config), one_device)


def with_seed(parts, seed):
    """The same compiled functions under another seed."""
    config = config_dict.ConfigDict(parts.config.to_dict())
    config.seed = seed
    return parts._replace(config=config_dict.FrozenConfigDict(config))


def learn_base_phase(parts, workdir):
    """Trains phase 0 and learns its exemplars from a random draw."""
    carry = experiment.first_carry(parts)
    with Recorder(workdir, first_phase=0) as recorder:
        context = context_lib.PhaseContext(
            parts, 0, *parts.bounds[0], recorder, ResumableLoops()
        )
        data = context.examples('train', 0, context.num_seen)
        variables = model_stages.train_model(
            context, carry, carry.variables, data
        )
        images, mask = exemplar_stages.select_exemplars(
            context, variables, data
        )
        start = stored.store(parts.storage, images, mask)
        rows, report = exemplar_stages.learn_exemplars(
            context, variables, images, start, data
        )
    learned = np.asarray(to_float(rows.images))
    return context, variables, images, mask, learned, report


@pytest.fixture(scope='module')
def learned_base(base_parts, tmp_path_factory):
    """`seed -> ` the phase of that seed, learned once."""

    @functools.cache
    def learned(seed):
        folder = tmp_path_factory.mktemp(f'seed{seed}')
        return learn_base_phase(with_seed(base_parts, seed), folder)

    return learned


@pytest.mark.parametrize(
    'seed', [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))]
)
def test_learned_exemplars_lower_the_held_out_loss(learned_base, seed):
    """On each seed by at least 10 %, and pixels move by over a grey level.

    The loss is that of heads trained on the exemplars, from eight starts that
    learning never saw, on test images that nothing was fitted to.
    """
    context, variables, images, mask, learned, report = learned_base(seed)
    batch = context.parts.config.exemplars.query_batch
    held_out = context.examples('test', 0, context.num_seen)
    problem = exemplar_stages.exemplar_problem(
        context,
        variables,
        Stage.HELD_OUT_LOSS,
        0,
        exemplars.flat_exemplars(mask, (0, context.num_seen)),
    )
    learner = context.parts.learner

    def loss_of(pixels, start):
        key = jax.random.key(100 + start)
        model = exemplars.train_on_exemplars(
            learner, problem._replace(key=key), pixels
        )
        batches = context_lib.in_order(held_out, batch)
        return exemplars.held_out_loss(learner, model, problem.phase, batches)

    before, after = (
        np.mean([loss_of(pixels, start) for start in range(8)])
        for pixels in (images, learned)
    )
    assert after < 0.9 * before, (before, after)
    assert report['drift_grey_levels'] > 1
    assert learned.min() >= 0
    assert learned.max() <= 1
    # The reported loss is that of what is stored: whole grey levels.
    grey = learned * 255
    np.testing.assert_allclose(grey, np.round(grey), atol=1e-4)
    model = exemplars.train_on_exemplars(learner, problem, learned)
    batches = context_lib.in_order(held_out, batch)
    found = exemplars.held_out_loss(learner, model, problem.phase, batches)
    assert report['held_out_loss_after'] == pytest.approx(found, rel=1e-5)
    assert report['held_out_loss_after'] < report['held_out_loss_before']
    change = np.abs(learned - images).mean() * 255
    assert report['drift_grey_levels'] == pytest.approx(change, rel=1e-4)


def test_adjustment_moves_old_exemplars_and_no_others(learned_base, tmp_path):
    context, variables, images, mask, _, _ = learned_base(0)
    parts = context.parts
    source = parts.source
    empty = memory.empty(source.num_classes, 2, source.image_shape, 'uint8')
    rows = stored.store(parts.storage, images, mask).images
    held = exemplar_stages.put_rows(empty, rows, mask, np.int32(0))
    # Class 3 is not old here: its exemplars must stay as they are.
    with Recorder(tmp_path, first_phase=0) as recorder:
        context = context._replace(index=1, recorder=recorder)
        problem = exemplar_stages.exemplar_problem(
            context._replace(num_old=3), variables, Stage.ADJUST, 5
        )
        adjusted = exemplars.adjust(
            parts.learner, problem, held, context.run, per_dispatch=1
        )
    before, after = np.asarray(held.images), np.asarray(adjusted.images)
    np.testing.assert_array_equal(after[3:], before[3:])
    assert np.all(np.any(before[:3] != after[:3], axis=(2, 3, 4)))
    np.testing.assert_array_equal(held.mask, adjusted.mask)


@pytest.mark.parametrize('name', heads.HEADS)
def test_redrawn_start_replaces_the_rows_of_the_exemplars_classes(name):
    head = heads.make_head(name).init(jax.random.key(0), 5, 7)
    variables = Variables({'trunk': {}, 'head': head}, {})
    start = inner_problem.inner_start(
        jax.random.key(1), variables, jnp.array([1, 3]), 'redraw'
    )
    old, new = head['kernel'], start.params['head']['kernel']
    np.testing.assert_array_equal(new[0], old[0])
    np.testing.assert_array_equal(new[3:], old[3:])
    assert not np.any(new[1:3] == old[1:3])
    norms = [np.linalg.norm(x[1:3], axis=-1) for x in (old, new)]
    np.testing.assert_allclose(*norms, rtol=1e-5)
    same = inner_problem.inner_start(
        jax.random.key(1), variables, jnp.array([1, 3]), 'current'
    )
    assert same is variables
