"""Budgets of the memory in bytes: how many slots they need.

The shape of the memory is fixed before the run, but how many images fit is
known only when they are encoded. The slots are therefore bounded by the sizes
of some images of each class, with room to spare.
"""

from typing import Any

import numpy as np

from mnemonics_jax.data.errors import BadDataError
from mnemonics_jax.data.sources import Source
from mnemonics_jax.data.storage import Storage

# Images that are encoded: at most these of a class, and in all.
_OF_A_CLASS = 32
_IN_ALL = 4096
# A class may hold this many times the images that its sample suggests.
_ROOM = 1.25


class TooFewBytesError(BadDataError):
    """A class will not keep any exemplar to the end of the run."""

    def __init__(self, name: str, num_bytes: int) -> None:
        """Names the class and the bytes that it has at the end."""
        super().__init__(
            f'exemplars: a class has {num_bytes} bytes at the end of the run, '
            f'too few for the first exemplar of {name!r}: start anew with more '
            'bytes or a lower exemplars.quality'
        )


def given(exemplars: Any) -> bool:
    """Whether the config section `exemplars` has a budget in bytes."""
    return bool(exemplars.bytes_per_class or exemplars.bytes_total)


def sample_sizes(storage: Storage, source: Source) -> list[np.ndarray]:
    """Bytes of some encoded training images of each class.

    They are spread evenly over the images of a class, at least one of each.
    """
    labels = source.labels['train']
    number = max(1, min(_OF_A_CLASS, _IN_ALL // source.num_classes))
    sizes = []
    for k in range(source.num_classes):
        members = np.flatnonzero(labels == k)
        chosen = np.linspace(0, len(members) - 1, min(number, len(members)))
        images = source.read('train', members[np.unique(chosen.astype(int))])
        encoded = storage.encode(images)
        sizes.append(np.array([storage.num_bytes(each) for each in encoded]))
    return sizes


def slot_bytes(storage: Storage, source: Source) -> float:
    """Bytes of a class's budget for each of its slots, see `Plan`.

    Raises:
        ValueError: a class has no training images.
    """
    sizes = sample_sizes(storage, source)
    smallest = float(min(each.mean() for each in sizes))
    # Arrays all have one size.
    return smallest / _ROOM if storage.compresses else smallest
