"""The outer update: pixels that move against a gradient, within [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class ExemplarState(struct.PyTreeNode):
    """State of learning a set of exemplars.

    Attributes:
        step: int32[], outer updates made.
        pixels: f32[n, ...] in [0, 1].
        opt_state: state of the outer optax transform.
    """

    step: jax.Array
    pixels: jax.Array
    opt_state: Any


def init_state(
    pixels: jax.Array, tx: optax.GradientTransformation
) -> ExemplarState:
    """State before the first outer step, from f32[n, ...] pixels in [0, 1]."""
    return ExemplarState(jnp.zeros((), jnp.int32), pixels, tx.init(pixels))


def apply_gradient(
    state: ExemplarState,
    grads: jax.Array,
    tx: optax.GradientTransformation,
    scale: jax.Array | float = 1.0,
) -> ExemplarState:
    """One outer update of the pixels, which stay in [0, 1].

    Args:
        state: before the update.
        grads: f32[n, ...], such as of `bilevel.pixel_gradient`.
        tx: the outer optax transform.
        scale: f32[], multiplies the update: the learning rate's decay.
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.pixels)
    pixels = jnp.clip(state.pixels + scale * updates, 0, 1)
    return ExemplarState(state.step + 1, pixels, opt_state)


def in_units(
    tx: optax.GradientTransformation, unit: jax.Array | float
) -> optax.GradientTransformation:
    """`tx` as if the variable were measured in `unit`.

    With the standard deviations of the data as unit the pixels move exactly as
    they would if the mean- and std-normalised pixels were the variable, which
    is the space that learning rates in the paper refer to.

    Args:
        tx: a transform.
        unit: broadcastable to the variable, > 0.
    """

    def init(params):
        return tx.init(params / unit)

    def update(grads, state, params=None):
        scaled = None if params is None else params / unit
        updates, state = tx.update(grads * unit, state, scaled)
        return updates * unit, state

    return optax.GradientTransformation(init, update)
