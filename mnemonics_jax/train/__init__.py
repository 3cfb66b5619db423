"""Model training: step, evaluation, resumable loops and checkpoints."""

from mnemonics_jax.train.step import (
    StepInputs,
    StepSettings,
    Trainer,
    make_optimizer,
    make_trainer,
    scheduled_rate,
    valid_slots,
    with_slots,
)

__all__ = [
    'StepInputs',
    'StepSettings',
    'Trainer',
    'make_optimizer',
    'make_trainer',
    'scheduled_rate',
    'valid_slots',
    'with_slots',
]
