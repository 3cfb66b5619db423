"""Exemplars: how they are chosen, learned, adjusted and kept between phases."""

from mnemonics_jax.exemplars.learning import (
    STRATEGIES,
    Learned,
    Setting,
    adjust,
    as_exemplars,
    held_out_loss,
    learn,
    train_on_exemplars,
)

__all__ = [
    'STRATEGIES',
    'Learned',
    'Setting',
    'adjust',
    'as_exemplars',
    'held_out_loss',
    'learn',
    'train_on_exemplars',
]
