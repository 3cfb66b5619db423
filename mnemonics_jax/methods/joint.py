"""Joint training: all data of all classes seen, the upper bound.

The one method that keeps real images of old phases; exemplars are chosen as for
the others, so that the other two classifiers can be measured, but the training
has no use for them.
"""

from typing import Any

from mnemonics_jax.methods import finetune
from mnemonics_jax.types import Method

SETTINGS = {}  # type: dict[str, Any]
DEFAULTS = {'head': 'cosine', 'imprint': True, 'freeze_old_rows': False}
HEADS = finetune.HEADS


def make(settings: Any) -> Method:
    """The method; it has no settings of its own."""
    return finetune.make(settings)._replace(keeps_data=True)
