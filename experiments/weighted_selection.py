"""Plug-in of study F: images are selected by a bilevel objective.

--config.plugins=experiments/weighted_selection.py
--config.exemplars.strategy=weighted_selection

On the features of the current model, weights of all images of the new classes
are learned so that a cosine head, trained on the weighted images by K steps of
gradient descent, has a low cross entropy on all of them. The images of a class
with the largest weights are kept.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnemonics_jax.core.numerics import unit
from mnemonics_jax.exemplars.strategies import Candidates

learn = None

INNER_STEPS, INNER_LR = 20, 3.0
OUTER_STEPS, OUTER_LR = 150, 0.1
SCALE = 10.0


def select(candidates: Candidates) -> np.ndarray:
    """The images of each class with the largest weights."""
    low, high = candidates.classes
    labels = jnp.asarray(candidates.labels - low)
    features = unit(jnp.asarray(candidates.features()))
    weights = np.asarray(learn_weights(features, labels, high - low))
    ranks = [
        np.argsort(-weights[members], kind='stable')[: candidates.num]
        for members in candidates.members()
    ]
    return candidates.take(ranks)


@functools.partial(jax.jit, static_argnums=2)
def learn_weights(
    features: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
    """Weights f32[n] of unit features f32[n, D]; a class has the sum 1 / c."""
    onehot = jax.nn.one_hot(labels, num_classes)

    def shares(scores):
        exponents = jnp.where(onehot > 0, scores[:, None], -jnp.inf)
        return jnp.sum(jax.nn.softmax(exponents, axis=0), axis=1) / num_classes

    def cross_entropies(head):
        logits = SCALE * features @ unit(head).T
        return optax.softmax_cross_entropy(logits, onehot)

    def objective(scores):
        weights = shares(scores)

        def step(head, _):
            gradient = jax.grad(
                lambda head: jnp.sum(weights * cross_entropies(head))
            )(head)
            return head - INNER_LR * gradient, None

        # The same start for all: the mean of all classes.
        start = jnp.tile(features.mean(axis=0), (num_classes, 1))
        head, _ = jax.lax.scan(step, start, length=INNER_STEPS)
        return cross_entropies(head).mean()

    tx = optax.adam(OUTER_LR)

    def update(carry, _):
        scores, state = carry
        updates, state = tx.update(jax.grad(objective)(scores), state)
        return (optax.apply_updates(scores, updates), state), None

    scores = jnp.zeros(len(features))
    (scores, _), _ = jax.lax.scan(
        update, (scores, tx.init(scores)), length=OUTER_STEPS
    )
    return shares(scores)
