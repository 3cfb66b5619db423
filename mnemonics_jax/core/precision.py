"""JAX's switch for float64, which `precision=float64` needs."""

import jax
import jax.numpy as jnp


def switch(precision: str) -> None:
    """Turns `jax_enable_x64` on if a precision needs it, and else off.

    For commands, before they compute anything: what a run computes depends on
    its configuration alone, not on `JAX_ENABLE_X64` in the environment.
    """
    jax.config.update('jax_enable_x64', precision == 'float64')


def check(precision: str) -> None:
    """Raises ValueError if JAX would compute in float32 instead."""
    if precision == 'float64' and jnp.result_type(float) != jnp.float64:
        raise ValueError(
            "precision='float64': must have JAX_ENABLE_X64=1 in the "
            "environment, or jax.config.update('jax_enable_x64', True) before "
            'anything is computed'
        )
