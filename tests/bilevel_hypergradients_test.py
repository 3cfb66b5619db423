"""Approximate hypergradients agree with the exact one where theory says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemonics_jax import bilevel
from mnemonics_jax.bilevel.hypergradients import (
    NAMES,
    make_hypergradient,
    make_outer_loss,
    trained,
)

NUM, SIZE, CLASSES = 6, 4, 3
RATE, PENALTY = 0.5, 0.3


def ridge(params, inputs, labels):
    """Squared error of a linear model with a penalty: strongly convex."""
    targets = jnp.eye(CLASSES, dtype=inputs.dtype)[labels]
    errors = inputs @ params['kernel'] + params['bias'] - targets
    penalty = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
    return jnp.sum(errors**2, axis=1) + PENALTY * penalty


def make_problem(tx=None, **kwargs):
    random = np.random.default_rng(0)
    pixels = jnp.asarray(random.uniform(size=(NUM, SIZE)))
    labels = jnp.arange(NUM) % CLASSES
    query = bilevel.Query(
        jnp.asarray(random.uniform(size=(8, SIZE))),
        jnp.arange(8) % CLASSES,
        jnp.ones(8),
    )
    params = {
        'kernel': jnp.asarray(random.normal(size=(SIZE, CLASSES))),
        'bias': jnp.zeros(CLASSES, pixels.dtype),
    }
    problem = bilevel.InnerProblem(ridge, tx or optax.sgd(RATE / 4), **kwargs)
    return problem, params, pixels, labels, query


def gradient(name, terms, num_steps, tx=None, batch=NUM, **kwargs):
    problem, params, pixels, labels, query = make_problem(tx, **kwargs)
    # Each exemplar once in every two minibatches of three.
    indices = jnp.tile(jnp.arange(NUM).reshape(-1, batch), (num_steps, 1))
    function = jax.jit(
        functools.partial(make_hypergradient(name, terms), problem)
    )
    return function(params, pixels, labels, indices[:num_steps], query)


def assert_near(found, expected, tolerance):
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope='module')
def converged():
    """The exact gradient through so many steps that the last change nothing."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, gradient('unroll', 0, 400))


@pytest.mark.parametrize(
    ('name', 'terms'), [('truncated', 300), ('neumann', 300), ('cg', 15)]
)
def test_all_agree_where_the_inner_problem_has_converged(
    name, terms, converged
):
    with jax.enable_x64(True):
        grads, metrics = gradient(name, terms, 400)
        assert_near(grads, converged[0], 1e-9)
        for key, value in converged[1].items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-9)


@pytest.mark.parametrize('name', ['truncated', 'neumann'])
def test_few_terms_are_a_beginning_and_more_come_nearer(name, converged):
    with jax.enable_x64(True):
        errors = [
            np.abs(gradient(name, terms, 400)[0] - converged[0]).max()
            for terms in (1, 10, 40)
        ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_at_the_fixed_point_truncated_and_neumann_are_the_same_sum():
    with jax.enable_x64(True):
        truncated, _ = gradient('truncated', 7, 400)
        neumann, _ = gradient('neumann', 7, 400)
        assert_near(truncated, neumann, 1e-9)


def test_truncation_beyond_the_first_step_is_exact():
    with jax.enable_x64(True):
        exact, metrics = gradient('unroll', 0, 5)
        for terms in (5, 9):
            found, others = gradient('truncated', terms, 5)
            np.testing.assert_array_equal(found, exact)
            assert others == metrics


def test_before_convergence_the_implicit_gradient_is_another_one():
    """What the documentation warns of."""
    with jax.enable_x64(True):
        exact, _ = gradient('unroll', 0, 3)
        implicit, _ = gradient('cg', 15, 3)
    assert np.abs(implicit - exact).max() > 0.1 * np.abs(exact).max()


def frozen_bias():
    return optax.chain(
        optax.sgd(RATE / 4),
        optax.masked(optax.set_to_zero(), {'kernel': False, 'bias': True}),
    )


@pytest.mark.parametrize(('name', 'terms'), [('neumann', 300), ('cg', 15)])
def test_frozen_params_stay_out_of_the_implicit_gradient(name, terms):
    with jax.enable_x64(True):
        _, params, *_ = make_problem()
        found = trained(frozen_bias(), params)
        assert np.all(found['kernel'] == 1)
        assert np.all(found['bias'] == 0)
        exact, _ = gradient('unroll', 0, 400, frozen_bias())
        grads, _ = gradient(name, terms, 400, frozen_bias())
        assert_near(grads, exact, 1e-9)


@pytest.mark.parametrize('name', ['neumann', 'cg'])
def test_embedding_and_microbatches_change_nothing(name):
    """Inputs are a smooth function of pixels; minibatches are split."""
    with jax.enable_x64(True):
        exact, _ = gradient('unroll', 0, 400, embed=jnp.tanh)
        assert_near(gradient(name, 300, 400, embed=jnp.tanh)[0], exact, 1e-9)
        whole, _ = gradient(name, 20, 50)
        assert_near(gradient(name, 20, 50, microbatch=4)[0], whole, 1e-12)


@pytest.mark.parametrize(
    ('name', 'terms', 'said'),
    [('exact', 1, 'unroll, truncated'), ('cg', 0, 'must be an integer >= 1')],
)
def test_mistakes_are_named(name, terms, said):
    with pytest.raises(ValueError, match=said):
        make_hypergradient(name, terms)


def test_the_loss_has_the_hypergradient_as_its_gradient():
    problem, params, pixels, labels, query = make_problem(embed=jnp.tanh)
    indices = jnp.tile(jnp.arange(NUM), (3, 1))
    for name in NAMES:
        expected, metrics = make_hypergradient(name, 2)(
            problem, params, pixels, labels, indices, query
        )
        loss_of = make_outer_loss(name, 2)
        run = jax.value_and_grad(
            lambda x, loss_of=loss_of: loss_of(
                problem, params, x, labels, indices, query
            ),
            has_aux=True,
        )
        (loss, found), grads = run(pixels)
        assert loss == metrics['outer_loss']
        assert found == metrics
        np.testing.assert_array_equal(grads, expected)
    assert make_outer_loss('unroll', 2) is bilevel.outer_loss


@pytest.mark.parametrize('name', NAMES[1:])
def test_an_inner_transform_with_a_state_is_refused(name):
    with pytest.raises(ValueError, match='with state: must be stateless'):
        gradient(name, 2, 3, optax.sgd(0.1, momentum=0.9))


@pytest.mark.parametrize('name', ['neumann', 'cg'])
def test_the_implicit_gradient_needs_an_inner_step(name):
    with pytest.raises(ValueError, match='inner_steps=0: must be'):
        gradient(name, 2, 0)
