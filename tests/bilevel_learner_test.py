"""One exemplar step for linen, nnx and a plain function, held to a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from mnemonics_jax import make_exemplar_learner, split_nnx

SIZE, WIDTH, CLASSES, NUM, QUERY = 5, 4, 3, 6, 7
RATE, STEPS, OUTER_RATE = 0.4, 3, 0.05


def arrays():
    """Weights of a network of two layers, exemplars and a query, float64."""
    random = np.random.default_rng(0)
    weights = {
        'w1': random.normal(size=(SIZE, WIDTH)),
        'b1': random.normal(size=WIDTH),
        'w2': random.normal(size=(WIDTH, CLASSES)),
        'b2': random.normal(size=CLASSES),
    }
    data = (
        random.uniform(size=(NUM, SIZE)),
        np.arange(NUM) % CLASSES,
        random.uniform(size=(QUERY, SIZE)),
        np.arange(QUERY) % CLASSES,
    )
    return weights, data


def plain(weights):
    def apply(params, x):
        hidden = jnp.tanh(x @ params['w1'] + params['b1'])
        return hidden @ params['w2'] + params['b2']

    return apply, jax.tree.map(jnp.asarray, weights)


def linen(weights):
    model = nn.Sequential(
        [nn.Dense(WIDTH, param_dtype=float), nn.tanh, nn.Dense(CLASSES)]
    )
    layers = {
        f'layers_{2 * i}': {
            'kernel': jnp.asarray(weights[f'w{i + 1}']),
            'bias': jnp.asarray(weights[f'b{i + 1}']),
        }
        for i in range(2)
    }
    return model.apply, {'params': layers}


class Network(nnx.Module):
    def __init__(self, weights):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(SIZE, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
        for layer, i in ((self.first, 1), (self.last, 2)):
            layer.kernel = nnx.Param(jnp.asarray(weights[f'w{i}']))
            layer.bias = nnx.Param(jnp.asarray(weights[f'b{i}']))

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


MODELS = {
    'plain': plain,
    'linen': linen,
    'nnx': lambda weights: split_nnx(Network(weights)),
}


def learner_of(apply, **kwargs):
    return make_exemplar_learner(
        apply,
        inner_tx=optax.sgd(RATE),
        inner_steps=STEPS,
        outer_tx=optax.sgd(OUTER_RATE),
        **kwargs,
    )


def numpy_outer_loss(weights, pixels, labels, images, targets):
    """The whole bilevel problem in NumPy: backpropagation by hand, T times."""

    def forward(w, x):
        hidden = np.tanh(x @ w['w1'] + w['b1'])
        logits = hidden @ w['w2'] + w['b2']
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, probs / probs.sum(axis=1, keepdims=True)

    w = dict(weights)
    for _ in range(STEPS):
        hidden, probs = forward(w, pixels)
        error = (probs - np.eye(CLASSES)[labels]) / NUM
        back = error @ w['w2'].T * (1 - hidden**2)
        grads = {
            'w1': pixels.T @ back,
            'b1': back.sum(axis=0),
            'w2': hidden.T @ error,
            'b2': error.sum(axis=0),
        }
        w = {name: w[name] - RATE * grads[name] for name in w}
    _, probs = forward(w, images)
    return -np.mean(np.log(probs[np.arange(QUERY), targets])), w


@pytest.fixture(scope='module')
def differences():
    """Central differences of the NumPy loop in every pixel."""
    weights, (pixels, *data) = arrays()
    step, found = 1e-5, np.empty_like(pixels)
    for at in np.ndindex(*pixels.shape):
        ends = []
        for sign in (1, -1):
            moved = pixels.copy()
            moved[at] += sign * step
            ends.append(numpy_outer_loss(weights, moved, *data)[0])
        found[at] = (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize('kind', MODELS)
def test_the_gradient_is_that_of_a_loop_in_numpy(kind, differences):
    weights, data = arrays()
    with jax.enable_x64(True):
        apply, params = MODELS[kind](weights)
        learner = learner_of(apply)
        grads, metrics = learner.gradient(params, *data)
        loss, _ = numpy_outer_loss(weights, *data)
        np.testing.assert_allclose(metrics['outer_loss'], loss, rtol=1e-12)
        scale = abs(differences).max()
        np.testing.assert_allclose(grads, differences, atol=1e-8 * scale)


@pytest.mark.parametrize('kind', MODELS)
def test_training_on_exemplars_gives_the_loops_weights(kind):
    weights, data = arrays()
    _, expected = numpy_outer_loss(weights, *data)
    with jax.enable_x64(True):
        apply, params = MODELS[kind](weights)
        taught = learner_of(apply).train(params, *data[:2], num_steps=STEPS)
        for found, wanted in zip(
            sorted(jax.tree.leaves(taught), key=lambda x: x.shape),
            sorted(expected.values(), key=lambda x: x.shape),
            strict=True,
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_a_step_moves_pixels_against_the_gradient_within_their_range():
    weights, (pixels, *data) = arrays()
    with jax.enable_x64(True):
        apply, params = plain(weights)
        learner = learner_of(apply)
        state = learner.init(pixels)
        grads, _ = learner.gradient(params, pixels, *data)
        state, metrics = learner.step(state, params, *data)
        expected = np.clip(pixels - OUTER_RATE * grads, 0, 1)
        np.testing.assert_allclose(state.pixels, expected, rtol=1e-12)
        assert int(state.step) == 1
        _, after = learner.step(state, params, *data)
        assert after['outer_loss'] < metrics['outer_loss']


def test_microbatches_and_other_losses_are_passed_on():
    weights, data = arrays()
    with jax.enable_x64(True):
        apply, params = plain(weights)
        whole, _ = learner_of(apply).gradient(params, *data)
        parts, _ = learner_of(apply, microbatch=2).gradient(params, *data)
        np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-14)

        def twice(logits, labels):
            values = optax.softmax_cross_entropy_with_integer_labels
            return 2 * values(logits, labels)

        doubled = make_exemplar_learner(
            apply,
            inner_tx=optax.sgd(RATE / 2),
            inner_steps=STEPS,
            outer_tx=optax.sgd(OUTER_RATE),
            loss_fn=twice,
        )
        grads, _ = doubled.gradient(params, *data)
        np.testing.assert_allclose(grads, 2 * whole, rtol=1e-9)


def test_truncated_through_all_steps_is_the_exact_gradient():
    weights, data = arrays()
    with jax.enable_x64(True):
        apply, params = plain(weights)
        whole, _ = learner_of(apply).gradient(params, *data)
        for terms, equal in ((STEPS, True), (1, False)):
            learner = learner_of(apply, hypergradient='truncated', terms=terms)
            found, _ = learner.gradient(params, *data)
            assert np.allclose(found, whole, rtol=1e-9) == equal


def test_statistics_of_an_nnx_module_stay_as_they_are():
    class Normed(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(SIZE, rngs=nnx.Rngs(0))
            self.last = nnx.Linear(SIZE, CLASSES, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.last(self.norm(x))

    model = Normed()
    model.eval()
    apply, params = split_nnx(model)
    _, data = arrays()
    before = np.asarray(model.norm.mean[...])
    grads, _ = learner_of(apply).gradient(params, *data)
    assert np.isfinite(grads).all()
    assert abs(grads).max() > 0
    np.testing.assert_array_equal(model.norm.mean[...], before)
    # Four params: scale and bias of the norm, kernel and bias of the head.
    assert len(jax.tree.leaves(params)) == 4


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'inner_steps': 0}, 'inner_steps=0: must be an integer >= 1'),
        ({'microbatch': 0}, 'microbatch=0: must be'),
        ({'hypergradient': 'exact'}, "'exact': must be one of unroll, trunc"),
        (
            {'hypergradient': 'cg', 'terms': 0},
            'terms=0: must be an integer >= 1',
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(given, message):
    needed = {
        'inner_tx': optax.sgd(RATE),
        'inner_steps': STEPS,
        'outer_tx': optax.sgd(OUTER_RATE),
    }
    with pytest.raises(ValueError, match=message):
        make_exemplar_learner(lambda p, x: x, **{**needed, **given})
