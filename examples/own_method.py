"""A user's class-incremental method in one file.

Cross entropy plus the squared distance to the previous model's features.
Running this file trains on digits. Use it in another run with

    python -m mnemonics_jax.main --config.plugins=examples/own_method.py \
        --config.method.name=own_method --config.method.own_method.weight=2.0
"""

from typing import Any

import jax.numpy as jnp

from mnemonics_jax import Method, losses
from mnemonics_jax.core import rules

# Fields of the section method.own_method: default, rule and text.
SETTINGS = {'weight': (1.0, rules.NOT_NEGATIVE, 'Weight of old features.')}
# Defaults of fields that all methods share, where they differ from the usual.
DEFAULTS = {'method.imprint': False}
HEADS = ('cosine', 'linear')


def make(settings: Any) -> Method:
    """Makes the method."""

    def loss(outputs, ref_outputs, labels, phase):
        change = outputs.features - ref_outputs.features
        values = {
            'cross_entropy': losses.cross_entropy(
                outputs.logits, labels, phase.num_seen
            ),
            'features': settings.weight * jnp.mean(change**2, axis=1),
        }
        # Each term has values f32[B] and weights f32[B] of the examples.
        return {k: (v, jnp.ones_like(v)) for k, v in values.items()}

    return Method(loss=loss, uses_reference=True, predictor='cnn')


def main() -> None:
    """Trains on digits in four phases, with herding exemplars."""
    from small_run import run  # Not importable when this file is a plug-in.

    run(
        plugins=__file__,
        method__name='own_method',
        exemplars__strategy='herding',
    )


if __name__ == '__main__':
    main()
