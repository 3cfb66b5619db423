"""Images in an `.npz` file, as written by `numpy.savez`.

`data.dir` is the path of the file. It holds `train_images` and `test_images`,
uint8[n,H,W,C], `train_labels` and `test_labels`, integers[n] in 0..K-1, and
optionally `class_names`, K strings. Reading it needs no TensorFlow.
"""

import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from mnemonics_jax.data import decode
from mnemonics_jax.data.sources import SPLITS, Source, checks, digest_of

_NAMES = {
    'class_names',
    *(f'{split}_{what}' for split in SPLITS for what in ('images', 'labels')),
}
_KINDS: dict[type, str] = {
    np.uint8: 'uint8',
    np.integer: 'an integer type',
    np.str_: 'a string type',
}
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


def make(options: Any) -> Source:
    """Reads the file, and computes mean and std of the training images.

    Args:
        options: must have `dir`, the path of the file, local or `gs://`.

    Raises:
        ValueError: the file cannot be read, or one of its arrays is invalid.
    """
    path = checks.text_option(
        options, 'dir', 'the path of an .npz file with train_images'
    )
    field = f'data.dir={path!r}'
    arrays = _load(path, field)
    pixels = _images(arrays, field)
    labels = {
        split: _labels(arrays, split, len(pixels[split]), field)
        for split in SPLITS
    }
    class_names = _class_names(arrays, labels['train'], field)
    for split in SPLITS:
        name = f'{field}: {split}_labels'
        checks.check_labels(labels[split], class_names, name)
    mean, std = decode.statistics(pixels['train'])
    return Source(
        num_classes=len(class_names),
        image_shape=pixels['train'].shape[1:],
        mean=mean,
        std=std,
        class_names=class_names,
        labels={key: rows.astype(np.int32) for key, rows in labels.items()},
        read=lambda split, positions: pixels[split][positions],
        digest=lambda split, positions: digest_of(
            image.tobytes() for image in pixels[split][positions]
        ),
    )


def _load(path: str, field: str) -> dict[str, np.ndarray]:
    """The known arrays of the file."""
    name = 'no .npz file'
    found = {}
    try:
        with (
            epath.Path(path).expanduser().open('rb') as file,
            zipfile.ZipFile(file),  # NumPy may take other files for a pickle.
            np.load(file, allow_pickle=False) as arrays,
        ):
            for name in sorted(_NAMES & set(arrays.files)):
                found[name] = arrays[name]
    except _UNREADABLE as e:
        reason = getattr(e, 'strerror', None) or f'{name}: {e}'
        raise ValueError(f'{field}: {reason}') from e
    return found


def _array(
    arrays: dict[str, np.ndarray], name: str, rank: int, kind: type, field: str
) -> np.ndarray:
    """Returns an array after checking its rank and dtype."""
    if name not in arrays:
        raise ValueError(f'{field}: {name}: missing')
    array = arrays[name]
    if array.ndim != rank:
        raise ValueError(f'{field}: {name}: rank {array.ndim}: must be {rank}')
    if not np.issubdtype(array.dtype, kind):
        raise ValueError(
            f'{field}: {name}: dtype {array.dtype}: must be {_KINDS[kind]}'
        )
    if not array.size:
        raise ValueError(f'{field}: {name}: empty, of shape {array.shape}')
    return array


def _images(arrays: dict[str, np.ndarray], field: str) -> dict[str, np.ndarray]:
    """The images of each split, uint8[n,H,W,C]."""
    pixels = {
        split: _array(arrays, f'{split}_images', 4, np.uint8, field)
        for split in SPLITS
    }
    train, test = (pixels[split].shape[1:] for split in SPLITS)
    if train != test:
        raise ValueError(
            f'{field}: test_images: image shape {test}: must be {train}, as in '
            'train_images'
        )
    return pixels


def _labels(
    arrays: dict[str, np.ndarray], split: str, num: int, field: str
) -> np.ndarray:
    """The labels of a split, int64[n]."""
    name = f'{split}_labels'
    array = _array(arrays, name, 1, np.integer, field)
    if len(array) != num:
        raise ValueError(
            f'{field}: {name}: {len(array)} labels: must be {num}, the number '
            'of images'
        )
    return array.astype(np.int64)


def _class_names(
    arrays: dict[str, np.ndarray], train_labels: np.ndarray, field: str
) -> tuple[str, ...]:
    """The names in the file, by default 'class 0', 'class 1' and so on."""
    if 'class_names' not in arrays:
        num_classes = len(np.unique(train_labels))
        return tuple(f'class {label}' for label in range(num_classes))
    names = _array(arrays, 'class_names', 1, np.str_, field).tolist()
    for label, name in enumerate(names):
        if name in names[:label]:
            raise ValueError(f'{field}: class_names: {name!r} is repeated')
    return tuple(names)
