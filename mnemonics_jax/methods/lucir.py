"""LUCIR (Hou et al. 2019): cosine head, less-forget and margin ranking.

L = L_ce + lambda L_lf + L_mr, lambda = lambda_base sqrt(old / new classes) with
lambda_base = 5 for CIFAR and 10 for ImageNet; margin 0.5 against the two
nearest new classes, over examples of old classes only. The scores that the
margin compares are cosines, so this method needs the cosine head.
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import losses
from mnemonics_jax.types import Method


def make(config: Any) -> Method:
    """The method with `lambda_base`, `margin`, `margin_weight` and `top_k`."""

    def loss(outputs, ref_outputs, labels, phase):
        cross_entropy = losses.cross_entropy(
            outputs.logits, labels, phase.num_seen
        )
        num_new = phase.num_seen - phase.num_old
        ratio = phase.num_old / jnp.maximum(num_new, 1)
        less_forget = losses.less_forget(outputs.features, ref_outputs.features)
        ranking = losses.margin_ranking(
            outputs.scores,
            labels,
            phase.num_old,
            phase.num_seen,
            margin=config.margin,
            top_k=config.top_k,
        )
        everywhere = jnp.ones_like(cross_entropy)
        is_old = (labels < phase.num_old).astype(everywhere.dtype)
        return {
            'cross_entropy': (cross_entropy, everywhere),
            'less_forget': (
                config.lambda_base * jnp.sqrt(ratio) * less_forget,
                everywhere,
            ),
            'margin_ranking': (config.margin_weight * ranking, is_old),
        }

    return Method(loss=loss, uses_reference=True, predictor='cnn')
