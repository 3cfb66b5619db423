"""Herding (Rebuffi et al. 2017): real images near the mean of their class."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from mnemonics_jax.exemplars.strategies import Candidates
from mnemonics_jax.prototypes import herding

learn = None


@functools.partial(jax.jit, static_argnames='num')
def rank_by_herding(
    features: jax.Array, mask: jax.Array, num: int
) -> jax.Array:
    """`prototypes.herding` of c classes: [c, n, D], [c, n] -> int32[c, num].

    Class by class: the features of one class stay in the processor's cache, and
    no class waits for the one that takes the most tries.
    """
    return jax.lax.map(
        lambda each: herding(each[0], each[1], num), (features, mask)
    )


def pad_classes(
    features: np.ndarray,
    members: Sequence[np.ndarray],
    size: int,
    rows: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of each class as rows of one array.

    Args:
        features: f32[n, D].
        members: for each of c classes int[n_c], its rows of `features`.
        size: rows of a padded class, >= every n_c.
        rows: classes to pad to, if more than c.

    Returns:
        f32[max(c, rows), size, D] with zeros for padding, and bool[., size],
        false there.
    """
    shape = (max(len(members), rows), size)
    padded = np.zeros((*shape, features.shape[1]), features.dtype)
    mask = np.zeros(shape, bool)
    for row, member in enumerate(members):
        np.take(features, member, axis=0, out=padded[row, : len(member)])
        mask[row, : len(member)] = True
    return padded, mask


def select(candidates: Candidates) -> np.ndarray:
    """Selects images whose mean feature stays close to the class mean."""
    members = candidates.members()
    padded, mask = pad_classes(
        candidates.features(),
        members,
        candidates.max_class_size,
        candidates.max_classes,
    )
    ranks = rank_by_herding(padded, mask, candidates.num)
    return candidates.take(np.asarray(ranks)[: len(members)])
