"""LwF (Li and Hoiem 2016) with exemplars, as in the Mnemonics paper.

It has iCaRL's loss and settings (see `icarl`), but is evaluated by the
network's own head. In the authors' table both rows come from one training run.
"""

from typing import Any

from mnemonics_jax.methods import icarl
from mnemonics_jax.types import Method

SETTINGS = icarl.SETTINGS
DEFAULTS = icarl.DEFAULTS
HEADS = icarl.HEADS


def make(settings: Any) -> Method:
    """Makes the method."""
    return icarl.make(settings)._replace(predictor='cnn')
