"""What a user may give an exemplar learner by mistake: one line for each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from mnemonics_jax import make_exemplar_learner, split_nnx

NUM, QUERY, SIZE, CLASSES = 4, 8, 6, 4
SETTINGS = {
    'inner_tx': optax.sgd(0.1),
    'inner_steps': 1,
    'outer_tx': optax.sgd(0.1),
}


def apply(params, images):
    return images @ params


def arrays(**changes):
    """Arguments of `gradient`, in order."""
    random = np.random.default_rng(0)
    found = {
        'params': np.zeros((SIZE, CLASSES), np.float32),
        'pixels': random.random((NUM, SIZE), np.float32),
        'labels': np.arange(NUM),
        'images': random.random((QUERY, SIZE), np.float32),
        'targets': np.arange(QUERY) % CLASSES,
    }
    return [*{**found, **changes}.values()]


IMAGES, ONE_HOT = arrays()[3], np.eye(CLASSES, dtype=np.float32)
ARRAYS = {
    'bytes as floats': (
        {'images': 255 * IMAGES},
        r'images: values in \[.*\]: must be in \[0, 1\]; divide by 255',
    ),
    'normalised': (
        {'images': (IMAGES - 0.5) / 0.2},
        r'images: values in \[-2.*\]: must be in .*; normalise in the model',
    ),
    'not a number': (
        {'pixels': np.full((NUM, SIZE), np.nan, np.float32)},
        r'pixels: values in \[nan, nan\]: must be in \[0, 1\]',
    ),
    'bytes': (
        {'images': (255 * IMAGES).astype(np.uint8)},
        r'images: dtype uint8: must be floats in \[0, 1\]; divide by 255',
    ),
    'a list': ({'labels': [0, 1, 2, 3]}, 'labels: list: must be an array'),
    'three labels': (
        {'labels': np.arange(3)},
        'labels: 3 for 4 pixels: must be as many',
    ),
    'nine targets': (
        {'targets': np.arange(9) % CLASSES},
        'targets: 9 for 8 images: must be as many',
    ),
    'one-hot': (
        {'labels': ONE_HOT},
        r'labels: shape \(4, 4\): must be \(4,\); of one-hot labels take arg',
    ),
    'a column': (
        {'targets': np.arange(QUERY)[:, None] % CLASSES},
        r'targets: shape \(8, 1\): must be \(8,\); take targets\[:, 0\]',
    ),
    'a cube': (
        {'labels': np.zeros((NUM, 2, 2), np.int32)},
        r'labels: shape \(4, 2, 2\): must be \(4,\)(\n|$)',
    ),
    'floats as labels': (
        {'labels': np.arange(4, dtype=np.float32)},
        'labels: dtype float32: must be integers',
    ),
    'a fifth class': (
        {'targets': 1 + np.arange(QUERY) % CLASSES},
        r'targets: values in 1..4: must be in 0..3, the classes',
    ),
    'below zero': (
        {'labels': np.arange(NUM) - 1},
        r'labels: values in -1..2: must be in 0..3',
    ),
    'another shape': (
        {'images': np.zeros((QUERY, SIZE + 1), np.float32)},
        r'images: shape \(8, 7\): must be as pixels, \(4, 6\)',
    ),
    'no images': (
        {'images': IMAGES[:0], 'targets': np.arange(0)},
        'images: none: must be at least one',
    ),
}


def refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ARRAYS)
def test_arrays_that_mislead_are_one_line(name):
    changes, message = ARRAYS[name]
    learner = make_exemplar_learner(apply, **SETTINGS)
    refused(lambda: learner.gradient(*arrays(**changes)), message)
    if set(changes) <= {'pixels', 'labels'}:
        refused(
            lambda: learner.train(*arrays(**changes)[:3], num_steps=1), message
        )
    # Shapes and dtypes are known under jit, too, and values are not.
    if 'values in' not in message:
        refused(lambda: jax.jit(learner.gradient)(*arrays(**changes)), message)


def test_each_part_of_a_call_is_checked():
    learner = make_exemplar_learner(apply, **SETTINGS)
    params, pixels, labels, images, targets = arrays()
    refused(lambda: learner.init(255 * pixels), 'pixels: values in')
    refused(lambda: learner.init(np.zeros(3, np.uint8)), 'pixels: dtype uint8')
    state = learner.init(pixels)
    refused(
        lambda: learner.step(state, params, labels[:3], images, targets),
        'labels: 3 for 4 pixels',
    )
    refused(
        lambda: learner.step(pixels, params, labels, images, targets),
        'state: ndarray: must be an ExemplarState, which init makes',
    )
    for steps in (2.5, True, -1, '2'):
        refused(
            functools.partial(
                learner.train, params, pixels, labels, num_steps=steps
            ),
            f'num_steps={steps!r}: must be an integer >= 0',
        )


def test_later_batches_are_looked_at_too():
    learner = make_exemplar_learner(apply, **SETTINGS)
    grads, _ = learner.gradient(*arrays())
    assert np.isfinite(grads).all()
    for to in (np.asarray, jnp.asarray):
        for changes, message in (
            ({'targets': to(np.full(QUERY, CLASSES))}, 'targets: values in 4'),
            ({'images': to(255 * IMAGES)}, 'images: values in .* by 255'),
        ):
            later = functools.partial(learner.gradient, *arrays(**changes))
            refused(later, message)
    # Of a loss of one's own, labels may be anything, one for each image.
    squares = make_exemplar_learner(
        apply,
        loss_fn=lambda logits, labels: jnp.sum((logits - labels) ** 2, axis=1),
        **SETTINGS,
    )
    soft = arrays(labels=ONE_HOT, targets=np.tile(ONE_HOT, (2, 1)))
    jax.eval_shape(squares.gradient, *soft)
    jax.eval_shape(learner.gradient, *arrays())  # Shapes that are known.
    refused(lambda: squares.gradient(*arrays(labels=ONE_HOT[:3])), '3 for 4')


class Normed(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(SIZE, rngs=nnx.Rngs(0))
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.drop(self.norm(images))


LEARNERS = {
    'a rate': ({'inner_tx': 0.5}, r'inner_tx=0.5: must be .* optax.sgd\(0.5\)'),
    'no transform': ({'outer_tx': None}, 'outer_tx=None: must be an optax'),
    'half a step': (
        {'inner_steps': 2.5},
        'inner_steps=2.5: must be an int',
    ),
    'half an image': (
        {'microbatch': 2.5},
        'microbatch=2.5: must be an int',
    ),
    'half a term': (
        {'hypergradient': 'cg', 'terms': 2.5},
        'terms=2.5: must be an integer >= 1',
    ),
    'an nnx module': ({'apply': Normed()}, 'apply: an nnx module: .*split_nnx'),
    'a linen module': (
        {'apply': nn.Dense(3)},
        'apply: a linen module: must be .* its method apply',
    ),
    'a class': (
        {'apply': Normed},
        'apply: the class Normed: must be a function .*split_nnx',
    ),
    'a number': ({'apply': 3}, 'apply: int: must be a function'),
    'a text': ({'inner_steps': '2'}, "inner_steps='2': must be an integer"),
}


@pytest.mark.parametrize('name', LEARNERS)
def test_settings_that_mislead_are_one_line(name):
    changes, message = LEARNERS[name]
    settings = {'apply': apply, **SETTINGS, **changes}
    refused(lambda: make_exemplar_learner(**settings), message)


def test_functions_that_return_something_else_are_one_line():
    def learner(apply=apply, **more):
        return make_exemplar_learner(apply, **SETTINGS, **more)

    wrong = learner(lambda params, images: (images @ params, {}))
    refused(lambda: wrong.gradient(*arrays()), 'apply: returned tuple: must be')
    wrong = learner(lambda params, images: (images @ params)[0])
    refused(
        lambda: wrong.gradient(*arrays()),
        r'apply: returned shape \(4,\): must be logits \[4, K\]',
    )
    wrong = learner(loss_fn=lambda logits, labels: jnp.mean(logits))
    refused(
        lambda: wrong.gradient(*arrays()),
        r'loss_fn: returned shape \(\): must be \(4,\), one loss for each',
    )


def test_what_is_no_nnx_module_in_evaluation_mode_is_refused():
    for what, found in (
        (Normed, 'the class Normed'),
        (apply, 'function'),
        (nn.Dense(3), 'Dense'),
    ):
        refused(lambda what=what: split_nnx(what), f'model: {found}: must be')
    model = Normed()
    refused(lambda: split_nnx(model), r"Dropout 'drop' .* model.eval\(\)")
    model.drop.deterministic = True
    refused(lambda: split_nnx(model), "BatchNorm 'norm' is in training mode")
    model.eval()
    split_nnx(model)
