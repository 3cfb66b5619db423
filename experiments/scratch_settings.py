"""Settings of study C by data and network, chosen on seed 100."""

import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn

from experiments.scratch_learning import Recipe
from experiments.scratch_model import Convolutions, Perceptron, Training
from mnemonics_jax.data.augment import Augmentation


class Settings(NamedTuple):
    """Settings shared by all rows of a table.

    Attributes:
        network: network without its linear head.
        training: training of networks on a memory.
        training_on_all: training of networks on all images.
        networks: networks per case, with different seeds.
        factor: packing factor; factor^2 packed images take the bytes of one.
        start: initial values of learned exemplars: 'random' or 'herding'.
        learning: recipe for exemplars.
        learning_packed: recipe for packed exemplars; None for no such rows.
        soft_labels: whether there is a row with learned soft labels.
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
# The whole bilevel problem: fresh networks and all parameters.
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
# A cheaper recipe, for convolutions.
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
    # Limited to an hour on one core.
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
    """Settings that run in seconds; accuracies are meaningless."""

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
    """Nested settings as JSON serializable values."""
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
