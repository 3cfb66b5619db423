"""The command of a plan, and its data, which are described and not read."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import flags

from mnemonics_jax import config as config_lib
from mnemonics_jax.config import parsing
from mnemonics_jax.core import cli, parallel
from mnemonics_jax.data import sources
from mnemonics_jax.experiment import byte_budget, components
from mnemonics_jax.plan import chips

DESCRIPTION = """\
Compiles every large program of a run for TPU slices or GPUs, without data and
without these devices, and prints what each needs.

    python -m mnemonics_jax.plan --config=configs/cifar100.py --chips=v4-32

--config and the flags of its fields are those of mnemonics_jax.main. Needs the
extra plan: pip install -e '.[plan]'.
"""
# Sources that are made from nothing, or come with scikit-learn.
_AT_HAND = ('digits', 'synthetic')


class DataShape(NamedTuple):
    """What programs depend on of a data set.

    Attributes:
        classes: number of classes.
        train: training images of a class.
        test: test images of a class.
        size: side of the images; None as `data.image_size` says.
        statistics: mean and std of each channel.
    """

    classes: int
    train: int
    test: int
    size: int | None
    statistics: tuple[tuple[float, ...], tuple[float, ...]]


# Classes of ImageNet have 732 to 1,300 images, 895 of 1,000 the most.
KNOWN = {
    'cifar10': DataShape(10, 5000, 1000, 32, sources.CIFAR100_STATISTICS),
    'cifar100': DataShape(100, 500, 100, 32, sources.CIFAR100_STATISTICS),
    'imagenet2012': DataShape(
        1000, 1300, 50, None, sources.IMAGENET_STATISTICS
    ),
}


class Request(NamedTuple):
    """What is to be planned.

    Attributes:
        devices: the chips.
        config: resolved configuration.
        source: the data; None for what `data.source` names.
        programs: names of the programs, empty for all.
        out: file for the figures, if any.
    """

    devices: chips.Slice
    config: ml_collections.FrozenConfigDict
    source: sources.Source | None
    programs: tuple[str, ...]
    out: pathlib.Path | None


def parse(argv: Sequence[str]) -> Request:
    """Parses the flags of the command.

    Raises:
        ValueError: a mistake, in one line.
        OSError: a file cannot be read.
    """
    parser = cli.Parser(
        prog='python -m mnemonics_jax.plan',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--chips', help='v4-32, v5e-8, v5p-8, v6e-8, a100:8, h100:8, h200:8'
    )
    parser.add_argument(
        '--programs', help='names separated by commas; by default all'
    )
    parser.add_argument('--out', type=pathlib.Path, help='JSON file to write')
    for name, text in (
        ('classes', 'classes of the data set'),
        ('images_per_class', 'training images of a class'),
        ('test_images_per_class', 'test images of a class'),
        ('image_size', 'side of the images'),
    ):
        parser.add_argument(f'--{name}', type=int, help=text)
    known, rest = parser.parse_known_args(argv)
    if not known.chips:
        raise ValueError(f'--chips: {chips.must_be()}')
    devices = chips.find(known.chips)
    fields = parsing.Parser(flags.FlagValues())
    if left := fields.parse(['plan', *rest])[1:]:
        raise ValueError(f'{left[0]!r}: not a flag; flags start with --')
    # The order of classes by name has no influence on programs.
    fields.config.protocol.class_order_file = None
    config = config_lib.resolve(fields.config, fields.given())
    if byte_budget.given(config.exemplars):
        raise ValueError(
            'exemplars.bytes_per_class or bytes_total: how many images fit is '
            'known from the images, which a plan does not read; must be '
            'exemplars.per_class or total'
        )
    names = known.programs.split(',') if known.programs else []
    source = describe(config, known)
    return Request(devices, config, source, tuple(names), known.out)


def describe(
    config: ml_collections.FrozenConfigDict, given: argparse.Namespace
) -> sources.Source | None:
    """The data of a run by their shapes; None for those that are at hand.

    Raises:
        ValueError: the data set is unknown and not described by flags.
    """
    data = config.data
    if data.source in _AT_HAND:
        return None
    name = data.name or ('cifar100' if data.source == 'cifar' else '')
    known = KNOWN.get(name, DataShape(0, 0, 0, None, ((0.5,) * 3, (0.25,) * 3)))
    size = given.image_size or known.size or data.image_size
    shape = known._replace(
        classes=given.classes or known.classes,
        train=given.images_per_class or known.train,
        test=given.test_images_per_class or known.test,
        size=size,
    )
    for flag, value in (
        ('classes', shape.classes),
        ('images_per_class', shape.train),
        ('test_images_per_class', shape.test),
        ('image_size', shape.size or 0),
    ):
        if value < 1:
            raise ValueError(
                f'--{flag}: must be an integer >= 1 for data.source='
                f'{data.source}, whose images a plan does not read (ImageNet: '
                '--classes=1000 --images_per_class=1300 '
                '--test_images_per_class=50)'
            )
    return as_source(shape, encoded=data.source != 'cifar')


def as_source(shape: DataShape, *, encoded: bool) -> sources.Source:
    """A source with blank images.

    Args:
        shape: the data set; `size` is set.
        encoded: whether the images are decoded in every epoch.
    """
    image = (shape.size or 1, shape.size or 1, 3)
    labels = {
        split: np.repeat(np.arange(shape.classes, dtype=np.int32), count)
        for split, count in (('train', shape.train), ('test', shape.test))
    }

    def read(split: str, positions: np.ndarray) -> np.ndarray:
        return np.zeros((len(positions), *image), np.uint8)

    return sources.Source(
        num_classes=shape.classes,
        image_shape=image,
        mean=shape.statistics[0],
        std=shape.statistics[1],
        class_names=tuple(f'class {k}' for k in range(shape.classes)),
        labels=labels,
        read=read,
        encoded=sources.Encoded(lambda *_: b'', lambda *_: '')
        if encoded
        else None,
    )


def build(
    request: Request, placement: parallel.Placement
) -> components.Components:
    """The components of the run.

    Raises:
        ValueError: the configuration does not fit the data or the devices.
    """
    return components.build(request.config, placement, source=request.source)
