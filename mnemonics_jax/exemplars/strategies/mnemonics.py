"""Mnemonics (Liu et al. 2020): images whose pixels are learned (Eq. 8, 9).

Learning starts from real images that the strategy `exemplars.init` selects.
"""

import numpy as np

from mnemonics_jax.exemplars import learning
from mnemonics_jax.exemplars.strategies import Candidates, strategy

learn = learning.learn


def select(candidates: Candidates) -> np.ndarray:
    """Selects the images to start from."""
    return strategy(candidates.init).select(candidates)
