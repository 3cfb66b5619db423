"""The run that tests of what a run leaves look at."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from mnemonics_jax import experiment
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components

# Names as people give them, by folder.
NAMES = {
    'n01': 'red fox',
    'n02': 'a/b',
    'n03': '..',
    'n04': 'B\u00e4r, gro\u00df',
    'n05': 'CON',
    'n06': '1',
}
NUM_TRAIN, NUM_TEST = 12, 7


class SavedRun(NamedTuple):
    """A finished run.

    Attributes:
        workdir: of it.
        data: the folder of its images.
        parts: its components.
        results: content of `results.json`.
    """

    workdir: pathlib.Path
    data: pathlib.Path
    parts: components.Components
    results: dict[str, Any]


def add_class(root: pathlib.Path, name: str, seed: int) -> None:
    """Images of a pattern of its own, of several sizes, in both splits."""
    random = np.random.default_rng(seed)
    pattern = random.uniform(60, 195, (4, 4, 3))
    for split, count in (('train', NUM_TRAIN), ('validation', NUM_TEST)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = pattern.repeat(3 + i % 2, 0).repeat(3, 1)
            pixels = pixels + random.normal(0, 70, pixels.shape)
            image = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f'{i}.png')


def use_folder(config: Any, data: pathlib.Path) -> None:
    """Has a configuration take its images from a folder."""
    config.data.update(
        source='folder', dir=str(data), feed='device', num_classes=None
    )
    for field in ('channels', 'train_per_class', 'test_per_class'):
        config.data[field] = None


def make(folder: pathlib.Path, placement: parallel.Placement) -> SavedRun:
    """Makes the images, and runs."""
    from tests import conftest

    data, workdir = folder / 'images', folder / 'run'
    for seed, name in enumerate(NAMES):
        add_class(data, name, seed)
    lines = [f'{key}\t{name}\n' for key, name in NAMES.items()]
    (data / 'labels.txt').write_text(''.join(lines))
    config = conftest.tiny_config.__wrapped__()
    use_folder(config, data)
    config.finetune.lr = 0.2
    parts = experiment.prepare(config, workdir, placement)
    results = experiment.run(parts, workdir)
    return SavedRun(workdir, data, parts, results)
