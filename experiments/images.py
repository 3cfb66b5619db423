r"""Splits images into sets of classes: to choose and to confirm.

    python -m experiments.images DIR --out=runs/images

reads DIR like `configs/folder.py` and writes `choose.npz` and `confirm.npz` for
the source `arrays`, with square training and test images of each class. No
class is in both files, so that choices made on the first are evaluated on new
classes.

    python -m experiments.images IN.npz --out=runs/cifar100 --disjoint=20 \
      --train=200 --test=100

reads a file for the source `arrays` and writes `confirm-0.npz`, `confirm-1.npz`
and so on, for each seed 20 classes that no other seed has.

    python -m experiments.images IN.npz --out=runs/cifar100_all --choose=0 \
      --train=500 --test=100

writes all classes, in `confirm.npz`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from mnemonics_jax.config import fields
from mnemonics_jax.core.cli import Parser
from mnemonics_jax.data import sources

# Seed of the random split of classes.
SEED = 2020


def split_classes(num: int, num_choose: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes to choose on and classes to confirm on, each ascending."""
    order = np.random.default_rng(SEED).permutation(num)
    return np.sort(order[:num_choose]), np.sort(order[num_choose:])


def deal_classes(num: int, num_each: int) -> list[np.ndarray]:
    """Disjoint sets of `num_each` classes, each ascending; the rest is left.

    Raises:
        ValueError: there are fewer classes than one set needs.
    """
    if not 1 <= num_each <= num:
        raise ValueError(
            f'--disjoint={num_each}: must be in 1..{num}, the number of classes'
        )
    order = np.random.default_rng(SEED).permutation(num)
    ends = range(num_each, num + 1, num_each)
    return [np.sort(order[end - num_each : end]) for end in ends]


def parts(num: int, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Classes of each file by its name, without '.npz'."""
    if args.disjoint is not None:
        dealt = deal_classes(num, args.disjoint)
        return {f'confirm-{seed}': part for seed, part in enumerate(dealt)}
    choose, confirm = split_classes(num, args.choose)
    both = {'choose': choose, 'confirm': confirm}
    return {name: part for name, part in both.items() if len(part)}


def pick(
    labels: dict[str, np.ndarray], k: int, num_train: int, num_test: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the images of a class.

    Args:
        labels: labels of a source, by split.
        k: the class.
        num_train: number of training images, the first of the training split.
        num_test: number of test images: those of the test split, then further
            ones of the training split.

    Returns:
        Training images, test images of the test split, and test images of the
        training split.

    Raises:
        ValueError: there are too few images.
    """
    train, test = (
        np.flatnonzero(labels[split] == k) for split in ('train', 'test')
    )
    test = test[:num_test]
    rest = train[num_train : num_train + num_test - len(test)]
    if len(train[:num_train]) < num_train or len(test) + len(rest) < num_test:
        raise ValueError(
            f'class {k}: {len(train)} training and {len(test)} test images, '
            f'must be at least {num_train} + {num_test} in all'
        )
    return train[:num_train], test, rest


def cut(
    source: sources.Source, classes: np.ndarray, num_train: int, num_test: int
) -> dict[str, np.ndarray]:
    """Makes the arrays of a file.

    Args:
        source: source of the images.
        classes: int[c], classes of the file.
        num_train: training images per class.
        num_test: test images per class.
    """
    arrays: dict[str, list[np.ndarray]] = {'train': [], 'test': []}
    for k in classes:
        train, test, rest = pick(source.labels, k, num_train, num_test)
        arrays['train'].append(source.read('train', train))
        arrays['test'].append(
            np.concatenate(
                [source.read('test', test)] * (len(test) > 0)
                + [source.read('train', rest)] * (len(rest) > 0)
            )
        )
    rows = np.arange(len(classes), dtype=np.int32)
    return {
        'train_images': np.concatenate(arrays['train']),
        'train_labels': np.repeat(rows, num_train),
        'test_images': np.concatenate(arrays['test']),
        'test_labels': np.repeat(rows, num_test),
        'class_names': np.array([source.class_names[k] for k in classes]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files and returns the exit status."""
    parser = Parser(description=__doc__.partition('\n')[0])
    add = parser.add_argument
    add('dir', help='with train/<class>/* and validation/<class>/*, or .npz')
    add('--out', required=True, type=pathlib.Path, help='folder to write to')
    add('--size', default=32, type=int, help='side length of files in pixels')
    add('--choose', default=40, type=int, help='classes to choose on')
    add('--train', default=200, type=int, help='training images per class')
    add('--test', default=200, type=int, help='test images per class')
    add('--disjoint', type=int, help='classes of each seed, all to confirm')
    args = parser.parse_args(argv)
    name = 'arrays' if args.dir.endswith('.npz') else 'folder'
    options = fields.default_config().data
    options.update(source=name, dir=args.dir, image_size=args.size)
    try:
        source = sources.make_source(name, options)
        args.out.mkdir(parents=True, exist_ok=True)
        for name, classes in parts(source.num_classes, args).items():
            arrays = cut(source, classes, args.train, args.test)
            np.savez(args.out / f'{name}.npz', **arrays)
            print(f'{args.out / name}.npz: {len(classes)} classes')
    except (OSError, ValueError) as e:
        print(f'error: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
