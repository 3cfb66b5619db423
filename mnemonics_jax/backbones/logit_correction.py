"""Corrected logits: a scale and a shift per class, part of the head.

A method's `end_phase` sets them (BiC's alpha and beta); training does not
change them. As params of the head they apply wherever the model is used:
in the next phase's reference model, fine-tuning, exemplar learning and
evaluation.
"""

import jax
import jax.numpy as jnp

from mnemonics_jax.types import Backbone, Params, Variables

FIELDS = ('scale', 'shift')


def wrap(backbone: Backbone) -> Backbone:
    """The model with logits `scale * logits + shift`, initially 1 and 0."""

    def init(key: jax.Array) -> Variables:
        variables = backbone.init(key)
        head = variables.params['head']
        count = head['kernel'].shape[0]
        dtype = variables.dtype
        scale, shift = jnp.ones(count, dtype), jnp.zeros(count, dtype)
        head = {**head, 'scale': scale, 'shift': shift}
        return variables.replace(params={**variables.params, 'head': head})

    def classify(
        head: Params, features: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits, scores = backbone.classify(head, features)
        return head['scale'] * logits + head['shift'], scores

    return backbone._replace(init=init, classify=classify)


def mask_updates(head_updates: Params) -> Params:
    """Zeroes the updates of scale and shift, if the head has them."""
    frozen = {
        name: jnp.zeros_like(head_updates[name])
        for name in FIELDS
        if name in head_updates
    }
    return {**head_updates, **frozen}
