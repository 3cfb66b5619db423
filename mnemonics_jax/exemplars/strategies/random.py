"""Real images, drawn at random from each class."""

import numpy as np

from mnemonics_jax.exemplars.strategies import Candidates

learn = None


def select(candidates: Candidates) -> np.ndarray:
    """Draws images of each class without replacement."""
    generator = np.random.Generator(
        np.random.Philox(np.random.SeedSequence(candidates.seed))
    )
    return candidates.take(
        [
            generator.permutation(len(members))[: candidates.num]
            for members in candidates.members()
        ]
    )
