"""Any image classification set of TensorFlow Datasets (TFDS), by its name.

`data.name` is the TFDS name: `cifar100`, `imagenet_resized/64x64`, `food101`;
`data.dir` is the TFDS directory of prepared sets, by default TFDS's own. A set
that is not there is downloaded and prepared by TFDS, as array_record files.

The training split is 'train'; the test split is 'test', or 'validation' if the
former is missing or has no labels, as for ImageNet. Images are resized if
`data.image_size` is given, see `decode.decode` for `data.eval_resize`; a set
with images of varying size needs `data.image_size`.

A set of up to 512 MB as uint8 is read into memory, each split when it is first
needed. From a larger one, and from one with images of varying size, single
records are read on demand. This needs array_record files, or parquet, which
TFDS holds in memory; tfrecord, the default of TFDS, has no random access.
(Images of varying size in tfrecord files are read into memory if they fit when
resized.) The labels of a set that is not in memory are found by one pass over
its records, and cached in a file beside them for later runs.

Mean and std are the usual constants for cifar100 and the ImageNet family, and
otherwise computed on the training images; if these are not in memory, on the
first 2,000, a random sample, since TFDS shuffles the records it prepares.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mnemonics_jax.data import decode
from mnemonics_jax.data.sources import (
    CIFAR100_STATISTICS,
    IMAGENET_STATISTICS,
    Encoded,
    Source,
    _tfds_builders,
    checks,
    encoded_splits,
)
from mnemonics_jax.data.sources._tfds_records import Split
from mnemonics_jax.data.sources.checks import positive_option

_MEMORY = 2**29
_NUM_FOR_STATISTICS = 2000
# Mean and std by the prefix of the set's name.
_STATISTICS = {
    'cifar100': CIFAR100_STATISTICS,
    'imagenet': IMAGENET_STATISTICS,
}
# Number of classes of the paper's sets.
_NUM_CLASSES = {'cifar100': 100, 'imagenet2012': 1000}

Read = Callable[[str, np.ndarray], np.ndarray]


def num_classes(options: Any) -> int | None:
    """Number of classes, where it is known without the data."""
    return _NUM_CLASSES.get(checks.option(options, 'name') or '')


def make(options: Any) -> Source:
    """Prepares a set if necessary, and reads its labels.

    Args:
        options: must have `name`, may have `dir`, `image_size`, `eval_resize`.

    Raises:
        ValueError: there is no such set, it cannot be prepared or read, or it
            is not as described above; `read` raises `errors.BadDataError` or
            `errors.BadImageError`.
    """
    name = checks.text_option(
        options, 'name', 'the name of a TFDS set, such as cifar100'
    )
    size = positive_option(options, 'image_size', 0)
    shorter = checks.eval_resize_option(options, size)
    path = checks.option(options, 'dir')
    if path is not None:
        checks.located(path, f'data.dir={path!r}')
    builder = _tfds_builders.find_set(name, path)
    _tfds_builders.prepare(builder, name)
    image_key, label_key = _keys(builder, name)
    features = builder.info.features
    shape = _image_shape(features[image_key].shape, name, size)
    splits = _splits(builder, name, image_key, label_key)
    in_memory = _in_memory(builder, name, splits, shape, image_key)
    class_names = tuple(features[label_key].names)
    labels = _labels(splits, class_names, cache=not in_memory)
    read = _reader(splits, shape, resize=bool(size), shorter=shorter)
    if in_memory:
        read = _in_memory_reader(read, labels)
    mean, std = _statistics(builder.name, shape, read, labels, in_memory)
    return Source(
        num_classes=len(class_names),
        image_shape=shape,
        mean=mean,
        std=std,
        class_names=class_names,
        labels=labels,
        read=read,
        encoded=None if in_memory else _encoded(splits, shape),
    )


def _keys(builder: Any, name: str) -> tuple[str, str]:
    """Names of the features of the image and its label."""
    kinds = _tfds_builders.library().features
    features, keys = builder.info.features, builder.info.supervised_keys
    is_pair = isinstance(keys, tuple) and len(keys) == 2
    if is_pair and set(keys) <= set(features):
        image, label = (features[key] for key in keys)
        is_image = isinstance(image, kinds.Image) and len(image.shape) == 3
        is_label = isinstance(label, kinds.ClassLabel)
        if is_image and is_label and image.np_dtype == np.uint8:
            return keys
    raise ValueError(
        f'data.name={name!r}: must be a set for image classification, with a '
        'uint8 image and a class label as its supervised keys'
    )


def _image_shape(
    shape: tuple[int | None, ...], name: str, size: int
) -> tuple[int, int, int]:
    """Shape (H, W, C) of the images to read, with 1 or 3 channels."""
    height, width, channels = shape
    channels = 1 if channels == 1 else 3
    if size:
        return size, size, channels
    if height is None or width is None:
        raise ValueError(
            'data.image_size=None: must be an integer >= 1 with '
            f'data.name={name!r}, whose images vary in size'
        )
    return height, width, channels


def _splits(
    builder: Any, name: str, image_key: str, label_key: str
) -> dict[str, Split]:
    """The training split and the test split."""
    names = list(builder.info.splits)
    splits = {}
    for candidate in ('train', 'test', 'validation'):
        key = 'train' if candidate == 'train' else 'test'
        if candidate in names and key not in splits:
            split = Split(builder, name, candidate, image_key, label_key)
            if split.is_labelled():
                splits[key] = split
    if len(splits) < 2:
        raise ValueError(
            f'data.name={name!r}: has the splits {", ".join(names)}; must have '
            'train, and test or validation, with labels'
        )
    return splits


def _labels(
    splits: dict[str, Split], class_names: tuple[str, ...], *, cache: bool
) -> dict[str, np.ndarray]:
    """The labels of each split, checked; for `cache` see `Split.labels`."""
    labels = {}
    for key, split in splits.items():
        labels[key] = split.labels(cache=cache)
        checks.check_labels(labels[key], class_names, split.field)
    return labels


def _in_memory(
    builder: Any,
    name: str,
    splits: dict[str, Split],
    shape: tuple[int, int, int],
    image_key: str,
) -> bool:
    """Whether to read a set into memory; raises ValueError if neither works."""
    num_bytes = sum(map(len, splits.values())) * int(np.prod(shape))
    random_access = all(split.random_access for split in splits.values())
    if num_bytes <= _MEMORY:
        fixed = None not in builder.info.features[image_key].shape[:2]
        return fixed or not random_access
    if random_access:
        return False
    root = builder.data_dir_root
    elsewhere = os.path.join(root, 'array_record')
    command = _tfds_builders.command(
        name, elsewhere, download_dir=f'{root}/downloads'
    )
    raise ValueError(
        f'data.name={name!r}: {num_bytes / 2**20:.0f} MB of images do not fit '
        f'in memory, and the {builder.info.file_format.value} files in '
        f'{builder.data_dir} have no random access; {command} writes files '
        f'that have, for data.dir={elsewhere}'
    )


def _reader(
    splits: dict[str, Split],
    shape: tuple[int, int, int],
    *,
    resize: bool,
    shorter: int | None,
) -> Read:
    """The function `read` of a source that is not in memory."""

    def read(split: str, positions: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(positions), *shape), np.uint8)
        records, start = splits[split], 0
        for blobs in records.encoded_images(positions):
            rows = positions[start : start + len(blobs)]

            def describe(row: int, rows: np.ndarray = rows) -> str:
                return records.describe(rows[row])

            pixels[start : start + len(blobs)] = decode.decode_many(
                blobs.__getitem__,
                describe,
                len(blobs),
                shape,
                resize=resize,
                shorter=shorter,
            )
            start += len(blobs)
        return pixels

    return read


def _in_memory_reader(read: Read, labels: dict[str, np.ndarray]) -> Read:
    """A function `read` that reads a whole split when it is first needed."""

    @functools.cache
    def read_split(split: str) -> np.ndarray:
        return read(split, np.arange(len(labels[split])))

    return lambda split, positions: read_split(split)[positions]


def _encoded(
    splits: dict[str, Split], shape: tuple[int, int, int]
) -> Encoded | None:
    """The encoded images, if `read` makes them square."""
    return encoded_splits(splits) if shape[0] == shape[1] else None


def _statistics(
    name: str,
    shape: tuple[int, int, int],
    read: Read,
    labels: dict[str, np.ndarray],
    in_memory: bool,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, from the table or computed."""
    for start, known in _STATISTICS.items():
        if name.startswith(start) and len(known[0]) == shape[-1]:
            return known
    num = len(labels['train'])
    if not in_memory:
        num = min(num, _NUM_FOR_STATISTICS)
    return decode.statistics(read('train', np.arange(num)))
