"""LwF (Li and Hoiem 2016) with exemplars, as the paper compares with it.

The loss is iCaRL's (see there for the constants as published and as coded);
the difference is the classifier that it is judged by, the network's own head.
In the authors' table the two rows are two readings of one training run.
"""

from typing import Any

from mnemonics_jax.methods import icarl
from mnemonics_jax.types import Method

SETTINGS = icarl.SETTINGS
DEFAULTS = icarl.DEFAULTS
HEADS = icarl.HEADS


def make(settings: Any) -> Method:
    """The method with its settings."""
    return icarl.make(settings)._replace(predictor='cnn')
