"""LUCIR (Hou et al. 2019): cosine head, less-forget and margin ranking losses.

L = L_ce + lambda L_lf + L_mr, lambda = lambda_base sqrt(old / new classes) with
lambda_base = 5 for CIFAR and 10 for ImageNet; L_mr has margin 0.5 to the two
highest-scoring new classes, for examples of old classes only. The margin is a
difference of cosines, so the method needs the cosine head.
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import losses
from mnemonics_jax.core import rules
from mnemonics_jax.types import Method

SETTINGS = {
    'lambda_base': (
        5.0,
        rules.NOT_NEGATIVE,
        'Weight of the less-forget term, times sqrt(old / new classes).',
    ),
    'margin': (
        0.5,
        rules.NOT_NEGATIVE,
        'Lead of old classes over the nearest new ones, in cosines.',
    ),
    'margin_weight': (
        1.0,
        rules.NOT_NEGATIVE,
        'Weight of the margin ranking term.',
    ),
    'top_k': (
        2,
        rules.at_least(1, 10**6),
        'Number of nearest new classes to rank.',
    ),
}
DEFAULTS = {'method.freeze_old_rows': True}
HEADS = ('cosine',)


def make(settings: Any) -> Method:
    """Makes the method."""

    def loss(outputs, ref_outputs, labels, phase):
        cross_entropy = losses.cross_entropy(
            outputs.logits, labels, phase.num_seen
        )
        num_new = phase.num_seen - phase.num_old
        num_old = jnp.asarray(phase.num_old, cross_entropy.dtype)
        ratio = num_old / jnp.maximum(num_new, 1)
        less_forget = losses.less_forget(outputs.features, ref_outputs.features)
        ranking = losses.margin_ranking(
            outputs.scores,
            labels,
            phase.num_old,
            phase.num_seen,
            margin=settings.margin,
            top_k=settings.top_k,
        )
        ones = jnp.ones_like(cross_entropy)
        is_old = (labels < phase.num_old).astype(ones.dtype)
        return {
            'cross_entropy': (cross_entropy, ones),
            'less_forget': (
                settings.lambda_base * jnp.sqrt(ratio) * less_forget,
                ones,
            ),
            'margin_ranking': (settings.margin_weight * ranking, is_old),
        }

    return Method(loss=loss, uses_reference=True, predictor='cnn')
