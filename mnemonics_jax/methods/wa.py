"""Weight aligning (Zhao et al. 2020): new head rows shrunk to the old ones.

L = (1 - lambda) L_ce + lambda L_kd with lambda = old / seen classes and T = 2,
as in BiC. After training the rows of the new classes are multiplied by the mean
norm of the old rows over that of the new ones. The paper also clips the head's
weights to positive values while training, so that norms compare; the public
implementations that the field measures with do not, and neither does this.

Norms mean nothing to a cosine head, so this method needs the linear one.
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
DEFAULTS = {'head': 'linear', 'imprint': False, 'freeze_old_rows': False}
HEADS = ('linear',)


def align(head: Params, held_out: HeldOut, phase: Phase) -> Params:
    """Gives new rows the mean norm of old ones.

    Args:
        head: with 'kernel' f32[K, D].
        held_out: not read.
        phase: with at least one old and one new class.
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
    """The method with its settings."""
    return Method(
        loss=bic.balanced_loss(settings.temperature),
        uses_reference=True,
        predictor='cnn',
        end_phase=align,
    )
