"""Proofs of the hypergradient: closed form, loops, differences, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemonics_jax import bilevel
from mnemonics_jax.backbones import make_backbone
from mnemonics_jax.bilevel import outer
from mnemonics_jax.core import parallel
from mnemonics_jax.data import augment
from mnemonics_jax.exemplars import inner_problem
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    FlatExemplars,
    LearnerSettings,
    layout_of,
)
from mnemonics_jax.types import Phase, Variables

NUM_CLASSES, PER_CLASS, SIZE = 3, 2, 4


def squared_error(weights, inputs, labels):
    """Per-example 1/2 |x W - onehot(y)|^2."""
    targets = jax.nn.one_hot(labels, weights.shape[1], dtype=inputs.dtype)
    return 0.5 * jnp.sum((inputs @ weights - targets) ** 2, axis=-1)


@pytest.fixture(scope='module')
def linear():
    """A linear least-squares problem in float64, as NumPy arrays."""
    rng = np.random.default_rng(0)
    return {
        'weights': rng.normal(size=(5, NUM_CLASSES)),
        'pixels': rng.uniform(size=(6, 5)),
        'labels': np.repeat(np.arange(NUM_CLASSES), 2).astype(np.int32),
        'query': bilevel.Query(
            rng.uniform(size=(7, 5)),
            rng.integers(0, NUM_CLASSES, 7).astype(np.int32),
            np.ones(7),
        ),
    }


@pytest.mark.parametrize('microbatch', [None, 4])
def test_gradient_of_a_linear_model_has_its_closed_form(linear, microbatch):
    rate, count = 0.3, len(linear['labels'])
    w, x = linear['weights'], linear['pixels']
    y = np.eye(NUM_CLASSES)[linear['labels']]
    query, query_y = (
        linear['query'].images,
        np.eye(NUM_CLASSES)[linear['query'].labels],
    )
    # W1 = W - a/n X'(XW - Y);  L = 1/2q |Q W1 - Yq|^2;  G = dL/dW1
    adapted = w - rate / count * x.T @ (x @ w - y)
    g = query.T @ (query @ adapted - query_y) / len(query)
    expected = -rate / count * ((x @ w - y) @ g.T + x @ g @ w.T)
    with jax.enable_x64(True):
        problem = bilevel.InnerProblem(
            squared_error, optax.sgd(rate), microbatch=microbatch
        )
        grads, metrics = bilevel.pixel_gradient(
            problem,
            jnp.asarray(w),
            jnp.asarray(x),
            linear['labels'],
            jnp.arange(count)[None],
            linear['query'],
        )
    np.testing.assert_allclose(grads, expected, rtol=1e-12, atol=1e-15)
    loss = 0.5 * np.mean(np.sum((query @ adapted - query_y) ** 2, axis=1))
    np.testing.assert_allclose(metrics['outer_loss'], loss, rtol=1e-12)


@pytest.mark.parametrize('microbatch', [None, 2])
def test_unroll_equals_a_numpy_loop_over_padded_minibatches(linear, microbatch):
    rate = 0.2
    indices = np.array([[0, 3, -1], [5, 1, 2], [4, -1, -1], [-1, -1, -1]])
    w = linear['weights'].copy()
    losses = []
    for row in indices:
        chosen = row[row >= 0]
        x, y = linear['pixels'][chosen], linear['labels'][chosen]
        error = x @ w - np.eye(NUM_CLASSES)[y]
        total = 0.5 * np.sum(error**2)
        losses.append(total / max(len(chosen), 1))
        w -= rate * x.T @ error / max(len(chosen), 1)
    with jax.enable_x64(True):
        problem = bilevel.InnerProblem(
            squared_error, optax.sgd(rate), microbatch=microbatch
        )
        trained, inner_losses = bilevel.unroll(
            problem,
            jnp.asarray(linear['weights']),
            jnp.asarray(linear['pixels']),
            jnp.asarray(linear['labels']),
            jnp.asarray(indices),
        )
    np.testing.assert_allclose(trained, w, rtol=1e-12)
    np.testing.assert_allclose(inner_losses, losses, rtol=1e-12)


def test_inner_momentum_is_unrolled_too(linear):
    """Any optax transform works inside: here SGD with momentum, by a loop."""
    rate, momentum = 0.1, 0.9
    x, w = linear['pixels'], linear['weights'].copy()
    y, velocity = np.eye(NUM_CLASSES)[linear['labels']], 0.0
    for _ in range(4):
        grad = x.T @ (x @ w - y) / len(x)
        velocity = momentum * velocity + grad
        w = w - rate * velocity
    with jax.enable_x64(True):
        tx = optax.sgd(rate, momentum=momentum)
        trained, _ = bilevel.unroll(
            bilevel.InnerProblem(squared_error, tx),
            jnp.asarray(linear['weights']),
            jnp.asarray(x),
            jnp.asarray(linear['labels']),
            jnp.tile(jnp.arange(len(x)), (4, 1)),
        )
    np.testing.assert_allclose(trained, w, rtol=1e-12)


def test_no_inner_step_leaves_the_pixels_without_gradient(linear):
    with jax.enable_x64(True):
        grads, metrics = bilevel.pixel_gradient(
            bilevel.InnerProblem(squared_error, optax.sgd(0.1)),
            jnp.asarray(linear['weights']),
            jnp.asarray(linear['pixels']),
            jnp.asarray(linear['labels']),
            jnp.zeros((0, 6), jnp.int32),
            linear['query'],
        )
    assert not np.any(grads)
    assert np.isnan(metrics['inner_loss'])
    assert np.isfinite(metrics['outer_loss'])


def test_padded_query_images_do_not_count(linear):
    query = linear['query']
    spoiled = bilevel.Query(
        np.concatenate([query.images, np.full((2, 5), np.nan)]),
        np.concatenate([query.labels, [0, 0]]).astype(np.int32),
        np.concatenate([query.weights, [0.0, 0.0]]),
    )

    def gradient(query):
        return bilevel.pixel_gradient(
            bilevel.InnerProblem(squared_error, optax.sgd(0.1)),
            jnp.asarray(linear['weights']),
            jnp.asarray(linear['pixels']),
            jnp.asarray(linear['labels']),
            jnp.arange(6)[None],
            query,
        )[0]

    with jax.enable_x64(True):
        # NaN in a padded image poisons x W, whose cotangent is zero: zero times
        # NaN is what must not reach the pixels.
        clean = spoiled._replace(images=np.nan_to_num(spoiled.images, nan=9.0))
        np.testing.assert_allclose(gradient(clean), gradient(query), rtol=1e-12)


# A small network, as exemplars are learned with.


def settings(scope, start='current', steps=3, remat=True, batch=0):
    return LearnerSettings(
        inner_steps=steps,
        inner_lr=0.5,
        inner_batch=batch,
        inner_scope=scope,
        inner_start=start,
        outer_tx=optax.sgd(1.0),
        adjust_tx=optax.sgd(1.0),
        query_batch=8,
        query_augmentation=augment.Augmentation(),
        remat=remat,
    )


def make_model(head):
    return make_backbone(
        'convnet_tiny',
        num_classes=NUM_CLASSES + 1,
        image_shape=(SIZE, SIZE, 1),
        mean=(0.4,),
        std=(0.3,),
        head=head,
    )


@pytest.fixture(scope='module')
def backbone():
    return make_model('cosine')


@functools.cache
def float64_problem():
    """Pixels, labels, query as float64 NumPy arrays."""
    rng = np.random.default_rng(1)
    shape = (NUM_CLASSES * PER_CLASS, SIZE, SIZE, 1)
    labels = np.repeat(np.arange(NUM_CLASSES), PER_CLASS).astype(np.int32)
    query = bilevel.Query(
        rng.uniform(size=(8, SIZE, SIZE, 1)),
        rng.integers(0, NUM_CLASSES, 8).astype(np.int32),
        np.ones(8),
    )
    return rng.uniform(0.2, 0.8, shape), labels, query


def variables_of(backbone, dtype):
    variables = backbone.init(jax.random.key(3))
    # Away from its start, so that no statistic is 0 or 1.
    stats = jax.tree.map(lambda x: x * 1.1 + 0.05, variables.batch_stats)
    variables = Variables(variables.params, stats)
    return jax.tree.map(lambda x: x.astype(dtype), variables)


# One device.
ALONE = bilevel.Layout()


def make_inner(backbone, chosen, dtype, layout=ALONE):
    _, labels, _ = float64_problem()
    exemplars = FlatExemplars(
        jnp.asarray(labels),
        jnp.ones(len(labels), bool),
        jnp.array([0, NUM_CLASSES]),
    )
    return inner_problem.inner_problem(
        inner_problem.LearnerContext(backbone, chosen, layout),
        ExemplarProblem(
            variables_of(backbone, dtype),
            exemplars,
            Phase(*np.int32([0, 0, NUM_CLASSES])),
            jax.random.key(5),
            np.int32(1),
        ),
    )


def reference_outer_loss(backbone, inner, scope, rate, pixels):
    """The outer loss by a plain loop that shares nothing with `bilevel`."""
    _, labels, query = float64_problem()
    start = inner.merge(inner.params)

    def loss(params, images, labels):
        outputs, _ = backbone.apply(start.replace(params=params), images)
        logits = outputs.logits[:, :NUM_CLASSES]
        log_probs = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
        return -jnp.mean(log_probs[jnp.arange(len(labels)), labels])

    params = start.params
    for _ in range(inner.indices.shape[0]):
        grads = jax.grad(loss)(params, pixels, labels)
        if scope == 'head':
            grads = jax.tree.map(jnp.zeros_like, grads) | {
                'head': {
                    'kernel': grads['head']['kernel'],
                    'sigma': jnp.zeros_like(grads['head']['sigma']),
                }
            }
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    return loss(params, jnp.asarray(query.images), query.labels)


def compiled_gradient(inner, pixels, labels, query):
    def gradient(pixels):
        return bilevel.pixel_gradient(
            inner.problem, inner.params, pixels, labels, inner.indices, query
        )

    return jax.jit(gradient)(pixels)


@pytest.mark.parametrize(
    ('scope', 'steps', 'head'),
    [
        ('all', 1, 'cosine'),
        ('all', 3, 'cosine'),
        ('head', 1, 'cosine'),
        ('head', 3, 'cosine'),
        ('head', 3, 'local_similarity'),
    ],
)
def test_hypergradient_equals_central_differences(scope, steps, head):
    backbone = make_model(head)
    pixels, labels, query = float64_problem()
    chosen = settings(scope, start='redraw', steps=steps)
    with jax.enable_x64(True):
        inner = make_inner(backbone, chosen, jnp.float64)
        grads, metrics = compiled_gradient(inner, pixels, labels, query)
        assert grads.dtype == jnp.float64
        reference = jax.jit(
            functools.partial(
                reference_outer_loss, backbone, inner, scope, chosen.inner_lr
            )
        )
        np.testing.assert_allclose(
            metrics['outer_loss'], reference(pixels), rtol=1e-12
        )
        rng = np.random.default_rng(2)
        step = 1e-5
        directions = rng.normal(size=(6, *pixels.shape))
        expected = [
            float(reference(pixels + step * v) - reference(pixels - step * v))
            / (2 * step)
            for v in directions
        ]
        found = [float(jnp.vdot(grads, v)) for v in directions]
        error = np.linalg.norm(np.subtract(found, expected))
        assert error < 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_rematerialisation_changes_nothing(backbone, scope):
    pixels, labels, query = float64_problem()
    found = []
    with jax.enable_x64(True):
        for remat in (True, False):
            inner = make_inner(
                backbone, settings(scope, remat=remat), jnp.float64
            )
            grads, _ = compiled_gradient(inner, pixels, labels, query)
            found.append(np.asarray(grads))
    assert np.abs(found[0]).max() > 0
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_pmap_mesh_and_one_device_agree(backbone, scope, all_devices):
    """The same pure gradient, placed in the three ways JAX has."""
    pixels, labels, query = jax.tree.map(
        lambda x: x.astype(np.float32) if x.dtype == np.float64 else x,
        float64_problem(),
    )
    devices = list(all_devices.mesh.devices.flat)[:4]
    chosen = settings(scope, start='redraw')

    def gradient(pixels, query, layout=ALONE):
        inner = make_inner(backbone, chosen, jnp.float32, layout)
        return bilevel.pixel_gradient(
            inner.problem, inner.params, pixels, labels, inner.indices, query
        )[0]

    def pmapped(pixels, query):
        return jax.lax.pmean(gradient(pixels, query), 'devices')

    shards = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), query)
    by_pmap = jax.pmap(
        pmapped, axis_name='devices', in_axes=(None, 0), devices=devices
    )(pixels, shards)[0]

    placement = parallel.make_placement(devices)
    by_mesh = jax.jit(
        functools.partial(gradient, layout=layout_of(placement)),
        out_shardings=placement.replicated,
    )(
        parallel.replicate(placement, pixels),
        parallel.shard_batch(placement, query),
    )
    alone = jax.jit(gradient)(pixels, query)
    scale = np.abs(alone).max()
    assert scale > 0
    np.testing.assert_allclose(by_mesh, alone, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(by_pmap, alone, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize('num', [1, 5, 8])
def test_rows_taken_from_copies_are_the_rows(num, all_devices):
    """Also of numbers that do not divide by the devices, and padding."""
    layout = layout_of(all_devices)
    x = jax.random.normal(jax.random.key(0), (6, 3))
    index = jnp.array([3, -1, 0, 5, 3, 2, 2, 4])[:num]

    def value_and_rows(layout, x):
        rows = layout.take(layout.spread(x), index)
        return jnp.sum(jnp.sin(rows) * jnp.arange(1, num + 1)[:, None]), rows

    gradient = jax.grad(value_and_rows, 1, has_aux=True)
    found, rows = jax.jit(functools.partial(gradient, layout))(x)
    expected, _ = gradient(ALONE, x)
    np.testing.assert_array_equal(rows, x[index])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# The outer update.


def test_units_make_pixels_move_as_normalised_pixels_would():
    rng = np.random.default_rng(3)
    mean, std = rng.uniform(size=3), rng.uniform(0.1, 0.4, 3)
    pixels = rng.uniform(size=(2, 4, 4, 3))
    with jax.enable_x64(True):
        for make in (lambda: optax.adam(0.02, b2=0.99), lambda: optax.sgd(0.5)):
            target = jnp.asarray(rng.uniform(size=pixels.shape))
            tx = outer.in_units(make(), jnp.asarray(std))
            x = jnp.asarray(pixels)
            state = tx.init(x)
            plain = make()
            z = (x - mean) / std
            plain_state = plain.init(z)
            for _ in range(4):
                updates, state = tx.update(2 * (x - target), state, x)
                x = optax.apply_updates(x, updates)
                # d/dz of |z std + mean - target|^2
                grads = 2 * (z * std + mean - target) * std
                updates, plain_state = plain.update(grads, plain_state, z)
                z = optax.apply_updates(z, updates)
            np.testing.assert_allclose(x, z * std + mean, rtol=1e-10)


def test_update_clips_to_the_pixel_range_and_scales():
    pixels = jnp.array([[0.05, 0.5, 0.95]])
    state = outer.init_state(pixels, optax.sgd(1.0))
    grads = jnp.array([[0.2, 0.1, -0.2]])
    full = outer.apply_gradient(state, grads, optax.sgd(1.0))
    np.testing.assert_allclose(full.pixels, [[0.0, 0.4, 1.0]], atol=1e-7)
    half = outer.apply_gradient(state, grads, optax.sgd(1.0), 0.5)
    np.testing.assert_allclose(half.pixels, [[0.0, 0.45, 1.0]], atol=1e-7)
    assert int(half.step) == 1
