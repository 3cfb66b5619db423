"""Heads, and what happens to their rows, against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.backbones import heads

NUM_CLASSES, NUM_FEATURES = 6, 5
HEADS = ('cosine', 'linear', 'local_similarity')


def make(name, seed=0):
    """Parameters of a head whose rows have quite different norms."""
    init, _ = heads.make_head(name)
    params = init(jax.random.key(seed), NUM_CLASSES, NUM_FEATURES)
    kernel = params['kernel']
    factors = jnp.arange(1.0, kernel[..., 0].size + 1)
    factors = factors.reshape(*kernel.shape[:-1], 1)
    return {**params, 'kernel': kernel * factors}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name
        )


def as_numpy(params):
    return {name: np.array(value) for name, value in params.items()}


def test_cosine_scores_and_scale():
    params = {**make('cosine'), 'sigma': jnp.float32(3.0)}
    features = jax.random.normal(jax.random.key(1), (4, NUM_FEATURES))
    logits, scores = heads.make_head('cosine').apply(params, features)
    expected = np.zeros((4, NUM_CLASSES))
    for i, f in enumerate(np.asarray(features)):
        for k, row in enumerate(np.asarray(params['kernel'])):
            norms = np.linalg.norm(f) * np.linalg.norm(row)
            expected[i, k] = np.dot(f, row) / norms
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(logits, 3 * expected, atol=1e-5)


def test_local_similarity_weighs_the_proxies_of_a_class():
    params = {**make('local_similarity'), 'sigma': jnp.float32(3.0)}
    features = jax.random.normal(jax.random.key(1), (4, NUM_FEATURES))
    logits, scores = heads.make_head('local_similarity').apply(params, features)
    expected = np.zeros((4, NUM_CLASSES))
    for i, f in enumerate(np.asarray(features)):
        for k, proxies in enumerate(np.asarray(params['kernel'])):
            similarities = [
                -sum((f / np.linalg.norm(f) - p / np.linalg.norm(p)) ** 2)
                for p in proxies
            ]
            total = sum(np.exp(each) for each in similarities)
            for each in similarities:
                expected[i, k] += np.exp(each) / total * each
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(logits, 3 * expected, atol=1e-5)


def test_local_similarity_with_equal_proxies_is_cosine_but_for_its_range():
    cosine = make('cosine')
    proxies = jnp.stack([cosine['kernel'], 2 * cosine['kernel']], axis=1)
    features = jax.random.normal(jax.random.key(1), (4, NUM_FEATURES))
    _, found = heads.make_head('local_similarity').apply(
        {**cosine, 'kernel': proxies}, features
    )
    _, cosines = heads.make_head('cosine').apply(cosine, features)
    np.testing.assert_allclose(found, 2 * cosines - 2, atol=1e-6)


@pytest.mark.parametrize('name', ['cosine', 'local_similarity'])
def test_cosines_are_finite_at_a_feature_of_zeros(name):
    apply = heads.make_head(name).apply
    params = make(name)

    def loss(features):
        return jnp.sum(apply(params, features)[0] ** 2)

    zeros = jnp.zeros((2, NUM_FEATURES))
    first = jax.grad(loss)(zeros)
    second = jax.grad(lambda f: jnp.sum(jax.grad(loss)(f) ** 2))(zeros)
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()


def test_linear_logits_are_scores():
    params = make('linear')
    features = jax.random.normal(jax.random.key(1), (4, NUM_FEATURES))
    logits, scores = heads.make_head('linear').apply(params, features)
    expected = features @ params['kernel'].T + params['bias']
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    np.testing.assert_array_equal(logits, scores)


@pytest.mark.parametrize('name', HEADS)
def test_float64_stays_float64(name):
    with jax.enable_x64(True):
        head = heads.make_head(name)
        params = head.init(jax.random.key(0), NUM_CLASSES, NUM_FEATURES)
        for leaf in params.values():
            assert leaf.dtype == jnp.float32
        params = jax.tree.map(lambda leaf: leaf.astype('float64'), params)
        features = jnp.ones((2, NUM_FEATURES), 'float64')
        for leaf in head.apply(params, features):
            assert leaf.dtype == jnp.float64


@pytest.mark.parametrize('name', HEADS)
def test_initial_values(name):
    params = heads.make_head(name).init(jax.random.key(0), 100, 64)
    rows = heads.row_params(params)
    for value in rows.values():
        assert value.dtype == jnp.float32
        assert 0.9 / 8 < jnp.abs(value).max() <= 1 / 8
    proxies = (heads.NUM_PROXIES,) if name == 'local_similarity' else ()
    assert params['kernel'].shape == (100, *proxies, 64)
    # The standard deviation of a uniform distribution is its width / sqrt(12).
    np.testing.assert_allclose(
        params['kernel'].std(), 0.25 / 12**0.5, rtol=0.03
    )
    assert params.get('sigma', 1.0) == 1.0


def test_unknown_head_names_the_known_ones():
    with pytest.raises(
        ValueError, match="head='dot': must be one of cosine, linear"
    ):
        heads.make_head('dot')


def test_row_params_are_all_but_sigma():
    assert set(heads.row_params(make('cosine'))) == {'kernel'}
    assert set(heads.row_params(make('local_similarity'))) == {'kernel'}
    assert set(heads.row_params(make('linear'))) == {'kernel', 'bias'}


@pytest.mark.parametrize(('low', 'high'), [(0, 0), (0, 2), (2, 5), (4, 9)])
def test_rows_between(low, high):
    expected = [low <= row < high for row in range(NUM_CLASSES)]
    rows = jax.jit(heads.rows_between, static_argnums=0)(NUM_CLASSES, low, high)
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize('name', HEADS)
def test_redraw_keeps_norms_and_other_rows(name):
    head = make(name)
    key = jax.random.key(7)
    fresh = jax.jit(heads.redraw_rows)(key, head, 2, 5)
    norms = np.linalg.norm(head['kernel'], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(fresh['kernel'], axis=-1), norms, rtol=1e-5
    )
    cosines = np.sum(fresh['kernel'] * head['kernel'], axis=-1) / norms**2
    assert (cosines[2:5] < 0.99).all()
    expected = as_numpy(head)
    expected['kernel'][2:5] = fresh['kernel'][2:5]
    if 'bias' in expected:
        expected['bias'][2:5] = 0
    assert_same(fresh, expected)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_redrawn_directions_come_from_float32_draws(dtype):
    key, (low, high) = jax.random.key(3), (1, 4)
    expected = np.asarray(jax.random.normal(key, (6, 5), jnp.float32), float)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with jax.enable_x64(dtype == 'float64'):
        head = {'kernel': jnp.eye(6, 5, dtype=dtype)}
        found = heads.redraw_rows(key, head, low, high)['kernel']
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found[low:high], expected[low:high], rtol=0, atol=1e-6
    )


def test_redrawn_directions_are_isotropic():
    ones = {'kernel': jnp.ones((4000, 3)), 'sigma': jnp.ones(())}
    rows = heads.redraw_rows(jax.random.key(0), ones, 0, 4000)['kernel']
    # Rows of squared norm 3 in 3 dimensions: mean 0 and covariance 1.
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(rows.T), np.eye(3), atol=0.06)


def test_redraw_is_differentiable_through_the_norms():
    head = make('cosine')
    key = jax.random.key(7)

    def squared_norms(kernel):
        fresh = heads.redraw_rows(key, {**head, 'kernel': kernel}, 2, 5)
        return jnp.sum(fresh['kernel'] ** 2)

    # The norms are kept, so this is the sum of squares of the old kernel.
    grads = jax.grad(squared_norms)(head['kernel'])
    np.testing.assert_allclose(grads, 2 * head['kernel'], rtol=1e-5)


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize(('num_old', 'num_seen'), [(0, 2), (2, 5), (5, 6)])
def test_imprint(name, num_old, num_seen):
    head = make(name)
    # A centre for each row, or for each of its proxies.
    centres = 3 * jax.random.normal(jax.random.key(1), head['kernel'].shape)
    expected = as_numpy(head)
    averaged = expected['kernel'][: num_old or NUM_CLASSES]
    norm = np.mean(np.linalg.norm(averaged, axis=-1))
    for row in range(num_old, num_seen):
        centre = np.asarray(centres[row])
        lengths = np.linalg.norm(centre, axis=-1, keepdims=True)
        expected['kernel'][row] = norm * centre / lengths
        if 'bias' in expected:
            expected['bias'][row] = 0
    assert_same(
        jax.jit(heads.imprint)(head, centres, num_old, num_seen), expected
    )


def test_proxies_part_in_training_unless_they_are_alike():
    init, apply = heads.make_head('local_similarity')
    head = init(jax.random.key(0), 3, NUM_FEATURES)
    apart = jax.random.normal(jax.random.key(1), head['kernel'].shape)
    alike = jnp.broadcast_to(apart[:, :1], apart.shape)
    feature = jax.random.normal(jax.random.key(2), (1, NUM_FEATURES))

    @jax.jit
    def gradients(centres):
        head_at = heads.imprint(head, centres, 0, 3)
        grads = jax.grad(lambda h: apply(h, feature)[0][0, 1])(head_at)
        return grads['kernel'][1]

    assert np.ptp(gradients(alike), axis=0).max() < 1e-6
    found = gradients(apart)
    assert np.ptp(found, axis=0).max() > 0.1 * np.abs(found).max()


@pytest.mark.parametrize('name', HEADS)
def test_row_mask_updates(name):
    updates = make(name)
    expected = as_numpy(updates)
    for row in range(NUM_CLASSES):
        if not 2 <= row < 4:
            for param in heads.row_params(expected).values():
                param[row] = 0
    assert_same(jax.jit(heads.row_mask_updates)(updates, 2, 4), expected)
