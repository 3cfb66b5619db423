"""Learns exemplars for a model of one's own: an MLP, without a phase loop.

Ten digits, one a class, are changed so that an MLP that is trained on them
alone does well on all others: `bilevel` takes any loss of any model.

    python examples/own_model.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from mnemonics_jax import bilevel

OUTER_STEPS, INNER_STEPS, INNER_LR, OUTER_LR, QUERY = 400, 30, 0.5, 0.02, 128

mlp = nn.Sequential([lambda x: x - 0.3, nn.Dense(64), nn.relu, nn.Dense(10)])
outer_tx = optax.adam(OUTER_LR)
labels = jnp.arange(10)
indices = jnp.tile(labels, (INNER_STEPS, 1))  # All ten in each inner step.


def loss_fn(params: dict, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy of each example."""
    logits = mlp.apply(params, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


problem = bilevel.InnerProblem(loss_fn, tx=optax.sgd(INNER_LR))


@jax.jit
def learn(
    state: bilevel.ExemplarState, key: jax.Array, query: bilevel.Query
) -> tuple[bilevel.ExemplarState, jax.Array]:
    """An outer step; the inner steps start from new weights each time."""
    params = mlp.init(key, state.pixels)
    grads, metrics = bilevel.pixel_gradient(
        problem, params, state.pixels, labels, indices, query
    )
    state = bilevel.apply_gradient(state, grads, outer_tx)
    return state, metrics['outer_loss']


@jax.jit
def taught(pixels: jax.Array, key: jax.Array, images: jax.Array) -> jax.Array:
    """Classes f32[n] by an MLP that has seen nothing but the exemplars."""
    params = mlp.init(key, pixels)
    params, _ = bilevel.unroll(problem, params, pixels, labels, indices)
    return jnp.argmax(mlp.apply(params, images), axis=1)


def main() -> None:
    """Learns, and tests with weights that took no part in learning."""
    images, targets = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train, test = np.arange(1300), np.arange(1300, len(images))
    real = jnp.asarray(images[[np.argmax(targets == k) for k in range(10)]])
    state, random = bilevel.init_state(real, outer_tx), np.random.default_rng(0)
    for step in range(OUTER_STEPS):
        rows = random.choice(train, QUERY)
        query = bilevel.Query(images[rows], targets[rows], np.ones(QUERY))
        state, loss = learn(state, jax.random.key(step), query)
    print(f'loss of the last outer step: {loss:.3f}')
    for name, pixels in (('real', real), ('learned', state.pixels)):
        keys = jax.random.split(jax.random.key(-1), 5)
        found = np.stack([taught(pixels, key, images[test]) for key in keys])
        right = 100 * np.mean(found == targets[test])
        print(f'one {name} image a class: {right:.1f} % right')


if __name__ == '__main__':
    main()
