"""The study of exemplars alone: packing, exact gradients, going on, flags."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import (
    from_scratch,
    packing,
    scratch_data,
    scratch_learning,
    scratch_model,
    scratch_table,
)
from experiments.scratch_settings import SETTINGS, quick
from mnemonics_jax import backbones, bilevel
from mnemonics_jax.bilevel import outer
from mnemonics_jax.data import augment


def images(num, side=8, seed=0):
    return np.random.default_rng(seed).random((num, side, side, 1), np.float32)


@pytest.mark.parametrize(('side', 'factor'), [(8, 2), (32, 3), (32, 4)])
def test_packed_images_take_the_bytes_of_one_or_less(side, factor):
    packed = packing.pack(images(factor**2, side), factor)
    assert packed.shape == (factor**2, side // factor, side // factor, 1)
    bytes_of_one = packing.stored_bytes(images(1, side))
    assert packing.stored_bytes(packed) <= bytes_of_one
    # One image more would not fit.
    more = packing.stored_bytes(packed) * (factor**2 + 2) / factor**2
    assert factor == 3 or more > bytes_of_one


def test_packing_by_two_averages_what_it_should():
    # Antialiased by a triangle two pixels wide to each side: by hand, along a
    # line 0 0 0 0 1 1 1 1 the pixels are 0, 1/8, 7/8 and 1.
    line = np.repeat([0.0, 1.0], 4).astype(np.float32)
    step = np.broadcast_to(line[None, :, None, None], (1, 8, 8, 1))
    packed = packing.pack(jnp.asarray(step), 2)[0, :, 0, 0]
    np.testing.assert_allclose(packed, [0, 1 / 8, 7 / 8, 1], atol=1e-6)


def test_unpacking_is_linear_and_keeps_the_range():
    a, b = images(3, 4, seed=1), images(3, 4, seed=2)
    both = packing.unpack(0.3 * a + 0.7 * b, (8, 8))
    apart = 0.3 * packing.unpack(a, (8, 8)) + 0.7 * packing.unpack(b, (8, 8))
    np.testing.assert_allclose(both, apart, atol=1e-6)
    assert both.shape == (3, 8, 8, 1)
    assert both.min() >= 0
    assert both.max() <= 1
    assert packing.unpack(both, (8, 8)) is both


def test_a_factor_that_leaves_no_pixel_is_refused():
    with pytest.raises(ValueError, match=r'factor=9: must be .* from 1 to 8'):
        packing.pack(images(1), 9)


def test_stored_pixels_are_grey_levels():
    levels = 255 * packing.to_levels(jnp.array([-0.1, 0.2501, 0.999, 1.2]))
    np.testing.assert_allclose(levels, [0, 64, 255, 255], atol=1e-4)


RECIPE = scratch_learning.Recipe(
    outer_steps=1,
    rate=1.0,
    scope='all',
    inner_steps=5,
    inner_rate=0.1,
    pool=1,
    most_steps=1,
    most_shown=4,
)


def small():
    backbone = backbones.from_trunk(
        scratch_model.Perceptron(4),
        num_classes=2,
        image_shape=(8, 8, 1),
        mean=(0.5,),
        std=(0.3,),
        head='linear',
    )
    return backbone, backbone.init(jax.random.key(0)).params


def state_of(pixels, weights=None):
    tx = optax.sgd(1e-3)
    return scratch_learning.State(
        outer.init_state(jnp.asarray(pixels), tx),
        None if weights is None else outer.init_state(weights, tx),
    )


def step_once(backbone, recipe, state, params, rows, labels, query):
    step = functools.partial(
        scratch_learning.outer_step,
        backbone,
        recipe,
        augment.Augmentation(),
        optax.sgd(1e-3),
    )
    key = jax.random.key(1)
    return jax.jit(step)(state, params, key, rows, labels, query)


def test_the_pixels_follow_the_central_difference_of_the_trained_head():
    backbone, params = small()
    recipe = RECIPE._replace(scope='head', inner_rate=6.0)
    start = packing.pack(images(4), 2)
    labels, rows = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 2, 3])
    judged, answers = images(6, seed=3), np.array([0, 1, 0, 1, 0, 1], np.int32)

    def loss_of(pixels):
        # A loop over NumPy arrays, in double precision.
        def embed(x):
            x = jnp.asarray(x, jnp.float32)
            variables = scratch_model.Variables(params, {})
            found = np.asarray(backbone.embed(variables, x)[0], np.float64)
            return found / np.sqrt(found.shape[1])

        shown, query = embed(packing.unpack(pixels, (8, 8))), embed(judged)
        weights = np.zeros((2, shown.shape[1] + 1))
        speed = np.zeros_like(weights)
        add_one = lambda x: np.hstack([x, np.ones((len(x), 1))])  # noqa: E731
        for _ in range(recipe.inner_steps):
            scores = np.exp(add_one(shown) @ weights.T)
            error = scores / scores.sum(1, keepdims=True) - np.eye(2)[labels]
            speed = 0.9 * speed + error.T @ add_one(shown) / len(shown)
            weights -= recipe.inner_rate * speed
        scores = add_one(query) @ weights.T
        total = np.log(np.exp(scores).sum(1))
        return np.mean(total - scores[np.arange(len(answers)), answers])

    state = state_of(start)
    query = bilevel.Query(judged, answers, np.ones(6, np.float32))
    new, loss = step_once(backbone, recipe, state, params, rows, labels, query)
    np.testing.assert_allclose(loss, loss_of(start), rtol=1e-4)
    moved = state.pixels.pixels - new.pixels.pixels
    gradient = np.asarray(moved) / 1e-3
    toward = np.sign(gradient)
    slope = (
        loss_of(start + 2e-3 * toward) - loss_of(start - 2e-3 * toward)
    ) / 4e-3
    np.testing.assert_allclose(slope, np.sum(gradient * toward), rtol=3e-2)


def test_soft_labels_follow_the_central_difference_of_the_trained_network():
    backbone, params = small()
    shown, judged = images(4), images(6, seed=3)
    labels, rows = np.array([0, 0, 1, 1], np.int32), np.arange(4)
    answers = np.array([0, 1, 0, 1, 0, 1], np.int32)
    query = bilevel.Query(judged, answers, np.ones(6, np.float32))
    recipe = RECIPE._replace(inner_rate=1.0)
    weights = jnp.array([[0.9, 0.2], [0.5, 0.5], [0.3, 0.8], [0.1, 0.6]])

    def step(weights):
        state = state_of(shown, weights)
        return step_once(backbone, recipe, state, params, rows, labels, query)

    new, _ = step(weights)
    gradient = np.asarray(weights - new.weights.pixels) / 1e-3
    toward = np.sign(gradient)
    slope = (
        step(weights + 0.02 * toward)[1] - step(weights - 0.02 * toward)[1]
    ) / 0.04
    assert slope > 1e-3
    np.testing.assert_allclose(slope, np.sum(gradient * toward), rtol=3e-2)
    # Labels that say one class teach as hard ones.
    certain = jax.nn.one_hot(labels, 2)
    hard = step_once(
        backbone, recipe, state_of(shown), params, rows, labels, query
    )
    sure = step(certain)
    np.testing.assert_allclose(sure[1], hard[1], rtol=1e-6)
    np.testing.assert_allclose(
        sure[0].pixels.pixels, hard[0].pixels.pixels, rtol=1e-6
    )


def test_soft_labels_are_stored_in_a_byte_for_each_class(monkeypatch):
    """And networks are trained on what was stored."""
    data = scratch_data.load(scratch_data.source_of('digits'), seed=7)
    bench = from_scratch.Bench(data, quick(SETTINGS['digits']), 7)
    weights = np.full((10, 10), 0.001, np.float32)
    weights[np.arange(10), np.arange(10)] = 0.502
    monkeypatch.setattr(
        scratch_learning,
        'learn',
        lambda *args, soft_labels: scratch_learning.Learned(
            args[4], weights, [0.0]
        ),
    )
    taught = []
    monkeypatch.setattr(
        bench, '_train_and_test', lambda pixels, labels: taught.append(labels)
    )
    row = from_scratch.ROWS[-1]
    assert row.name == 'mnemonics, soft labels'
    assert bench.case(row, 1, [])['bytes_per_class'] == 64 + 10
    np.testing.assert_allclose(taught[0], np.eye(10), atol=1e-6)


def test_scope_all_is_plain_training_of_all_parameters():
    backbone, params = small()
    shown, judged = images(4), images(6, seed=3)
    labels = np.array([0, 0, 1, 1], np.int32)
    answers = np.array([0, 1, 0, 1, 0, 1], np.int32)

    def loss_of(params, x, y):
        scores = scratch_model.logits(backbone, params, x)
        chosen = jax.nn.log_softmax(scores)[jnp.arange(len(y)), y]
        return -jnp.mean(chosen)

    trained, tx = params, optax.sgd(0.1, 0.9)
    opt_state = tx.init(params)
    for _ in range(RECIPE.inner_steps):
        grads = jax.grad(loss_of)(trained, shown, labels)
        updates, opt_state = tx.update(grads, opt_state)
        trained = optax.apply_updates(trained, updates)
    state = state_of(shown)
    query = bilevel.Query(judged, answers, np.ones(6, np.float32))
    rows = np.arange(4)
    _, loss = step_once(backbone, RECIPE, state, params, rows, labels, query)
    expected = loss_of(trained, judged, answers)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert abs(expected - loss_of(params, judged, answers)) > 1e-2


@pytest.mark.parametrize(
    ('most_steps', 'is_fresh'), [(1, True), (10**6, False)]
)
def test_networks_of_a_pool_are_replaced_at_their_age(most_steps, is_fresh):
    backbone, _ = small()
    recipe = RECIPE._replace(most_steps=most_steps)
    training = scratch_model.Training(1, 0.01, 4, augment.Augmentation())
    generator = np.random.default_rng(0)
    pool = scratch_learning.Pool(
        backbone, training, recipe, generator, jax.random.key(0)
    )
    place, before = pool.draw()
    labels = np.array([0, 0, 1, 1], np.int32)
    pool.train(place, jax.random.key(1), jnp.asarray(images(4)), labels)
    _, after = pool.draw()
    moved = jnp.abs(after['head']['kernel'] - before['head']['kernel']).max()
    assert moved > 0
    assert (moved > 0.1) == is_fresh


def test_each_class_shows_as_many_exemplars_and_batches_repeat_none():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    rows = scratch_learning.draw_rows(generator, labels, 2)
    assert np.bincount(labels[rows]).tolist() == [2, 2, 2]
    assert len(set(rows)) == 6
    assert len(scratch_learning.draw_rows(generator, labels, 9)) == 15
    for batch in scratch_model.batches(generator, 7, 3, 4):
        assert len(set(batch)) == 3


def test_learning_from_random_beats_random_on_digits():
    data = scratch_data.load(scratch_data.source_of('digits'), seed=7)
    settings = quick(SETTINGS['digits'])
    settings = settings._replace(
        training=settings.training._replace(steps=100),
        learning=settings.learning._replace(
            outer_steps=100, rate=0.03, inner_steps=15, queries=128
        ),
    )
    bench = from_scratch.Bench(data, settings, 7)
    cases = {
        row.strategy: bench.case(row, 1, [])
        for row in from_scratch.ROWS
        if not (row.packed or row.soft) and row.strategy != 'herding'
    }
    learned, drawn = cases['mnemonics'], cases['random']
    assert learned['accuracies'][0] > drawn['accuracies'][0] + 0.1
    assert learned['outer_loss_last'] < learned['outer_loss_first'] - 0.1
    assert learned['drift_grey_levels'] > 1
    assert not drawn['drift_grey_levels']
    assert learned['bytes_per_class'] == drawn['bytes_per_class'] == 64


def a_case(seed, row, accuracies, per_class=1):
    return {
        'seed': seed,
        'per_class': per_class,
        'row': row,
        'accuracies': accuracies,
        'drift_grey_levels': 1.5,
        'bytes_per_class': 64,
        'seconds': 2.0,
    }


def test_differences_are_paired_by_seed_and_have_student_s_interval():
    cases = [
        a_case(0, 'random', [0.5, 0.3]),
        a_case(1, 'random', [0.2]),
        a_case(2, 'random', [0.9]),
        a_case(0, 'mnemonics', [0.6]),
        a_case(1, 'mnemonics', [0.3]),
    ]
    ours = scratch_table.accuracies(cases, 'mnemonics', 1)
    theirs = scratch_table.accuracies(cases, 'random', 1)
    found = scratch_table.difference(ours, theirs)
    # Of 0.2 and 0.1: t of one degree of freedom is 12.706.
    assert found['mean'] == pytest.approx(0.15)
    assert found['n'] == 2
    assert found['high'] == pytest.approx(0.15 + 12.706 * 0.05, rel=1e-3)


@pytest.fixture
def shortest(monkeypatch):
    """One case of all images and one row."""
    monkeypatch.setattr(from_scratch, 'ROWS', from_scratch.ROWS[:1])


def test_the_same_command_resumes_and_the_table_has_each_case(
    tmp_path, shortest, capsys
):
    flags = ['--quick', f'--out={tmp_path}', '--seeds=3', '--per-class=1']
    from_scratch.main(flags)
    file = tmp_path / 'from_scratch_digits.json'
    first = json.loads(file.read_text())
    assert [case['row'] for case in first['cases']] == ['all images', 'random']
    # What was finished is not done again: a change to it stays.
    first['cases'][0]['accuracies'] = [0.125]
    file.write_text(json.dumps({**first, 'cases': first['cases'][:1]}))
    from_scratch.main(flags)
    again = json.loads(file.read_text())
    assert again['cases'][0]['accuracies'] == [0.125]
    # And the rest comes out as before.
    kept = [case['accuracies'] for case in first['cases'][1:]]
    assert [case['accuracies'] for case in again['cases'][1:]] == kept
    table = file.with_suffix('.md').read_text()
    assert '| all | 8620 | all images | 12.5 |' in table
    assert 'seed 3, 1 a class, random' in capsys.readouterr().out


def test_results_of_other_settings_are_not_mixed_in(tmp_path, shortest, capsys):
    file = tmp_path / 'from_scratch_digits.json'
    file.write_text(json.dumps({'config': {'factor': 9}}))
    with pytest.raises(SystemExit) as left:
        from_scratch.main(['--quick', f'--out={tmp_path}'])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert 'other settings' in error
