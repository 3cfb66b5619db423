"""Distils the digits into ten images a class, learned from random ones.

A fresh network then learns from them alone, beside one that learns from the
real images that they started as.

    python examples/distill.py
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from mnemonics_jax import bilevel

PER_CLASS, OUTER_STEPS, INNER_STEPS, QUERY = 10, 400, 40, 256
INNER_LR, OUTER_LR, TEST_STEPS, NETWORKS = 0.5, 0.02, 400, 5

layers = [lambda x: x - 0.3, nn.Dense(128), nn.relu, nn.Dense(10)]
network = nn.Sequential(layers)
outer_tx = optax.adam(OUTER_LR)
labels = jnp.repeat(jnp.arange(10), PER_CLASS)


def loss_fn(params: dict, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of each example."""
    logits = network.apply(params, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


problem = bilevel.InnerProblem(loss_fn, tx=optax.sgd(INNER_LR))
everything = functools.partial(jnp.tile, jnp.arange(len(labels)))


@jax.jit
def learn(
    state: bilevel.ExemplarState, key: jax.Array, query: bilevel.Query
) -> bilevel.ExemplarState:
    """An outer step: a new network, trained on the images, judged by others."""
    params = network.init(key, state.pixels)
    indices = everything((INNER_STEPS, 1))
    grads, _ = bilevel.pixel_gradient(
        problem, params, state.pixels, labels, indices, query
    )
    return bilevel.apply_gradient(state, grads, outer_tx)


@jax.jit
def taught(pixels: jax.Array, key: jax.Array, images: jax.Array) -> jax.Array:
    """Classes of images by a network that is trained on `pixels` alone."""
    params, indices = network.init(key, pixels), everything((TEST_STEPS, 1))
    params, _ = bilevel.unroll(problem, params, pixels, labels, indices)
    return jnp.argmax(network.apply(params, images), axis=1)


def main() -> None:
    """Distils 1,300 images into 100, and tests on 497 others."""
    images, targets = load_digits(return_X_y=True)
    images, random = (images / 16).astype(np.float32), np.random.default_rng(0)
    first = [np.flatnonzero(targets == k)[:PER_CLASS] for k in range(10)]
    real = jnp.asarray(images[np.concatenate(first)])
    state = bilevel.init_state(real, outer_tx)
    for step in range(OUTER_STEPS):
        rows = random.choice(1300, QUERY)
        query = bilevel.Query(images[rows], targets[rows], np.ones(QUERY))
        state = learn(state, jax.random.key(step), query)
    for name, pixels in (('real', real), ('learned', state.pixels)):
        keys = jax.random.split(jax.random.key(-1), NETWORKS)
        found = np.stack([taught(pixels, key, images[1300:]) for key in keys])
        right = 100 * np.mean(found == targets[1300:])
        print(f'{PER_CLASS} {name} images a class: {right:.1f} % right')


if __name__ == '__main__':
    main()
