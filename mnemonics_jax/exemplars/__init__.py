"""Exemplars: how they are selected, learned, adjusted and kept in memory."""

from mnemonics_jax.exemplars.learning import (
    adjust,
    flat_exemplars,
    held_out_loss,
    learn,
    train_on_exemplars,
)

__all__ = [
    'adjust',
    'flat_exemplars',
    'held_out_loss',
    'learn',
    'train_on_exemplars',
]
