"""What study C runs with, by data and network; chosen on seed 100."""

import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn

from experiments.scratch_learning import Recipe
from experiments.scratch_model import Convolutions, Perceptron, Training
from mnemonics_jax.data.augment import Augmentation


class Settings(NamedTuple):
    """The same for all rows of a table.

    Attributes:
        network: without its head, which is linear.
        training: of networks on a memory.
        training_on_all: of networks on all images, which take longer.
        networks: trained and tested for each case, which differ in their seed.
        factor: packed, factor^2 images take the bytes of one.
        start: where learned exemplars start: 'random' or 'herding'.
        learning: of exemplars.
        learning_packed: of packed exemplars; None leaves these out.
        soft_labels: whether labels are learned as well, in a row of its own.
    """

    network: nn.Module
    training: Training
    training_on_all: Training
    networks: int
    factor: int
    start: str
    learning: Recipe
    learning_packed: Recipe | None
    soft_labels: bool


_FLIPPED = Augmentation(flip=True)
_DIGITS = Training(300, 0.02, 128, Augmentation())
_IMAGES = Training(300, 0.005, 128, _FLIPPED)
_CONVOLUTIONS = Training(300, 0.02, 128, Augmentation(4, True, False, 0.3))
# The whole bilevel problem: fresh networks, all parameters, nothing cut short.
_FRESH = Recipe(
    outer_steps=300,
    rate=0.01,
    scope='all',
    inner_steps=30,
    inner_rate=0.02,
    pool=1,
    most_steps=1,
    most_shown=10,
)
# What convolutions leave time for.
_HEADS = Recipe(
    outer_steps=600,
    rate=0.01,
    scope='head',
    inner_steps=30,
    inner_rate=6.0,
    pool=5,
    most_steps=120,
    most_shown=16,
    query_augmentation=_FLIPPED,
)

SETTINGS = {
    'digits': Settings(
        network=Perceptron(128),
        training=_DIGITS,
        training_on_all=_DIGITS._replace(steps=1000),
        networks=2,
        factor=2,
        start='random',
        learning=_FRESH._replace(inner_rate=0.05),
        learning_packed=_FRESH._replace(inner_rate=0.05),
        soft_labels=True,
    ),
    'images': Settings(
        network=Perceptron(128, square=2),
        training=_IMAGES,
        training_on_all=_IMAGES._replace(steps=1000),
        networks=2,
        factor=2,
        start='random',
        learning=_FRESH._replace(query_augmentation=_FLIPPED),
        learning_packed=_FRESH._replace(query_augmentation=_FLIPPED),
        soft_labels=True,
    ),
    # Only what an hour on a core holds.
    'images_convolutions': Settings(
        network=Convolutions((16, 32, 64)),
        training=_CONVOLUTIONS,
        training_on_all=_CONVOLUTIONS._replace(steps=1000),
        networks=2,
        factor=1,
        start='herding',
        learning=_HEADS,
        learning_packed=None,
        soft_labels=False,
    ),
}


def quick(settings: Settings) -> Settings:
    """The same in seconds; accuracies mean nothing."""

    def few(recipe):
        return recipe._replace(outer_steps=4, inner_steps=3, queries=32)

    return settings._replace(
        training=settings.training._replace(steps=10),
        training_on_all=settings.training_on_all._replace(steps=10),
        networks=1,
        learning=few(settings.learning),
        learning_packed=(
            settings.learning_packed and few(settings.learning_packed)
        ),
    )


def as_dict(value: Any) -> Any:
    """Settings, however deep, as JSON takes them."""
    if hasattr(value, '_asdict'):
        return {k: as_dict(v) for k, v in value._asdict().items()}
    if isinstance(value, nn.Module):
        own = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.name not in ('parent', 'name')
        }
        return {'name': type(value).__name__, **own}
    return value
