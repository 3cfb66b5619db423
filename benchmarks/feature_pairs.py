"""Evaluation and herding, ours and the peers' in PyTorch."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch_peers
from problems import BOUND, Problem, draw, make_network
from timing import Pair, jitted_work

from mnemonics_jax import prototypes


def evaluation(problem: Problem, *, num_batches: int, per_class: int) -> Pair:
    """Predictions of the head and of the nearest mean of exemplars."""
    sizes = problem.sizes
    images, _ = draw(problem, num_batches, sizes.batch)
    kept, _ = draw(problem, sizes.num_classes, per_class, seed=1)
    peer = torch_peers.evaluation(
        make_network(problem),
        images.reshape(-1, *images.shape[2:]),
        kept,
        batch_size=sizes.batch,
    )
    flat = kept.reshape(-1, *kept.shape[2:])
    padding = np.zeros((-len(flat) % sizes.batch, *flat.shape[1:]), np.float32)
    flat = np.concatenate([flat, padding])
    flat = flat.reshape(-1, sizes.batch, *flat.shape[1:])
    slots = (sizes.num_classes, per_class)
    arguments = jax.device_put((problem.variables, images, flat))
    # Of the predictions, the share that differs.
    names = ('features', 'logits', 'cnn', 'nme')
    ours = jitted_work(_evaluation(problem, slots), arguments)
    return Pair(ours, peer, dict.fromkeys(names, BOUND))


def _evaluation(problem: Problem, slots: tuple[int, int]) -> Any:
    """Ours, jitted: `(variables, batches, padded exemplars) -> results`."""

    @jax.jit
    def predict(variables, batches, kept):
        def embed(images):
            found = jax.lax.map(
                lambda batch: problem.backbone.embed(variables, batch)[0],
                images,
            )
            return found.reshape(-1, found.shape[-1])

        found = embed(kept)[: math.prod(slots)]
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
    """Ranks of each class; features f32[K, n, D], `num` of each n."""
    peer = torch_peers.herding(features, num, device=device)
    masks = np.ones(features.shape[:2], bool)

    @jax.jit
    def rank(features, masks):
        ranks = jax.vmap(lambda f, m: prototypes.herding(f, m, num))
        return {'ranks': ranks(features, masks)}

    arguments = jax.device_put((features, masks))
    return Pair(jitted_work(rank, arguments), peer, {'ranks': BOUND})
