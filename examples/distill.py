"""Distils the digits into ten images per class.

Afterwards new networks are trained on the learned images, and for comparison
on the random real images that learning started from.

    python examples/distill.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from mnemonics_jax import make_exemplar_learner

PER_CLASS, OUTER_STEPS, INNER_STEPS, QUERY = 10, 400, 40, 256
INNER_LR, OUTER_LR, TEST_STEPS, NETWORKS = 0.5, 0.02, 400, 5

layers = [lambda x: x - 0.3, nn.Dense(128), nn.relu, nn.Dense(10)]
network = nn.Sequential(layers)
init = jax.jit(network.init)
learner = make_exemplar_learner(
    network.apply,
    inner_tx=optax.sgd(INNER_LR),
    inner_steps=INNER_STEPS,
    outer_tx=optax.adam(OUTER_LR),
)


def main() -> None:
    """Distils 1,300 images into 100, and tests on 497 others."""
    images, targets = load_digits(return_X_y=True)
    images, random = (images / 16).astype(np.float32), np.random.default_rng(0)
    drawn = [
        random.choice(np.flatnonzero(targets[:1300] == k), PER_CLASS, False)
        for k in range(10)
    ]
    real, labels = images[np.concatenate(drawn)], targets[np.concatenate(drawn)]
    state = learner.init(real)
    for step in range(OUTER_STEPS):
        rows = random.choice(1300, QUERY)
        # Each outer step starts from a new network.
        params = init(jax.random.key(step), real)
        state, _ = learner.step(
            state, params, labels, images[rows], targets[rows]
        )
    for name, pixels in (('real', real), ('learned', state.pixels)):
        accuracies = []
        for key in jax.random.split(jax.random.key(-1), NETWORKS):
            params = learner.train(
                init(key, real), pixels, labels, num_steps=TEST_STEPS
            )
            predicted = jnp.argmax(network.apply(params, images[1300:]), axis=1)
            accuracies.append(np.mean(predicted == targets[1300:]))
        accuracy = 100 * np.mean(accuracies)
        print(f'{PER_CLASS} {name} images per class: accuracy {accuracy:.1f} %')


if __name__ == '__main__':
    main()
