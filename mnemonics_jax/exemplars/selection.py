"""Choosing real images as exemplars: at random, or by herding."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from mnemonics_jax.prototypes import herding

SELECTIONS = ('random', 'herding')


@functools.partial(jax.jit, static_argnames='num')
def rank_by_herding(
    features: jax.Array, mask: jax.Array, num: int
) -> jax.Array:
    """`prototypes.herding` of c classes: [c, n, D], [c, n] -> int32[c, num].

    Class by class: the features of one stay in the processor's cache from try
    to try, and none waits for the class that takes most tries.
    """
    return jax.lax.map(
        lambda each: herding(each[0], each[1], num), (features, mask)
    )


def pad_classes(
    features: np.ndarray, members: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features of each class as rows of one array.

    Args:
        features: f32[n, D].
        members: of each of c classes int[at most size], rows of `features`.
        size: of a class with padding.

    Returns:
        f32[c, size, D] with zeros for padding, and bool[c, size], false there.
    """
    shape = (len(members), size)
    padded = np.zeros((*shape, features.shape[1]), np.float32)
    mask = np.zeros(shape, bool)
    for row, member in enumerate(members):
        np.take(features, member, axis=0, out=padded[row, : len(member)])
        mask[row, : len(member)] = True
    return padded, mask


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
    ranks: Sequence[np.ndarray] | np.ndarray
    if rule == 'random':
        generator = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(seed))
        )
        ranks = [generator.permutation(len(m))[:num] for m in members]
    elif features is None:
        raise ValueError(f'rule={rule!r}: needs features')
    else:
        padded, mask = pad_classes(features, members, max_class_size)
        ranks = np.asarray(rank_by_herding(padded, mask, num))
    chosen = np.full((len(members), num), -1, np.int32)
    for row, (member, padded_rank) in enumerate(
        zip(members, ranks, strict=True)
    ):
        rank = padded_rank[padded_rank >= 0]
        chosen[row, : len(rank)] = member[rank]
    return chosen
