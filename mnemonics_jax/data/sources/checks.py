"""Checks of options and labels, shared by the sources."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath


def positive_option(options: Any, field: str, default: int) -> int:
    """Reads a positive integer from the options of a source.

    Args:
        options: a mapping or an object with attributes.
        field: name of the option.
        default: value if the option is missing or None.

    Raises:
        ValueError: the value is not a positive integer.
    """
    value = option(options, field)
    if value is None:
        return default
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'data.{field}={value!r}: must be an integer >= 1')
    return value


def text_option(options: Any, field: str, meaning: str) -> str:
    """Reads a required string from the options of a source.

    Args:
        options: a mapping or an object with attributes.
        field: name of the option.
        meaning: description of the value, for the message.

    Raises:
        ValueError: the value is missing, empty or not a string.
    """
    value = option(options, field)
    if not isinstance(value, str) or not value:
        raise ValueError(f'data.{field}={value!r}: must be {meaning}')
    return value


def located(path: str | os.PathLike[str], field: str) -> epath.Path:
    """A path that a user gave, on disk or in a bucket, which there is or not.

    Args:
        path: may start with `~` or `gs://`.
        field: what has the path, for messages.

    Raises:
        ValueError: its bucket cannot be read, or needs a missing package.
    """
    found = epath.Path(path).expanduser()
    if '://' not in str(path):
        return found
    try:
        found.exists()
    except ImportError as e:
        raise ValueError(
            f"{field}: {e}; to install it: pip install 'mnemonics-jax[gcs]'"
        ) from e
    except Exception as e:  # Each client of a bucket has types of its own.
        reason = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise ValueError(f'{field}: cannot be read: {reason[:300]}') from e
    return found


def option(options: Any, field: str, default: Any = None) -> Any:
    """Reads an option; returns the default if it is missing or None."""
    if isinstance(options, Mapping):
        value = options.get(field)
    else:
        value = getattr(options, field, None)
    return default if value is None else value


def eval_resize_option(options: Any, size: int) -> int | None:
    """Reads `eval_resize`: the shorter side of images before the central crop.

    Args:
        options: a mapping or an object with attributes.
        size: `image_size`, the side of the crop; 0 if not given.

    Returns:
        The length of the shorter side, >= `size`; None if not given.

    Raises:
        ValueError: the value is not such a length, or there is no size.
    """
    shorter = positive_option(options, 'eval_resize', 0)
    if not shorter:
        return None
    field = f'data.eval_resize={shorter}'
    if not size:
        raise ValueError(
            f'{field}: must be None without data.image_size, the side of the '
            'central crop'
        )
    if shorter < size:
        raise ValueError(f'{field}: must be >= data.image_size={size}')
    return shorter


def check_labels(
    labels: np.ndarray, class_names: Sequence[str], name: str
) -> None:
    """Checks that labels are in range and that every class has an image.

    Args:
        labels: int[n].
        class_names: K names, by label.
        name: name of the labels in messages.

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
            f'{name}: no image of class {class_names[missing]!r} (label '
            f'{missing})'
        )
