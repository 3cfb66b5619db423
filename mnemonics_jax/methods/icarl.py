"""iCaRL (Rebuffi et al. 2017), as compared with in the Mnemonics paper.

Cross entropy over the seen classes plus distillation of the previous model's
logits of the old classes, both on new data and exemplars; evaluated by nearest
mean of exemplars. The paper weights the two by lambda = 0.5 and 1 - lambda;
the authors' code by 1 and beta T^2 = 0.25 * 4 = 1, which is the default here
(`method.icarl.distill_weight` is the second weight).
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import losses
from mnemonics_jax.backbones import heads
from mnemonics_jax.core import rules
from mnemonics_jax.types import Method

SETTINGS = {
    'distill_weight': (
        1.0,
        rules.NOT_NEGATIVE,
        'Weight of distillation beside cross entropy.',
    ),
    'temperature': (2.0, rules.POSITIVE, 'Divides old logits in distillation.'),
}
# As in the authors' code. LUCIR's code runs iCaRL with a linear head, without
# imprinting or frozen rows: a different baseline of the same name.
DEFAULTS = {'method.freeze_old_rows': True}
HEADS = tuple(heads.HEADS)


def make(settings: Any) -> Method:
    """Makes the method."""
    weight, temperature = settings.distill_weight, settings.temperature

    def loss(outputs, ref_outputs, labels, phase):
        cross_entropy = losses.cross_entropy(
            outputs.logits, labels, phase.num_seen
        )
        distilled = losses.distillation(
            outputs.logits, ref_outputs.logits, phase.num_old, temperature
        )
        ones = jnp.ones_like(cross_entropy)
        return {
            'cross_entropy': (cross_entropy, ones),
            'distillation': (weight * distilled, ones),
        }

    return Method(loss=loss, uses_reference=True, predictor='nme')
