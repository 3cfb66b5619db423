"""Plug-in with a bound for study F: LUCIR with soft targets of old exemplars.

--config.plugins=experiments/soft_targets.py --config.method.name=soft_targets

In the cross entropy, an example of an old class has the target

    (1 - share) onehot + share softmax(logits of the model before, old classes).

The model before sees the very view that is trained on, and all probabilities
count: a few of them, stored once for each image, can hardly do better.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mnemonics_jax import losses
from mnemonics_jax.core import rules
from mnemonics_jax.methods import lucir
from mnemonics_jax.types import Method

SETTINGS = {
    **lucir.SETTINGS,
    'share': (0.5, rules.number(0, 1), 'Share of the model before.'),
}
DEFAULTS, HEADS = lucir.DEFAULTS, lucir.HEADS


def make(settings: Any) -> Method:
    """Makes the method."""
    method = lucir.make(settings)

    def loss(outputs, ref_outputs, labels, phase):
        terms = method.loss(outputs, ref_outputs, labels, phase)
        values, weights = terms['cross_entropy']
        masked = losses.mask_logits(ref_outputs.logits, phase.num_old)
        logits = losses.mask_logits(outputs.logits, phase.num_seen)
        soft = -jnp.sum(
            jax.nn.softmax(masked) * jax.nn.log_softmax(logits), axis=-1
        )
        mixed = (1 - settings.share) * values + settings.share * soft
        values = jnp.where(labels < phase.num_old, mixed, values)
        return {**terms, 'cross_entropy': (values, weights)}

    return method._replace(loss=loss)
