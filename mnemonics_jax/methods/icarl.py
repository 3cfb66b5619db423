"""iCaRL (Rebuffi et al. 2017) in the form the paper compares with.

Cross entropy over the classes seen plus distillation of the previous model's
logits of the old classes, on new data and exemplars alike; judged by nearest
exemplar means. The paper weighs the two by lambda = 0.5 and 1 - lambda;
the authors' code adds them with weights 1 and beta T^2 = 0.25 * 4 = 1, which is
the default here (`method.icarl.distill_weight` is that second weight).
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import losses
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
# As in the authors' code. LUCIR's code runs iCaRL with a linear head instead,
# nothing imprinted and nothing frozen: another baseline under the same name.
DEFAULTS = {'head': 'cosine', 'imprint': True, 'freeze_old_rows': True}
HEADS = ('cosine', 'linear', 'local_similarity')


def make(settings: Any) -> Method:
    """The method with its settings."""
    weight, temperature = settings.distill_weight, settings.temperature

    def loss(outputs, ref_outputs, labels, phase):
        cross_entropy = losses.cross_entropy(
            outputs.logits, labels, phase.num_seen
        )
        distilled = losses.distillation(
            outputs.logits, ref_outputs.logits, phase.num_old, temperature
        )
        everywhere = jnp.ones_like(cross_entropy)
        return {
            'cross_entropy': (cross_entropy, everywhere),
            'distillation': (weight * distilled, everywhere),
        }

    return Method(loss=loss, uses_reference=True, predictor='nme')
