"""Data sources, one file each.

A source is a file of this package that defines `make(options) -> Source`;
`options` is the `data` section of the config, a mapping or an object with
attributes. It may also define `num_classes(options) -> int | None`, the number
of classes if that is known without the data, by which phases are checked before
these are read. Slow imports go inside `make`, so that listing the sources is
fast.
"""

import hashlib
import importlib
import os
import pathlib
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core import plugins
from mnemonics_jax.data.sources import checks, contract

SPLITS = ('train', 'test')
# Mean and standard deviation of each channel, as the field has them.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR100_STATISTICS = ((0.5071, 0.4866, 0.4409), (0.2009, 0.1984, 0.2023))


class Encoded(NamedTuple):
    """The encoded images of a source.

    Both functions may be called in threads.

    Attributes:
        load: `(split, position) -> bytes`, an encoded image; raises OSError or
            `errors.BadDataError` if it cannot be read.
        describe: `(split, position) -> str`, the image's name in messages.
    """

    load: Callable[[str, int], bytes]
    describe: Callable[[str, int], str]


class Source(NamedTuple):
    """A labelled set of images with the splits 'train' and 'test'.

    Labels are in memory; images are read on demand. A phase reads only images
    of its own classes, so the whole set need not fit in memory.

    Attributes:
        num_classes: K.
        image_shape: (H, W, C) of the images that `read` returns.
        mean: mean per channel of the training pixels in [0, 1].
        std: standard deviation per channel of the training pixels in [0, 1].
        class_names: K names, by original label.
        labels: split -> int32[n], original labels 0..K-1 by position.
        read: `(split, positions int64[k]) -> uint8[k,H,W,C]`, the images at
            any positions in 0..n-1, in any order; reads no others.
        encoded: images before cropping and resizing, if H = W; None if the
            images are in memory.
        skipped: `<path>: <reason>` of each image that cannot be decoded and is
            left out.
        about: where images were read from, which split is evaluated and what
            was left out, as JSON types, for `results.json`.
        notes: lines on the same that a run prints at its start.
        digest: `(split, positions int64[k]) -> str`, a digest of what these
            images are, wherever they lie, without decoding them, to compare
            by `same_images`; None if the source has none.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    read: Callable[[str, np.ndarray], np.ndarray]
    encoded: Encoded | None = None
    skipped: tuple[str, ...] = ()
    about: Mapping[str, Any] = types.MappingProxyType({})
    notes: tuple[str, ...] = ()
    digest: Callable[[str, np.ndarray], str] | None = None


def source_names() -> tuple[str, ...]:
    """Names of all sources, sorted."""
    folder = str(pathlib.Path(__file__).parent)
    names = sorted(module.name for module in pkgutil.iter_modules([folder]))
    files = {
        name
        for name in names
        if not name.startswith('_') and hasattr(_module(name), 'make')
    }
    return tuple(sorted({*files, *plugins.registered('sources')}))


def make_source(name: str, options: Any) -> Source:
    """Makes a source.

    Args:
        name: one of `source_names()`.
        options: the `data` section of the config; a source ignores the fields
            that it does not use.

    Raises:
        ValueError: there is no such source, an option is invalid or another
            source's, or a source of a user's own breaks its contract.
    """
    plugins.check_object('sources', name)
    names = source_names()
    if name not in names:
        raise ValueError(
            f'data.source={name!r}: must be one of {", ".join(names)}'
        )
    is_own = name in plugins.registered('sources')
    if name != 'folder' and not is_own:
        for field in ('labels', 'test_fraction'):
            value = checks.option(options, field)
            if value is not None:
                raise ValueError(
                    f'data.{field}={value!r}: must be None with '
                    f'data.source={name}; folder has it'
                )
    make = _module(name).make
    if not is_own:
        return make(options)
    field = f'data.source={name!r}'
    source = plugins.attempt(f'{field}: make', make, options)
    if not isinstance(source, Source):
        raise plugins.PluginError(
            f'{field}: make: returned {type(source).__name__}: must be a Source'
            f'{plugins.defined_at(make)}'
        )
    contract.check_source(source, name)
    return source


def count_classes(name: str, options: Any) -> int | None:
    """Number of classes of a source, None if that needs its data.

    Args:
        name: one of `source_names()`.
        options: see `make_source`.
    """
    find = getattr(_module(name), 'num_classes', None)
    if find is None:
        return None
    if name not in plugins.registered('sources'):
        return find(options)
    field = f'data.source={name!r}: num_classes'
    count = plugins.attempt(field, find, options)
    if isinstance(count, np.integer):
        count = int(count)
    if count is not None and not isinstance(count, int):
        raise plugins.PluginError(
            f'{field}: returned {plugins.described(count)}: must be an integer '
            f'or None{plugins.defined_at(find)}'
        )
    return count


def take_classes(source: Source, chosen: np.ndarray) -> Source:
    """A source with a subset of the classes, renumbered.

    Args:
        source: source with K classes.
        chosen: int64[k], original labels; the i-th becomes label i.
    """
    return match_classes(source, [source.class_names[k] for k in chosen])


def match_classes(source: Source, names: Sequence[str]) -> Source:
    """A source with the classes of these names; some may be empty.

    Args:
        source: source of which any classes may be missing in `names`.
        names: k class names, in `source` or not; the i-th becomes label i.
    """
    new = {name: label for label, name in enumerate(names)}
    ranks = np.array(
        [new.get(name, -1) for name in source.class_names], np.int32
    )
    positions, labels = {}, {}
    for split, original in source.labels.items():
        positions[split] = np.flatnonzero(ranks[original] >= 0)
        labels[split] = ranks[original[positions[split]]]

    def remap(function: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        return lambda split, rows: function(split, positions[split][rows])

    encoded = source.encoded
    return source._replace(
        num_classes=len(names),
        class_names=tuple(names),
        labels=labels,
        read=remap(source.read),
        encoded=None if encoded is None else Encoded(*map(remap, encoded)),
        digest=None if source.digest is None else remap(source.digest),
    )


def digest_of(parts: Iterable[bytes]) -> str:
    """A short digest of some bytes, for `Source.digest`."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]


def digest_of_files(names: Iterable[str], sizes: Iterable[int] | None) -> str:
    """A digest of files by their names, and their sizes where these are known.

    Args:
        names: a name of each file, wherever they lie.
        sizes: the bytes of each; None if unknown.
    """
    parts = [digest_of(os.fsencode(f'{name}\n') for name in names)]
    if sizes is not None:
        parts.append(digest_of(f'{size}\n'.encode() for size in sizes))
    return '.'.join(parts)


def same_images(ours: str, theirs: str) -> bool:
    """Whether digests are of the same images, by what both know of them."""
    pairs = zip(ours.split('.'), theirs.split('.'), strict=False)
    return all(one == other for one, other in pairs)


def in_memory(
    pixels: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    **more: Any,
) -> Source:
    """A source of arrays, with their digest.

    Args:
        pixels: split -> uint8[n, H, W, C].
        labels: split -> integers [n], 0..K-1.
        class_names: K names.
        statistics: mean and standard deviation of each channel, in [0, 1].
        **more: further fields of `Source`.
    """
    mean, std = statistics
    return Source(
        num_classes=len(class_names),
        image_shape=pixels['train'].shape[1:],
        mean=mean,
        std=std,
        class_names=tuple(class_names),
        labels={key: rows.astype(np.int32) for key, rows in labels.items()},
        read=lambda split, positions: pixels[split][positions],
        digest=lambda split, positions: digest_of(
            image.tobytes() for image in pixels[split][positions]
        ),
        **more,
    )


def encoded_splits(splits: Mapping[str, Any]) -> Encoded:
    """The encoded images of several splits.

    Args:
        splits: name -> split with methods `load(position)` and
            `describe(position)`.
    """
    return Encoded(
        lambda split, position: splits[split].load(position),
        lambda split, position: splits[split].describe(position),
    )


def phase_positions(
    source: Source, split: str, order: np.ndarray, low: int, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the examples of the classes order[low:high] without reading images.

    Args:
        source: source of the examples.
        split: 'train' or 'test'.
        order: int64[K], original label of the class at each position.
        low: first position in the class order, 0..high.
        high: one past the last position in the class order, low..K.

    Returns:
        Positions int64[n] in the split, ascending, and their labels int32[n],
        positions in the class order, all in low..high-1.
    """
    ranks = np.empty(source.num_classes, np.int32)
    ranks[order] = np.arange(source.num_classes, dtype=np.int32)
    labels = ranks[source.labels[split]]
    positions = np.flatnonzero((low <= labels) & (labels < high))
    return positions, labels[positions]


def _module(name: str) -> Any:
    if name in plugins.registered('sources'):
        return plugins.registered('sources')[name]
    return importlib.import_module(f'{__package__}.{name}')
