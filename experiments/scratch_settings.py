"""What study C runs with, by data; chosen on seeds 100 and 101."""

from typing import NamedTuple

from experiments.scratch_learning import Recipe
from experiments.scratch_model import Training
from mnemonics_jax.augment import Augmentation


class Settings(NamedTuple):
    """Of one kind of data; the same for all rows of its table.

    Attributes:
        widths: of the network.
        training: of networks on a memory.
        training_on_all: of networks on all images, which take longer.
        networks: trained and tested for each case, which differ in their seed.
        factor: packed, factor^2 images take the bytes of one.
        start: where learned exemplars start: 'random' or 'herding'.
        learning: of exemplars.
        learning_packed: of packed exemplars.
    """

    widths: tuple[int, ...]
    training: Training
    training_on_all: Training
    networks: int
    factor: int
    start: str
    learning: Recipe
    learning_packed: Recipe


_DIGITS = Training(300, 0.02, 128, Augmentation(pad=1))
_IMAGES = Training(300, 0.02, 128, Augmentation(4, flip=True, brightness=0.3))
_FLIPPED = Augmentation(flip=True)

SETTINGS = {
    'digits': Settings(
        widths=(32, 64),
        training=_DIGITS,
        training_on_all=_DIGITS._replace(steps=1000),
        networks=2,
        factor=2,
        start='random',
        learning=Recipe(500, 0.01),
        learning_packed=Recipe(500, 0.01),
    ),
    'images': Settings(
        widths=(32, 64, 128),
        training=_IMAGES,
        training_on_all=_IMAGES._replace(steps=1000),
        networks=2,
        factor=3,
        start='herding',
        learning=Recipe(400, 0.005, query_augmentation=_FLIPPED),
        learning_packed=Recipe(300, 0.002, query_augmentation=_FLIPPED),
    ),
}


def quick(settings: Settings) -> Settings:
    """The same in seconds; accuracies mean nothing."""
    few = Recipe(4, 0.01, inner_steps=3, pool=2, queries=32)
    return settings._replace(
        widths=tuple(width // 4 for width in settings.widths),
        training=settings.training._replace(steps=10),
        training_on_all=settings.training_on_all._replace(steps=10),
        networks=1,
        learning=few,
        learning_packed=few,
    )
