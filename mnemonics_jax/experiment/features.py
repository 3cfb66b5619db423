"""Where test images and exemplars lie for the model at the end of a phase.

Of old classes no training image is left by then, hence test images.
"""

from typing import NamedTuple

import numpy as np

from mnemonics_jax import prototypes
from mnemonics_jax.core.numerics import unit_on_host
from mnemonics_jax.train.evaluation import Embedded

# Test images whose features are kept, for pictures of them.
MOST_A_CLASS = 100
MOST_IN_ALL = 10_000


class FeatureSnapshot(NamedTuple):
    """Features as NME compares them, of unit length, of S classes seen.

    Attributes:
        features: f32[n, D], of all their test images.
        labels: int32[n].
        means: f32[S, D], of the test images of each class.
        exemplars: f32[S, m, D].
        mask: bool[S, m], which of these there are.
    """

    features: np.ndarray
    labels: np.ndarray
    means: np.ndarray
    exemplars: np.ndarray
    mask: np.ndarray


def make_space(
    images: Embedded, slots: np.ndarray, mask: np.ndarray, num_seen: int
) -> FeatureSnapshot:
    """Puts together what evaluation has computed.

    Args:
        images: test images of the classes seen.
        slots: f32[K * m, D], features of the slots of the memory.
        mask: bool[K, m].
        num_seen: S.
    """
    means = prototypes.class_means_on_host(
        images.features, images.labels, num_seen
    )
    exemplars = unit_on_host(slots).reshape(*mask.shape, -1)
    return FeatureSnapshot(
        images.features,
        images.labels,
        unit_on_host(means),
        exemplars[:num_seen],
        mask[:num_seen],
    )


def border(space: FeatureSnapshot) -> dict[str, float] | None:
    """The median of `prototypes.border_ratios`, of exemplars and of images.

    None without exemplars, or with one class, which has no border.
    """
    mask = space.mask
    if len(mask) < 2 or not mask.any():
        return None
    labels = np.nonzero(mask)[0]
    among = {
        'exemplars': (space.exemplars[mask], labels),
        'images': (space.features, space.labels),
    }
    return {
        name: float(np.median(prototypes.border_ratios(*where, space.means)))
        for name, where in among.items()
    }


def sample(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Positions of a few images of each class, evenly spaced among its own.

    At most `MOST_A_CLASS` of each, and no more than `MOST_IN_ALL` in all unless
    that were less than one of each.

    Args:
        labels: int[n].
        num_classes: S.

    Returns:
        int64[k], ascending within each class, class by class.
    """
    most = max(1, min(MOST_A_CLASS, MOST_IN_ALL // num_classes))
    chosen = []
    for k in range(num_classes):
        rows = np.flatnonzero(labels == k)
        count = min(most, len(rows))
        chosen.append(rows[np.arange(count) * len(rows) // max(count, 1)])
    return np.concatenate(chosen)


def to_arrays(space: FeatureSnapshot) -> dict[str, np.ndarray]:
    """The arrays of a snapshot, with a sample of the test images.

    Features are float16, means and the rest as they are.
    """
    rows = sample(space.labels, len(space.means))
    return {
        'features': space.features[rows].astype(np.float16),
        'labels': space.labels[rows].astype(np.int32),
        'means': space.means,
        'exemplars': space.exemplars.astype(np.float16),
        'mask': space.mask,
    }
