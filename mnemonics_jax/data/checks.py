"""What the sources that read files check of their options and their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def text_option(options: Any, field: str, meaning: str) -> str:
    """Reads a text that must be there from the options of a source.

    Args:
        options: a mapping or an object with attributes.
        field: name of the option.
        meaning: what the text is, for the message.

    Raises:
        ValueError: the value is missing, empty or no text.
    """
    value = option(options, field)
    if not isinstance(value, str) or not value:
        raise ValueError(f'data.{field}={value!r}: must be {meaning}')
    return value


def option(options: Any, field: str, default: Any = None) -> Any:
    """Reads an option that may be missing or None, for the default."""
    if isinstance(options, Mapping):
        value = options.get(field)
    else:
        value = getattr(options, field, None)
    return default if value is None else value


def check_labels(
    labels: np.ndarray, class_names: Sequence[str], name: str
) -> None:
    """Checks that every class, and nothing else, has images in a split.

    Args:
        labels: int[n].
        class_names: K names, by label.
        name: what a message calls the labels.

    Raises:
        ValueError: a label is not in 0..K-1, or a class has no image.
    """
    num_classes = len(class_names)
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(
            f'{name}: label {outside[0]}: must be in 0..{num_classes - 1}'
        )
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        missing = int(counts.argmin())
        raise ValueError(
            f'{name}: no image of the class {class_names[missing]!r} (label '
            f'{missing})'
        )
