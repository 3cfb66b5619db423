"""Learns exemplars for a user's model, an MLP, without a phase loop.

Ten digits, one per class, are optimised so that an MLP trained on them alone
classifies other digits well. Any function of params and images is a model.

    python examples/own_model.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from mnemonics_jax import make_exemplar_learner

OUTER_STEPS, INNER_STEPS, INNER_LR, OUTER_LR, QUERY = 400, 30, 0.5, 0.02, 128

mlp = nn.Sequential([lambda x: x - 0.3, nn.Dense(64), nn.relu, nn.Dense(10)])
init = jax.jit(mlp.init)
learner = make_exemplar_learner(
    mlp.apply,
    inner_tx=optax.sgd(INNER_LR),
    inner_steps=INNER_STEPS,
    outer_tx=optax.adam(OUTER_LR),
)


def main() -> None:
    """Learns the exemplars, and tests them with new initial weights."""
    images, targets = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train, test = np.arange(1300), np.arange(1300, len(images))
    labels, random = jnp.arange(10), np.random.default_rng(0)
    real = jnp.asarray(images[[np.argmax(targets == k) for k in labels]])
    state = learner.init(real)
    for step in range(OUTER_STEPS):
        rows = random.choice(train, QUERY)
        # Each outer step starts from new weights.
        params = init(jax.random.key(step), real)
        state, metrics = learner.step(
            state, params, labels, images[rows], targets[rows]
        )
    print(f'loss of the last outer step: {metrics["outer_loss"]:.3f}')
    for name, pixels in (('real', real), ('learned', state.pixels)):
        accuracies = []
        for key in jax.random.split(jax.random.key(-1), 5):
            params = init(key, real)
            params = learner.train(
                params, pixels, labels, num_steps=INNER_STEPS
            )
            predicted = jnp.argmax(mlp.apply(params, images[test]), axis=1)
            accuracies.append(np.mean(predicted == targets[test]))
        accuracy = 100 * np.mean(accuracies)
        print(f'one {name} image per class: accuracy {accuracy:.1f} %')


if __name__ == '__main__':
    main()
