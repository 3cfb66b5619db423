"""Stateless PRNG keys.

A run resumes at any step because nothing random depends on earlier steps: each
key is folded from (seed, phase, stage, epoch), and per-example keys fold in the
example's index (see `data.augment`).
"""

import enum

import jax
import jax.numpy as jnp


class Stage(enum.IntEnum):
    """The stages of a phase; their numbers are folded into the keys."""

    INIT = 0
    TRAIN = 1
    SELECT = 2
    LEARN = 3
    ADJUST = 4
    FINETUNE = 5
    HELD_OUT_LOSS = 6
    HOLD_OUT = 7


def stage_key(seed: int, phase: int, stage: Stage, epoch: int = 0) -> jax.Array:
    """The key of an epoch of a stage of a phase."""
    key = jax.random.key(seed)
    for number in (phase, int(stage), epoch):
        key = jax.random.fold_in(key, number)
    return key


def draw_minibatches(
    key: jax.Array, mask: jax.Array, num: int, size: int
) -> jax.Array:
    """Draws minibatches of valid positions, each without replacement.

    Args:
        key: PRNG key.
        mask: bool[n], True for valid positions.
        num: number of minibatches, drawn independently.
        size: number of positions in each; 0, n or more takes all, in order.

    Returns:
        int32[num, size or n], -1 where fewer than `size` are valid.
    """
    count = mask.shape[0]
    if size == 0 or size >= count:
        everything = jnp.where(mask, jnp.arange(count, dtype=jnp.int32), -1)
        return jnp.broadcast_to(everything, (num, count))

    def draw(key):
        draws = jax.random.uniform(key, (count,), jnp.float32)
        rank = jnp.where(mask, draws, 2.0)
        order = jnp.argsort(rank)[:size].astype(jnp.int32)
        return jnp.where(mask[order], order, -1)

    return jax.vmap(draw)(jax.random.split(key, num))
