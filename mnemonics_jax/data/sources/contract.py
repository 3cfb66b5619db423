"""The contract of sources that come from a user: checked when they are made."""

from typing import Any

import numpy as np

from mnemonics_jax.core import plugins


def check_source(source: Any, name: str) -> None:
    """Raises ValueError if a source breaks its contract.

    Args:
        source: a `Source`; its first training image is read.
        name: its name in the configuration.
    """
    field = f'data.source={name!r}'
    count, shape = source.num_classes, tuple(source.image_shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f'{field}: image_shape={shape}: must be (H, W, C)')
    names = source.class_names
    if not isinstance(count, int) or len(set(names)) != count:
        raise ValueError(
            f'{field}: class_names: {len(set(names))} different ones: must be '
            f'num_classes={count}'
        )
    for key, values in (('mean', source.mean), ('std', source.std)):
        if len(values) != shape[2] or (key == 'std' and min(values) <= 0):
            raise ValueError(
                f'{field}: {key}={tuple(values)}: must have a number for each '
                f'of {shape[2]} channels, std > 0'
            )
    for split in ('train', 'test'):
        _check_labels(source, split, field)
    _check_image(source, field)


def _check_labels(source: Any, split: str, field: str) -> None:
    if split not in source.labels:
        raise ValueError(f'{field}: labels: must have the split {split!r}')
    labels: Any = source.labels[split]
    what = f'{field}: labels[{split!r}]'
    is_array = isinstance(labels, np.ndarray) and labels.ndim == 1
    if not is_array or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f'{what}: {plugins.described(labels)}: must be int32[n] in NumPy'
        )
    if not len(labels):
        raise ValueError(f'{what}: none: must be at least one')
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= source.num_classes:
        raise ValueError(
            f'{what}: values in {low}..{high}: must be in '
            f'0..{source.num_classes - 1}'
        )


def _check_image(source: Any, field: str) -> None:
    image = plugins.attempt(
        f"{field}: read('train', [0])",
        source.read,
        'train',
        np.zeros(1, np.int64),
    )
    shape = (1, *source.image_shape)
    wrong = getattr(image, 'dtype', None) != np.uint8
    if wrong or tuple(image.shape) != shape:
        raise ValueError(
            f"{field}: read('train', [0]) returned {plugins.described(image)}: "
            f'must be uint8{list(shape)}'
        )
