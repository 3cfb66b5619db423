"""Features of test images and exemplars at the end of a phase.

Test images, since old classes have no training images any more.
"""

from typing import NamedTuple

import numpy as np

from mnemonics_jax import prototypes
from mnemonics_jax.core.numerics import unit_on_host
from mnemonics_jax.train.evaluation import Embedded

# Limits of the test images whose features are saved for plots.
MOST_A_CLASS = 100
MOST_IN_ALL = 10_000


class FeatureSnapshot(NamedTuple):
    """Unit features, as NME uses them, of the S classes seen.

    Attributes:
        features: f32[n, D], features of all test images.
        labels: int32[n], their classes.
        means: f32[S, D], mean over the test images of each class.
        exemplars: f32[S, m, D], features of the exemplars.
        mask: bool[S, m], true where a slot holds an exemplar.
    """

    features: np.ndarray
    labels: np.ndarray
    means: np.ndarray
    exemplars: np.ndarray
    mask: np.ndarray


def make_snapshot(
    images: Embedded, slots: np.ndarray, mask: np.ndarray, num_seen: int
) -> FeatureSnapshot:
    """Makes a snapshot from the results of evaluation.

    Args:
        images: test images of the classes seen.
        slots: f32[K * m, D], features of the memory's slots.
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


def border(snapshot: FeatureSnapshot) -> dict[str, float] | None:
    """Median `prototypes.border_ratios` of exemplars and of test images.

    None without exemplars, or with only one class.
    """
    mask = snapshot.mask
    if len(mask) < 2 or not mask.any():
        return None
    groups = {
        'exemplars': (snapshot.exemplars[mask], np.nonzero(mask)[0]),
        'images': (snapshot.features, snapshot.labels),
    }
    return {
        name: float(
            np.median(
                prototypes.border_ratios(features, labels, snapshot.means)
            )
        )
        for name, (features, labels) in groups.items()
    }


def sample(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Positions of a few images of each class, evenly spaced in its images.

    At most `MOST_A_CLASS` per class and `MOST_IN_ALL` in all, but at least one
    per class.

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


def to_arrays(snapshot: FeatureSnapshot) -> dict[str, np.ndarray]:
    """Arrays of a snapshot for saving, with a sample of the test images.

    Features of images and exemplars are float16, means float32.
    """
    rows = sample(snapshot.labels, len(snapshot.means))
    return {
        'features': snapshot.features[rows].astype(np.float16),
        'labels': snapshot.labels[rows].astype(np.int32),
        'means': snapshot.means.astype(np.float32),
        'exemplars': snapshot.exemplars.astype(np.float16),
        'mask': snapshot.mask,
    }
