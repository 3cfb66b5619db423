"""Synthetic images for tests, with any number of classes.

A class is a smooth random pattern; its images are the pattern with a random
shift, brightness and noise. An image is a function of its position alone.
"""

from typing import Any

import numpy as np

from mnemonics_jax.data.sources import SPLITS, Source
from mnemonics_jax.data.sources.checks import positive_option

_SEED = 1993
_GRID = 4  # Random values per side of a pattern, interpolated to pixels.
_MAX_SHIFT = 1
_GAIN = (0.6, 1.4)
_NOISE = 0.2


def num_classes(options: Any) -> int:
    """Number of classes, known without the data."""
    return positive_option(options, 'num_classes', 10)


def make(options: Any) -> Source:
    """Makes a source.

    Args:
        options: may have `num_classes` (default 10), `train_per_class` (40),
            `test_per_class` (20), `image_size` (8) and `channels` (3).

    Raises:
        ValueError: an option is not a positive integer.
    """
    num_classes = positive_option(options, 'num_classes', 10)
    size = positive_option(options, 'image_size', 8)
    channels = positive_option(options, 'channels', 3)
    counts = (
        positive_option(options, 'train_per_class', 40),
        positive_option(options, 'test_per_class', 20),
    )
    labels = {
        split: np.tile(np.arange(num_classes, dtype=np.int32), count)
        for split, count in zip(SPLITS, counts, strict=True)
    }
    patterns = _patterns(num_classes, size + 2 * _MAX_SHIFT, channels)

    def read(split: str, positions: np.ndarray) -> np.ndarray:
        images = np.empty((len(positions), size, size, channels), np.uint8)
        for row, position in enumerate(positions):
            pattern = patterns[labels[split][position]]
            key = (_SEED, 1 + SPLITS.index(split), int(position))
            images[row] = _image(pattern, size, np.random.default_rng(key))
        return images

    return Source(
        num_classes=num_classes,
        image_shape=(size, size, channels),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        class_names=tuple(f'class {label}' for label in range(num_classes)),
        labels=labels,
        read=read,
    )


def _patterns(num_classes: int, side: int, channels: int) -> np.ndarray:
    """Patterns f32[K, side, side, C] in [0, 1]."""
    random = np.random.default_rng(_SEED)
    shape = (num_classes, _GRID, _GRID, channels)
    grid = random.uniform(size=shape).astype(np.float32)
    knots = np.linspace(0, _GRID - 1, side, dtype=np.float32)
    distances = np.abs(knots[:, None] - np.arange(_GRID, dtype=np.float32))
    weights = np.maximum(0, 1 - distances)  # Linear interpolation.
    grid = np.einsum('pi,kijc->kpjc', weights, grid)
    return np.einsum('qj,kpjc->kpqc', weights, grid)


def _image(
    pattern: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """One image uint8[size, size, C] of a pattern."""
    top, left = random.integers(0, 2 * _MAX_SHIFT + 1, size=2)
    crop = pattern[top : top + size, left : left + size]
    noise = random.normal(0, _NOISE, crop.shape)
    pixels = random.uniform(*_GAIN) * crop + noise
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
