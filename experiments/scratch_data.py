"""The images of study C: all digits, or ten classes of an image folder."""

from typing import NamedTuple

import numpy as np

from mnemonics_jax.data import sources

NUM_CLASSES = 10
IMAGE_SIZE = 32


class Data(NamedTuple):
    """Images in memory.

    Attributes:
        num_classes: K.
        images: training images, uint8[n, H, W, C].
        labels: int32[n] in 0..K-1.
        test_images: uint8[m, H, W, C].
        test_labels: int32[m].
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
    """

    num_classes: int
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]


def source_of(text: str) -> sources.Source:
    """The source that `--data` names: 'digits' or an image folder.

    Raises:
        ValueError: the folder does not exist or has too few classes.
    """
    if text == 'digits':
        return sources.make_source('digits', {})
    options = {'dir': text, 'image_size': IMAGE_SIZE}
    source = sources.make_source('folder', options)
    if source.num_classes < NUM_CLASSES:
        raise ValueError(
            f'--data={text}: must have at least {NUM_CLASSES} classes, has '
            f'{source.num_classes}'
        )
    return source


def load(source: sources.Source, seed: int) -> Data:
    """Reads ten random classes in random order."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(source.num_classes)[:NUM_CLASSES]
    source = sources.take_classes(source, chosen)
    images = {
        split: source.read(split, np.arange(len(labels)))
        for split, labels in source.labels.items()
    }
    return Data(
        NUM_CLASSES,
        images['train'],
        source.labels['train'],
        images['test'],
        source.labels['test'],
        source.mean,
        source.std,
    )
