"""A class-incremental method of one's own, in one file.

Cross entropy, and the features of the model of the phase before as targets.
This file runs it on digits; with any other run it goes by

    python -m mnemonics_jax.main --config.plugins=examples/own_method.py \
        --config.method.name=own_method --config.method.own_method.weight=2.0

as it would if it lay in mnemonics_jax/methods.
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import Method, losses
from mnemonics_jax.core import rules

# The fields of the section method.own_method: default, rule and text.
SETTINGS = {'weight': (1.0, rules.NOT_NEGATIVE, 'Weight of old features.')}
# Of fields that all methods have.
DEFAULTS = {'head': 'cosine', 'imprint': True, 'freeze_old_rows': False}
HEADS = ('cosine', 'linear')


def make(settings: Any) -> Method:
    """The method with its settings."""

    def loss(outputs, ref_outputs, labels, phase):
        moved = jnp.mean((outputs.features - ref_outputs.features) ** 2, axis=1)
        values = {
            'cross_entropy': losses.cross_entropy(
                outputs.logits, labels, phase.num_seen
            ),
            'features': settings.weight * moved,
        }
        # Of each term the values and weights of the examples of a batch.
        return {k: (v, jnp.ones_like(v)) for k, v in values.items()}

    return Method(loss=loss, uses_reference=True, predictor='cnn')


def main() -> None:
    """Digits in four phases, few epochs, with herding exemplars."""
    from small_run import run  # A plug-in runs where this is not found.

    run(
        plugins=__file__,
        method__name='own_method',
        exemplars__strategy='herding',
    )


if __name__ == '__main__':
    main()
