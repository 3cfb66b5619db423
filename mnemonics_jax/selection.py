"""Choosing real images as exemplars: at random, or by herding."""

import functools

import jax
import numpy as np

from mnemonics_jax.prototypes import herding

SELECTIONS = ('random', 'herding')


@functools.partial(jax.jit, static_argnames='num')
def rank_by_herding(
    features: jax.Array, mask: jax.Array, num: int
) -> jax.Array:
    """`prototypes.herding` of c classes: [c, n, D], [c, n] -> int32[c, num]."""
    return jax.vmap(lambda f, m: herding(f, m, num))(features, mask)


def select(
    rule: str,
    labels: np.ndarray,
    features: np.ndarray | None,
    *,
    classes: tuple[int, int],
    num: int,
    max_class_size: int,
    seed: tuple[int, ...],
) -> np.ndarray:
    """Ranks the examples of each new class; the best `num` of each are kept.

    Args:
        rule: 'random' or 'herding'.
        labels: int32[n], of the phase's examples.
        features: f32[n, D], of the current model; read by 'herding' alone.
        classes: low and high of the new classes.
        num: exemplars a class.
        max_class_size: most examples of any class of the data, so that shapes
            do not depend on the phase.
        seed: of the random choice.

    Returns:
        int32[c, num], positions of examples, best first; -1 where a class has
        fewer examples.
    """
    members = [np.flatnonzero(labels == k) for k in range(*classes)]
    if rule == 'random':
        generator = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(seed))
        )
        ranks = [generator.permutation(len(m))[:num] for m in members]
    else:
        shape = (len(members), max_class_size)
        padded = np.zeros((*shape, features.shape[1]), np.float32)
        mask = np.zeros(shape, bool)
        for row, member in enumerate(members):
            padded[row, : len(member)] = features[member]
            mask[row, : len(member)] = True
        ranks = np.asarray(rank_by_herding(padded, mask, num))
    chosen = np.full((len(members), num), -1, np.int32)
    for row, (member, rank) in enumerate(zip(members, ranks, strict=True)):
        rank = rank[rank >= 0]
        chosen[row, : len(rank)] = member[rank]
    return chosen
