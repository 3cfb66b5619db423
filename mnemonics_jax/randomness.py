"""Keys without state: everything random follows from where it happens.

A run resumes at any step because nothing random depends on what ran before:
each key is folded from (seed, phase, stage, epoch), and per-example keys fold
in the example's index (see `augment`).
"""

import enum

import jax


class Stage(enum.IntEnum):
    """The stages of a phase; the numbers are part of the random streams."""

    INIT = 0
    TRAIN = 1
    SELECT = 2
    LEARN = 3
    ADJUST = 4
    FINETUNE = 5
    GAUGE = 6
    HOLD_OUT = 7
    FORGET = 8


def stage_key(seed: int, phase: int, stage: Stage, epoch: int = 0) -> jax.Array:
    """The key of an epoch of a stage of a phase of the run with `seed`."""
    key = jax.random.key(seed)
    for number in (phase, int(stage), epoch):
        key = jax.random.fold_in(key, number)
    return key
