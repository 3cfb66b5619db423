"""Joint training on all data of all seen classes, the upper bound.

The only method that keeps real images of old phases. Training does not use
exemplars; they are chosen as for other methods, so that all classifiers can be
evaluated.
"""

from typing import Any

from mnemonics_jax.methods import finetune
from mnemonics_jax.types import Method

SETTINGS = {}  # type: dict[str, Any]
DEFAULTS = finetune.DEFAULTS
HEADS = finetune.HEADS


def make(settings: Any) -> Method:
    """Makes the method; it has no settings."""
    return finetune.make(settings)._replace(keeps_data=True)
