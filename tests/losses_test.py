"""Tests of mnemonics_jax.losses against loops over examples and classes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mnemonics_jax import losses

B, K, D = 6, 7, 5

cross_entropy = jax.jit(losses.cross_entropy)
distillation = jax.jit(losses.distillation)
less_forget = jax.jit(losses.less_forget)
margin_ranking = jax.jit(
    losses.margin_ranking, static_argnames=('margin', 'top_k')
)
nca = jax.jit(losses.nca)
pod_spatial = jax.jit(losses.pod_spatial)


def normal(shape, seed, scale=1.0):
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype(np.float32)


def labels_below(count, seed=9):
    labels = np.random.default_rng(seed).integers(0, count, B)
    return labels.astype(np.int32)


def gradient(loss, values, *args, **settings):
    """Gradient of the sum over examples in the first argument."""
    total = jax.jit(
        jax.grad(lambda values, *args: loss(values, *args, **settings).sum())
    )
    return np.asarray(total(values, *args))


def log_softmax_by_loop(logits, count):
    """Log probabilities of the first `count` classes, a list."""
    top = max(logits[:count])
    total = sum(math.exp(logits[k] - top) for k in range(count))
    return [logits[k] - top - math.log(total) for k in range(count)]


def kl_by_loop(logits, ref_logits, count, temperature):
    """Elements p (log p - log q) of the divergence, [B][count]."""
    elements = []
    for b in range(len(logits)):
        q = log_softmax_by_loop(logits[b] / temperature, count)
        p = log_softmax_by_loop(ref_logits[b] / temperature, count)
        elements.append([math.exp(p[k]) * (p[k] - q[k]) for k in range(count)])
    return elements


# Masking.


def test_mask_keeps_a_prefix_and_stays_finite():
    logits = normal((B, K), 0)
    for count in range(K + 1):
        found = np.asarray(losses.mask_logits(logits, count))
        np.testing.assert_array_equal(found[:, :count], logits[:, :count])
        assert np.all(found[:, count:] == -1e9)


def test_mask_takes_any_leading_axes():
    logits = normal((3, B, K), 0)
    found = losses.mask_logits(logits, 2)
    each = np.stack([losses.mask_logits(part, 2) for part in logits])
    np.testing.assert_array_equal(found, each)


# Cross entropy.


@pytest.mark.parametrize('num_seen', [1, 3, K])
def test_cross_entropy_equals_a_loop(num_seen):
    logits, labels = normal((B, K), 1, 3), labels_below(num_seen)
    expected = [
        -log_softmax_by_loop(logits[b].astype(np.float64), num_seen)[labels[b]]
        for b in range(B)
    ]
    found = cross_entropy(logits, labels, num_seen)
    assert found.shape == (B,)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('num_seen', [1, 3, K])
def test_gradient_of_cross_entropy_is_softmax_minus_one_hot(num_seen):
    logits, labels = normal((B, K), 1, 3), labels_below(num_seen)
    expected = np.zeros((B, K))
    for b in range(B):
        log_probs = log_softmax_by_loop(logits[b].astype(float), num_seen)
        expected[b, :num_seen] = np.exp(log_probs)
        expected[b, labels[b]] -= 1
    found = gradient(cross_entropy, logits, labels, num_seen)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.all(found[:, num_seen:] == 0)


def test_cross_entropy_ignores_the_logits_of_unseen_classes():
    logits, labels = normal((B, K), 1), labels_below(3)
    changed = logits.copy()
    changed[:, 3:] += 1e6
    np.testing.assert_array_equal(
        cross_entropy(logits, labels, 3), cross_entropy(changed, labels, 3)
    )


def test_cross_entropy_is_finite_at_extreme_logits():
    labels = labels_below(4)
    logits = 1e8 * np.sign(normal((B, K), 2))
    values = np.asarray(cross_entropy(logits, labels, 4))
    tops = logits[:, :4].max(1)
    hits = logits[np.arange(B), labels] == tops
    assert hits.any()
    assert not hits.all()
    np.testing.assert_allclose(values[~hits], 2e8)
    assert np.all(values[hits] <= np.log(4) + 1e-6)
    found = gradient(cross_entropy, logits, labels, 4)
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-6)


def test_cross_entropy_is_differentiable_twice():
    with jax.enable_x64(True):
        logits = jnp.asarray(normal((2, 4), 3), jnp.float64)
        labels = jnp.array([0, 2])
        # Of the gradient, which the test above knows in closed form.
        slopes = jax.grad(lambda x: losses.cross_entropy(x, labels, 3).sum())
        check_grads(jax.jit(slopes), (logits,), order=1, modes=['rev'])


# Distillation.


@pytest.mark.parametrize('num_old', [0, 1, 4, K])
def test_distillation_equals_a_loop(num_old):
    logits, ref_logits = normal((B, K), 4, 3), normal((B, K), 5, 3)
    expected = (
        [
            sum(elements)
            for elements in kl_by_loop(logits, ref_logits, num_old, 2.0)
        ]
        if num_old
        else np.zeros(B)
    )
    found = distillation(logits, ref_logits, num_old)
    assert found.shape == (B,)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('num_old', [1, 4, K])
def test_distillation_is_the_form_of_the_papers_code(num_old):
    """beta T^2 K mean over batch * K elements, beta 1/4, T 2, K old classes."""
    logits, ref_logits = normal((B, K), 4, 3), normal((B, K), 5, 3)
    elements = kl_by_loop(logits, ref_logits, num_old, 2.0)
    expected = 0.25 * 2.0**2 * num_old * np.mean(elements)
    found = np.mean(distillation(logits, ref_logits, num_old))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_distillation_is_cross_entropy_less_the_entropy_of_the_reference():
    logits, ref_logits = normal((B, K), 4), normal((B, K), 5)
    for b, found in enumerate(distillation(logits, ref_logits, 4)):
        log_q = np.array(log_softmax_by_loop(logits[b] / 2, 4))
        log_p = np.array(log_softmax_by_loop(ref_logits[b] / 2, 4))
        eq_3 = -(np.exp(log_p) * log_q).sum()
        entropy = -(np.exp(log_p) * log_p).sum()
        np.testing.assert_allclose(found, eq_3 - entropy, atol=1e-6)


def test_distillation_from_oneself_is_zero_and_flat():
    logits = normal((B, K), 6, 5)
    shifted = logits + normal((B, 1), 7)
    values = distillation(logits, shifted, 5)
    np.testing.assert_allclose(values, 0, atol=1e-6)
    found = gradient(distillation, logits, shifted, 5)
    np.testing.assert_allclose(found, 0, atol=1e-6)


@pytest.mark.parametrize('temperature', [0.5, 3.0])
def test_temperature_divides_both_logits(temperature):
    logits, ref_logits = normal((B, K), 4), normal((B, K), 5)
    found = distillation(
        temperature * logits, temperature * ref_logits, 4, temperature
    )
    expected = distillation(logits, ref_logits, 4, 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(expected, distillation(logits, ref_logits, 4, 2.0))


@pytest.mark.parametrize('num_old', [0, 1, 4, K])
def test_new_classes_get_no_gradient_from_distillation(num_old):
    logits, ref_logits = normal((B, K), 4), normal((B, K), 5)
    found = gradient(distillation, logits, ref_logits, num_old)
    assert np.all(found[:, num_old:] == 0)
    if num_old > 1:
        assert np.all(found[:, :num_old] != 0)


def test_distillation_is_finite_at_extreme_logits():
    logits, ref_logits = (1e8 * np.sign(normal((B, K), s)) for s in (4, 5))
    for num_old in (0, 4, K):
        values = distillation(logits, ref_logits, num_old)
        assert np.all(np.isfinite(values))
        assert np.all(values >= 0)
        found = gradient(distillation, logits, ref_logits, num_old)
        assert np.all(np.isfinite(found))


def test_distillation_is_differentiable_twice():
    with jax.enable_x64(True):
        logits, ref_logits = (
            jnp.asarray(normal((2, 4), seed), jnp.float64) for seed in (4, 5)
        )
        check_grads(
            jax.jit(lambda x: losses.distillation(x, ref_logits, 3)),
            (logits,),
            order=2,
            modes=['rev'],
        )


# Less-forget.


def test_less_forget_equals_a_loop():
    features, ref_features = normal((B, D), 6), normal((B, D), 7)
    expected = []
    for f, r in zip(features, ref_features, strict=True):
        dot = sum(float(f[i]) * float(r[i]) for i in range(D))
        lengths = math.hypot(*map(float, f)) * math.hypot(*map(float, r))
        expected.append(1 - dot / lengths)
    found = less_forget(features, ref_features)
    assert found.shape == (B,)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_less_forget_sees_directions_only():
    features, ref_features = normal((B, D), 6), normal((B, D), 7)
    lengths = np.linspace(0.1, 100, B, dtype=np.float32)[:, None]
    np.testing.assert_allclose(
        less_forget(lengths * features, ref_features),
        less_forget(features, ref_features),
        atol=1e-5,
    )
    np.testing.assert_allclose(less_forget(features, features), 0, atol=1e-6)
    np.testing.assert_allclose(less_forget(features, -features), 2, atol=1e-6)


def test_gradient_of_less_forget_is_orthogonal_to_the_feature():
    features, ref_features = normal((B, D), 6), normal((B, D), 7)
    found = gradient(less_forget, features, ref_features)
    np.testing.assert_allclose((found * features).sum(1), 0, atol=1e-6)
    assert np.all(np.abs(found).max(1) > 1e-3)


@pytest.mark.parametrize('zero', ['features', 'reference', 'both'])
def test_less_forget_at_a_zero_feature(zero):
    features, ref_features = normal((B, D), 6), normal((B, D), 7)
    if zero != 'reference':
        features = np.zeros_like(features)
    if zero != 'features':
        ref_features = np.zeros_like(ref_features)
    np.testing.assert_array_equal(less_forget(features, ref_features), 1)
    found = gradient(less_forget, features, ref_features)
    assert np.all(np.isfinite(found))
    # As in phase 0, when there is no reference: nothing to learn from.
    assert np.all(found == 0) == (zero != 'features')
    hessian = jax.jit(jax.hessian(lambda f: less_forget(f, ref_features).sum()))
    assert np.all(np.isfinite(hessian(features)))


def test_less_forget_is_differentiable_twice():
    with jax.enable_x64(True):
        features, ref_features = (
            jnp.asarray(normal((2, 3), seed), jnp.float64) for seed in (6, 7)
        )
        check_grads(
            jax.jit(lambda f: losses.less_forget(f, ref_features)),
            (features,),
            order=2,
            modes=['rev'],
        )


# Margin ranking.


def rivals_by_loop(scores, num_old, num_seen, top_k):
    """The new classes with the highest scores, best first."""
    new = sorted(range(num_old, num_seen), key=lambda k: -scores[k])
    return new[:top_k]


def margin_by_loop(scores, labels, num_old, num_seen, margin, top_k):
    """Values [B] and gradient [B, K] of their sum."""
    values, grads = np.zeros(len(labels)), np.zeros(scores.shape)
    for b, truth in enumerate(labels):
        rivals = rivals_by_loop(scores[b], num_old, num_seen, top_k)
        for k in rivals:
            hinge = margin - float(scores[b, truth]) + float(scores[b, k])
            if hinge > 0:
                values[b] += hinge / len(rivals)
                grads[b, truth] -= 1 / len(rivals)
                grads[b, k] += 1 / len(rivals)
    return values, grads


@pytest.mark.parametrize(
    ('num_old', 'num_seen'),
    # Four new classes, two, one (fewer than top_k), none, and no old ones.
    [(3, 7), (2, 4), (3, 4), (4, 4), (0, 5)],
)
@pytest.mark.parametrize(('margin', 'top_k'), [(0.5, 2), (0.3, 9)])
def test_margin_ranking_equals_a_loop(num_old, num_seen, margin, top_k):
    scores = np.tanh(normal((B, K), 8, 0.5))
    labels = labels_below(max(num_old, 1))
    args = (scores, labels, num_old, num_seen)
    values, grads = margin_by_loop(*args, margin, top_k)
    found = margin_ranking(*args, margin=margin, top_k=top_k)
    assert found.shape == (B,)
    np.testing.assert_allclose(found, values, atol=1e-6)
    found = gradient(margin_ranking, *args, margin=margin, top_k=top_k)
    np.testing.assert_allclose(found, grads, atol=1e-6)
    assert np.all(found[grads == 0] == 0)
    if 0 < num_old < num_seen:
        assert np.any(values > 0)


def test_margin_ranking_by_hand():
    scores = np.float32([[0.9, 0.0, 0.6, 0.5, 0.2, 0.99]])
    # Old classes 0 and 1, new 2 to 4, unseen 5; rivals 0.6 and 0.5.
    found = margin_ranking(scores, np.int32([0]), 2, 5)
    np.testing.assert_allclose(found, [(0.2 + 0.1) / 2], atol=1e-6)
    found = margin_ranking(scores, np.int32([0]), 2, 5, top_k=1)
    np.testing.assert_allclose(found, [0.2], atol=1e-6)
    # 0.45 away from its one rival and nothing to say against none at all.
    found = margin_ranking(scores, np.int32([0]), 4, 5, margin=0.75)
    np.testing.assert_allclose(found, [0.05], atol=1e-6)
    found = margin_ranking(scores, np.int32([0]), 5, 5)
    np.testing.assert_array_equal(found, [0])


def test_margin_ranking_is_zero_and_flat_beyond_the_margin():
    scores = np.full((B, K), -0.5, np.float32)
    scores[:, :3] = 0.5
    args = (scores, labels_below(3), 3, K)
    np.testing.assert_array_equal(margin_ranking(*args), 0)
    np.testing.assert_array_equal(gradient(margin_ranking, *args), 0)


def test_margin_ranking_is_differentiable():
    with jax.enable_x64(True):
        scores = jnp.asarray(np.tanh(normal((3, 6), 8, 0.5)), jnp.float64)
        labels = jnp.array([0, 1, 1])
        check_grads(
            jax.jit(lambda s: losses.margin_ranking(s, labels, 2, 5)),
            (scores,),
            order=1,
            modes=['rev'],
        )


# PODNet's NCA.


def nca_by_loop(scores, sigma, labels, num_seen, margin):
    """The steps of the authors' code, one example at a time.

    Their margin goes to all scores. Logits are shifted by the largest, and the
    true class's place in the sum is set to 0, which is then the largest.
    """
    values = []
    for b, truth in enumerate(labels):
        logits = [sigma * (scores[b, k] - margin) for k in range(num_seen)]
        logits = [o - max(logits) for o in logits]
        in_sum = [0 if k == truth else o for k, o in enumerate(logits)]
        total = sum(math.exp(o) for o in in_sum)
        values.append(-(logits[truth] - math.log(total)))
    return np.array(values)


@pytest.mark.parametrize('num_seen', [2, 4, K])
@pytest.mark.parametrize(('sigma', 'margin'), [(1.0, 0.6), (9.0, 0.0)])
def test_nca_equals_a_loop(num_seen, sigma, margin):
    scores, labels = np.tanh(normal((B, K), 1)), labels_below(num_seen)
    # So that the true class is the largest of some and not of others.
    labels[::2] = scores[::2, :num_seen].argmax(1)
    labels[1] = scores[1, :num_seen].argmin()
    found = nca(sigma * scores, labels, num_seen)
    args = (scores.astype(float), sigma, labels, num_seen, margin)
    assert found.shape == (B,)
    np.testing.assert_allclose(found, nca_by_loop(*args), rtol=1e-5, atol=1e-5)
    grads = gradient(nca, sigma * scores, labels, num_seen)
    assert np.all(grads[:, num_seen:] == 0)


def test_nca_by_hand():
    logits = np.float32([[0.5, 0.1, 0.3, 0.9], [0.5, 0.1, 0.3, 0.9]])
    first = math.log(math.exp(0.1) + math.exp(0.3) + math.exp(0.5)) - 0.5
    second = math.log(math.exp(0.3) + 2 * math.exp(0.5)) - 0.1
    found = nca(logits, np.int32([0, 1]), 3)  # The last class is not seen.
    np.testing.assert_allclose(found, [first, second], rtol=1e-5)


@pytest.mark.parametrize(('count', 'num_seen'), [(K, 1), (1, 1)])
def test_nca_of_a_single_class_is_zero_and_flat(count, num_seen):
    logits, labels = normal((B, count), 1), np.zeros(B, np.int32)
    np.testing.assert_array_equal(nca(logits, labels, num_seen), 0)
    found = gradient(nca, logits, labels, num_seen)
    np.testing.assert_array_equal(found, 0)


def test_nca_is_finite_at_extreme_scales():
    scores, labels = np.tanh(normal((B, K), 1)), labels_below(4)
    for sigma in (-1e6, 0.0, 1e6):
        assert np.all(np.isfinite(nca(sigma * scores, labels, 4)))
        assert np.all(np.isfinite(gradient(nca, sigma * scores, labels, 4)))


def test_nca_is_differentiable():
    with jax.enable_x64(True):
        logits = jnp.asarray(normal((3, 5), 8), jnp.float64)
        labels = jnp.array([0, 1, 3])
        check_grads(
            jax.jit(lambda o: losses.nca(o, labels, 4)),
            (logits,),
            order=2,
            modes=['rev'],
        )


# PODNet's pooled outputs.

SHAPES = ((4, 5, 3), (2, 3, 4))


def make_maps(seed, dtype=np.float32):
    """Maps of two stages, whose height, width and channels differ."""
    return tuple(
        normal((B, *shape), seed + i).astype(dtype)
        for i, shape in enumerate(SHAPES)
    )


def profile_by_loop(feature_map):
    """Unit sums of the squares [h, w, c] along rows and along columns."""
    height, width, channels = feature_map.shape
    sums = []
    for c in range(channels):
        for i in range(height):
            row = [feature_map[i, j, c] for j in range(width)]
            sums.append(sum(float(value) ** 2 for value in row))
        for j in range(width):
            column = [feature_map[i, j, c] for i in range(height)]
            sums.append(sum(float(value) ** 2 for value in column))
    return np.array(sums) / math.hypot(*sums)


def test_pod_spatial_equals_a_loop():
    maps, ref_maps = make_maps(10), make_maps(20)
    expected = np.zeros(B)
    for ours, theirs in zip(maps, ref_maps, strict=True):
        for b in range(B):
            change = profile_by_loop(ours[b]) - profile_by_loop(theirs[b])
            expected[b] += math.hypot(*change) / len(maps)
    found = pod_spatial(maps, ref_maps)
    assert found.shape == (B,)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pod_spatial_sees_neither_signs_nor_lengths():
    maps, ref_maps = make_maps(10), make_maps(20)
    found = pod_spatial((-3 * maps[0], 0.2 * maps[1]), ref_maps)
    np.testing.assert_allclose(found, pod_spatial(maps, ref_maps), rtol=1e-4)


def test_pod_spatial_sees_where_and_in_which_channel():
    spots = np.zeros((4, 3, 3, 2), np.float32)
    for b, spot in enumerate([(0, 1, 0), (0, 1, 0), (2, 1, 0), (0, 1, 1)]):
        spots[(b, *spot)] = b + 1
    # One row and one column each: the same, another row, another channel.
    origin = (np.repeat(spots[:1], 4, axis=0),)
    found = pod_spatial((spots,), origin)
    np.testing.assert_allclose(found, [0, 0, 1, 2**0.5], atol=1e-5)


@pytest.mark.parametrize('ours', ['zeros', 'ones', 'tiny'])
@pytest.mark.parametrize('theirs', ['zeros', 'ones', 'the same'])
def test_pod_spatial_is_finite_at_zero_distance_and_zero_maps(ours, theirs):
    values = {'zeros': 0, 'ones': 1, 'tiny': 1e-6}
    values['the same'] = values[ours]
    one, other = (
        tuple(np.full((B, *s), values[name], np.float32) for s in SHAPES)
        for name in (ours, theirs)
    )
    found = pod_spatial(one, other)
    assert np.all(np.isfinite(found))
    if theirs in (ours, 'the same'):
        np.testing.assert_allclose(found, 0, atol=1e-5)
    # Step by step: compiled as one, both sides may round differently.
    total = jax.grad(lambda maps: pod_spatial(maps, other).sum())
    for grads in total(one):
        assert np.all(np.isfinite(grads))
        if theirs == 'the same':
            np.testing.assert_array_equal(grads, 0)


def test_pod_spatial_is_differentiable_twice():
    with jax.enable_x64(True):
        maps, ref_maps = (
            jax.tree.map(lambda m: m[:2], make_maps(seed, np.float64))
            for seed in (10, 20)
        )
        check_grads(
            jax.jit(lambda *maps: losses.pod_spatial(maps, ref_maps)),
            maps,
            order=2,
            modes=['rev'],
        )
