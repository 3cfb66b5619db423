"""Configurations: fields, presets, and their checks before a run."""

from mnemonics_jax.config.arguments import apply_arguments, set_imagenet
from mnemonics_jax.config.fields import default_config
from mnemonics_jax.config.resolve import (
    BUDGETS,
    check_field,
    resolve,
    to_json,
)

__all__ = [
    'BUDGETS',
    'apply_arguments',
    'check_field',
    'default_config',
    'resolve',
    'set_imagenet',
    'to_json',
]
