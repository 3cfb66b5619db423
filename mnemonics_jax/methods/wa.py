"""Weight aligning (Zhao et al. 2020): new head rows scaled to the old norm.

L = (1 - lambda) L_ce + lambda L_kd with lambda = old / seen classes and T = 2,
as in BiC. After training, the rows of new classes are multiplied by the mean
norm of the old rows over that of the new rows. The paper also clips the head's
weights to positive values in training, so that norms are comparable; like the
common public implementations, this one does not.

A cosine head ignores norms, so the method needs the linear head.
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax.core import rules
from mnemonics_jax.core.numerics import norms
from mnemonics_jax.methods import bic
from mnemonics_jax.types import HeldOut, Method, Params, Phase

SETTINGS = {
    'temperature': (2.0, rules.POSITIVE, 'Divides old logits in distillation.'),
}
DEFAULTS = {'backbone.head': 'linear', 'method.imprint': False}
HEADS = ('linear',)


def align(head: Params, held_out: HeldOut, phase: Phase) -> Params:
    """Scales new rows to the mean norm of old rows.

    Args:
        head: parameters with 'kernel' f32[K, D].
        held_out: not used.
        phase: a phase with at least one old and one new class.
    """
    del held_out
    lengths = norms(head['kernel'])[:, 0]
    classes = jnp.arange(lengths.shape[0])
    old = classes < phase.num_old
    new = (classes < phase.num_seen) & ~old
    ratio = jnp.mean(lengths, where=old) / jnp.mean(lengths, where=new)
    factor = jnp.where(new, ratio, 1)[:, None]
    return {**head, 'kernel': head['kernel'] * factor}


def make(settings: Any) -> Method:
    """Makes the method."""
    return Method(
        loss=bic.balanced_loss(settings.temperature),
        uses_reference=True,
        predictor='cnn',
        end_phase=align,
    )
