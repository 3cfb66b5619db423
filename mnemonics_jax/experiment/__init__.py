"""A run: its components, its phases and their stages, and its results."""

from mnemonics_jax.experiment.phase_loop import (
    first_carry,
    prepare,
    run,
    run_experiment,
)

__all__ = ['first_carry', 'prepare', 'run', 'run_experiment']
