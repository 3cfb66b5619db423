"""A run: its components, the phases and their stages, and what it leaves."""

from mnemonics_jax.experiment.phase_loop import (
    first_carry,
    prepare,
    run,
    run_experiment,
)

__all__ = ['first_carry', 'prepare', 'run', 'run_experiment']
