"""What the data of a run are: the number of images and a digest, by class.

A run saves it when it starts, so that a later start can tell whether images
have changed, wherever they lie by then.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mnemonics_jax.data.sources import SPLITS, Source, same_images

_NOUNS = {'train': 'training', 'test': 'test'}
# JSON: split -> class -> number of images; and 'digest' -> class -> str, empty
# for a source without digests. It is that of training images, '-', and that of
# test images.
Record = dict[str, dict[str, Any]]


def describe(source: Source) -> Record:
    """The record of all classes of a source; reads no images."""
    found: Record = {split: {} for split in SPLITS}
    digests: dict[str, list[str]] = {name: [] for name in source.class_names}
    for split in SPLITS:
        labels = source.labels[split]
        counts = np.bincount(labels, minlength=source.num_classes)
        by_class = np.split(
            np.argsort(labels, kind='stable'), np.cumsum(counts)[:-1]
        )
        for name, positions in zip(source.class_names, by_class, strict=True):
            found[split][name] = len(positions)
            if source.digest is not None:
                digests[name].append(source.digest(split, positions))
    found['digest'] = {
        name: '-'.join(parts) for name, parts in digests.items() if parts
    }
    return found


def changes(
    before: Record, now: Record, names: Iterable[str]
) -> dict[str, str]:
    """Which classes have changed, and how.

    Args:
        before: an earlier record.
        now: the current record.
        names: classes to compare; those in `before` are.

    Returns:
        Class name -> words, such as '11 training images instead of 12'.
    """
    found = {}
    for name in names:
        if name not in before['train']:
            continue
        counts = [
            f'{now[split][name]} {noun} images instead of {before[split][name]}'
            for split, noun in _NOUNS.items()
            if now[split][name] != before[split][name]
        ]
        if counts:
            found[name] = ' and '.join(counts)
        elif _differ(now['digest'].get(name), before['digest'].get(name)):
            found[name] = 'as many images, but not the same'
    return found


def _differ(ours: str | None, theirs: str | None) -> bool:
    """Whether digests of a class differ, where both have what they are of."""
    if ours is None or theirs is None:
        return ours != theirs
    one, other = ours.split('-'), theirs.split('-')
    if len(one) != len(other):
        return True
    return not all(map(same_images, one, other))
