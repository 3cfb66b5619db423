"""Evaluation and herding, ours and in PyTorch."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import BOUND, HAS_TORCH, Problem, draw, make_network
from timing import Pair, jit_of_a_run, jitted_work

from mnemonics_jax import prototypes
from mnemonics_jax.exemplars.strategies import herding as herding_strategy

if HAS_TORCH:
    import torch_peers


def evaluation(problem: Problem, *, num_batches: int, per_class: int) -> Pair:
    """Predictions of the head and of the nearest mean of exemplars."""
    sizes = problem.sizes
    images, _ = draw(problem, num_batches, sizes.batch)
    exemplars, _ = draw(problem, sizes.num_classes, per_class, seed=1)
    flat = exemplars.reshape(-1, *exemplars.shape[2:])
    padding = np.zeros((-len(flat) % sizes.batch, *flat.shape[1:]), np.float32)
    flat = np.concatenate([flat, padding])
    flat = flat.reshape(-1, sizes.batch, *flat.shape[1:])
    slots = (sizes.num_classes, per_class)
    arguments = jax.device_put((problem.variables, images, flat))
    # For predictions, the error is the share that differs.
    names = ('features', 'logits', 'cnn', 'nme')
    ours = jitted_work(_evaluation(problem, slots), arguments)
    peer = HAS_TORCH and torch_peers.evaluation(
        make_network(problem),
        images.reshape(-1, *images.shape[2:]),
        exemplars,
        batch_size=sizes.batch,
    )
    return Pair(ours, peer or None, dict.fromkeys(names, BOUND))


def _evaluation(problem: Problem, slots: tuple[int, int]) -> Any:
    """Ours, jitted: `(variables, batches, padded exemplars) -> results`."""

    @jit_of_a_run
    def predict(variables, batches, exemplars):
        def embed(images):
            found = jax.lax.map(
                lambda batch: problem.backbone.embed(variables, batch)[0],
                images,
            )
            return found.reshape(-1, found.shape[-1])

        found = embed(exemplars)[: math.prod(slots)]
        means = prototypes.class_means(
            found.reshape(*slots, -1), jnp.ones(slots, bool)
        )
        features = embed(batches)
        head = variables.params['head']
        logits, _ = problem.backbone.classify(head, features)
        scores = prototypes.nme_scores(features, means)
        return {
            'features': features,
            'logits': logits,
            'cnn': jnp.argmax(logits, axis=-1),
            'nme': jnp.argmax(scores, axis=-1),
        }

    return predict


def herding(features: np.ndarray, num: int, *, device: str = 'cpu') -> Pair:
    """Ranks `num` of the features f32[K, n, D] of each class."""
    masks = np.ones(features.shape[:2], bool)
    arguments = jax.device_put((features, masks))

    def rank(features, masks):
        return {'ranks': herding_strategy.rank_by_herding(features, masks, num)}

    peer = HAS_TORCH and torch_peers.herding(features, num, device=device)
    ours = jitted_work(rank, arguments)
    return Pair(ours, peer or None, {'ranks': BOUND})
