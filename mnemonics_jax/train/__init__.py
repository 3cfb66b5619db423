"""Training a model: the step, evaluation, loops that resume, checkpoints."""

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
