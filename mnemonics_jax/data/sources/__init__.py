"""Where images come from: one file of this package for each source.

A source is a file of this package that defines `make(options) -> Source`;
`options` is the `data` section of the config, a mapping or an object with
attributes. A source imports what it needs inside `make`, so that listing the
sources stays cheap.
"""

import importlib
import pathlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core import plugins


class Encoded(NamedTuple):
    """The images of a source as they are stored, one by one.

    Both functions may be called in threads.

    Attributes:
        load: `(split, position) -> bytes`, an encoded image; it raises OSError
            or `errors.BadDataError` where it cannot be read.
        describe: `(split, position) -> str`, names it in messages.
    """

    load: Callable[[str, int], bytes]
    describe: Callable[[str, int], str]


class Source(NamedTuple):
    """A labelled set of images with the splits 'train' and 'test'.

    Labels are known from the start, images are read on demand: a phase reads
    those of its own classes and no others, so the whole need not fit in memory.

    Attributes:
        num_classes: K.
        image_shape: (H, W, C) of what `read` returns.
        mean: per channel, of the training pixels in [0, 1].
        std: per channel, of the training pixels in [0, 1].
        class_names: K names, by original label.
        labels: split -> int32[n], original labels 0..K-1 by position.
        read: `(split, positions int64[k]) -> uint8[k,H,W,C]`, the images at
            any positions in 0..n-1, in any order; reads these only.
        encoded: the images before they are cropped and resized, if what `read`
            gives is square, H = W; None where they are in memory anyway.
        skipped: `<path>: <reason>` of each image that is left out since it
            cannot be decoded.
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
    """Makes the source of a name.

    Args:
        name: one of `source_names()`.
        options: the `data` section of the config; a source reads its own
            fields of it and ignores the others.

    Raises:
        ValueError: there is no such source, or it refuses an option.
    """
    names = source_names()
    if name not in names:
        raise ValueError(
            f'data.source={name!r}: no such source; allowed: {", ".join(names)}'
        )
    return _module(name).make(options)


def take_classes(source: Source, chosen: np.ndarray) -> Source:
    """A source with some of the classes of another, numbered anew.

    Args:
        source: with K classes.
        chosen: int64[k], original labels; the i-th becomes label i.
    """
    return match_classes(source, [source.class_names[k] for k in chosen])


def match_classes(source: Source, names: Sequence[str]) -> Source:
    """A source of the classes of these names; some may be empty.

    Args:
        source: with classes of these names, or some of them, or others.
        names: of k classes; the i-th becomes label i.
    """
    new = {name: label for label, name in enumerate(names)}
    ranks = np.array(
        [new.get(name, -1) for name in source.class_names], np.int32
    )
    positions, labels = {}, {}
    for split, theirs in source.labels.items():
        positions[split] = np.flatnonzero(ranks[theirs] >= 0)
        labels[split] = ranks[theirs[positions[split]]]

    def moved(function: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        return lambda split, wanted: function(split, positions[split][wanted])

    encoded = source.encoded
    return source._replace(
        num_classes=len(names),
        class_names=tuple(names),
        labels=labels,
        read=moved(source.read),
        encoded=None if encoded is None else Encoded(*map(moved, encoded)),
    )


def encoded_splits(splits: Mapping[str, Any]) -> Encoded:
    """Encoded images of splits that have `load` and `describe` themselves.

    Args:
        splits: by name; methods `load` and `describe` take a position.
    """
    return Encoded(
        lambda split, position: splits[split].load(position),
        lambda split, position: splits[split].describe(position),
    )


def phase_positions(
    source: Source, split: str, order: np.ndarray, low: int, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the examples of the classes order[low:high], reading no image.

    Args:
        source: where the examples are.
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
