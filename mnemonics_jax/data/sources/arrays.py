"""Images in an `.npz` file, as written by `numpy.savez`.

`data.dir` is the path of the file. It holds `train_images` and `test_images`,
uint8[n,H,W,C], or [n,H,W] if they are grey, `train_labels` and `test_labels`,
integers[n] in 0..K-1, and optionally `class_names`, K strings. Instead they may
have the names of Keras: `x_train`, `y_train`, `x_test`, `y_test`. Reading it
needs no TensorFlow.
"""

import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mnemonics_jax.core.regular import regular
from mnemonics_jax.data import decode
from mnemonics_jax.data.sources import SPLITS, Source, checks, in_memory

# What each array may be called.
_IMAGES = {
    'train': ('train_images', 'x_train'),
    'test': ('test_images', 'x_test'),
}
_LABELS = {
    'train': ('train_labels', 'y_train'),
    'test': ('test_labels', 'y_test'),
}
_NAMES = 'class_names'
_KNOWN = {
    _NAMES,
    *(
        name
        for keys in (_IMAGES, _LABELS)
        for both in keys.values()
        for name in both
    ),
}
_EXPECTED = (
    'expected: train_images, train_labels, test_images, test_labels (or '
    'x_train, y_train, x_test, y_test) and perhaps class_names'
)
_KINDS: dict[type, str] = {
    np.uint8: 'uint8',
    np.integer: 'an integer type',
    np.str_: 'a string type',
}
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)
_CHANNELS = (1, 3, 4)


def make(options: Any) -> Source:
    """Reads the file, and computes mean and std of the training images.

    Args:
        options: must have `dir`, the path of the file, local or `gs://`.

    Raises:
        ValueError: the file cannot be read, or one of its arrays is invalid;
            names the arrays that are expected and those that there are.
    """
    path = checks.text_option(
        options, 'dir', 'the path of an .npz file with train_images'
    )
    field = f'data.dir={path!r}'
    arrays, others = _load(checks.located(path, field), field)
    try:
        source = _source(arrays)
    except ValueError as e:
        found = [_described(name, array) for name, array in arrays.items()]
        listed = ', '.join([*found, *others]) or 'nothing'
        raise ValueError(f'{field}: {e}; {_EXPECTED}; found: {listed}') from e
    if not others:
        return source
    note = f'{field}: arrays that are not read: {", ".join(others)}'
    return source._replace(about={'unread_arrays': others}, notes=(note,))


def _source(arrays: dict[str, np.ndarray]) -> Source:
    """The source; messages start with an array's name."""
    pixels = _images(arrays)
    labels = {key: _labels(arrays, key, len(pixels[key])) for key in SPLITS}
    class_names = _class_names(arrays, labels['train'])
    for split in SPLITS:
        name = _name(arrays, _LABELS[split])
        checks.check_labels(labels[split], class_names, name)
    statistics = decode.statistics(pixels['train'])
    return in_memory(pixels, labels, class_names, statistics)


def _load(
    path: epath.Path, field: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The known arrays of the file, and the names of the others."""
    name = 'no .npz file'
    found = {}
    try:
        with (
            regular(path, None).open('rb') as file,
            zipfile.ZipFile(file),  # NumPy may take other files for a pickle.
            np.load(file, allow_pickle=False) as arrays,
        ):
            others = sorted(set(arrays.files) - _KNOWN)
            for name in sorted(_KNOWN & set(arrays.files)):
                found[name] = _read(arrays, name)
    except _UNREADABLE as e:
        reason = getattr(e, 'strerror', None) or f'{name}: {e}'
        raise ValueError(f'{field}: {reason}; {_EXPECTED}') from e
    return found, others


def _read(arrays: Any, name: str) -> np.ndarray:
    """An array; of Python objects, which stay unread, only type and shape."""
    try:
        return arrays[name]
    except ValueError:
        with arrays.zip.open(f'{name}.npy') as member:
            np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if not dtype.hasobject:
            raise
        return np.broadcast_to(np.empty((), dtype), shape)


def _described(name: str, array: np.ndarray) -> str:
    return f'{name} {array.dtype}[{",".join(map(str, array.shape))}]'


def _name(arrays: dict[str, np.ndarray], names: Sequence[str]) -> str:
    """The name that an array has in the file."""
    present = [name for name in names if name in arrays]
    if len(present) > 1:
        raise ValueError(f'{" and ".join(present)}: must be one of them')
    if not present:
        raise ValueError(f'{names[0]}: missing')
    return present[0]


def _array(arrays: dict[str, np.ndarray], name: str, kind: type) -> np.ndarray:
    """Returns an array after checking its dtype."""
    array = arrays[name]
    if not np.issubdtype(array.dtype, kind):
        raise ValueError(f'{name}: dtype {array.dtype}: must be {_KINDS[kind]}')
    if not array.size:
        raise ValueError(f'{name}: empty, of shape {array.shape}')
    return array


def _images(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of each split, uint8[n,H,W,C]."""
    pixels = {}
    names = {split: _name(arrays, _IMAGES[split]) for split in SPLITS}
    for split, name in names.items():
        array = _array(arrays, name, np.uint8)
        if array.ndim not in (3, 4):
            raise ValueError(
                f'{name}: rank {array.ndim}: must be [n,H,W,C], or [n,H,W] if '
                'grey'
            )
        if array.ndim == 3:
            array = array[..., None]
        elif array.shape[1] in _CHANNELS and array.shape[3] not in (1, 3):
            raise ValueError(
                f'{name}: shape {array.shape}: channels must come last, '
                f'[n,H,W,C]; {name}.transpose(0, 2, 3, 1) moves them there'
            )
        pixels[split] = array
    train, test = (pixels[split].shape[1:] for split in SPLITS)
    if train != test:
        raise ValueError(
            f'{names["test"]}: image shape {test}: must be {train}, as in '
            f'{names["train"]}'
        )
    return pixels


def _labels(arrays: dict[str, np.ndarray], split: str, num: int) -> np.ndarray:
    """The labels of a split, int64[n]."""
    name = _name(arrays, _LABELS[split])
    array = _array(arrays, name, np.integer)
    # Keras has the labels of CIFAR as [n,1].
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f'{name}: shape {array.shape}: must be one integer per image, not '
            'one-hot rows'
        )
    if len(array) != num:
        raise ValueError(
            f'{name}: {len(array)} labels: must be {num}, the number of images'
        )
    return array.astype(np.int64)


def _class_names(
    arrays: dict[str, np.ndarray], train_labels: np.ndarray
) -> tuple[str, ...]:
    """The names in the file, by default 'class 0', 'class 1' and so on."""
    if _NAMES not in arrays:
        num_classes = len(np.unique(train_labels))
        return tuple(f'class {label}' for label in range(num_classes))
    array = _array(arrays, _NAMES, np.str_)
    if array.ndim != 1:
        raise ValueError(f'{_NAMES}: rank {array.ndim}: must be 1')
    names = array.tolist()
    for label, name in enumerate(names):
        if name in names[:label]:
            raise ValueError(f'{_NAMES}: {name!r} is repeated')
    return tuple(names)
