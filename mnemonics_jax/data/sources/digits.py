"""Handwritten digits: 1797 grey images of 8x8 pixels, part of scikit-learn.

The default source, since it needs no download.
"""

import gzip
import importlib.util
import pathlib
from typing import Any

import numpy as np

from mnemonics_jax.data.sources import Source

# The split does not depend on the run's seed: all runs share one test set.
_SPLIT_SEED = 0
_TEST_FRACTION = 0.25
_NUM_CLASSES = 10
_MAX_VALUE = 16


def num_classes(options: Any) -> int:
    """Number of classes, known without the data."""
    del options
    return _NUM_CLASSES


def make(options: Any) -> Source:
    """Loads the digits; they have no options.

    Returns:
        A source of 1347 training and 450 test images uint8[8,8,1]; in each
        class a quarter of the images is held out for testing.
    """
    del options
    values, labels = _load()
    pixels = np.rint(values * (255 / _MAX_VALUE)).astype(np.uint8)
    pixels = pixels.reshape(-1, 8, 8, 1)
    split_positions = _split(labels)
    images = {key: pixels[rows] for key, rows in split_positions.items()}
    unit = images['train'] / 255
    return Source(
        num_classes=_NUM_CLASSES,
        image_shape=(8, 8, 1),
        mean=(float(unit.mean()),),
        std=(float(unit.std()),),
        class_names=tuple(str(digit) for digit in range(_NUM_CLASSES)),
        labels={key: labels[rows] for key, rows in split_positions.items()},
        read=lambda split, positions: images[split][positions],
    )


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Values [1797,64] in 0..16 and labels int32[1797].

    From the file of `sklearn.datasets.load_digits`: to import scikit-learn
    would take a second.
    """
    spec = importlib.util.find_spec('sklearn')
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name='sklearn')
    folder = pathlib.Path(spec.origin).parent
    with gzip.open(folder / 'datasets/data/digits.csv.gz') as file:
        rows = np.loadtxt(file, np.int32, delimiter=',')
    return rows[:, :-1], rows[:, -1]


def _split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Positions of each split, ascending."""
    # The legacy generator is frozen: the same split in all NumPy versions.
    random = np.random.RandomState(_SPLIT_SEED)
    is_test = np.zeros(len(labels), bool)
    for label in range(_NUM_CLASSES):
        rows = random.permutation(np.flatnonzero(labels == label))
        is_test[rows[: round(_TEST_FRACTION * len(rows))]] = True
    return {'train': np.flatnonzero(~is_test), 'test': np.flatnonzero(is_test)}
