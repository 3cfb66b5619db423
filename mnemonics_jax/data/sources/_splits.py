"""Which images train and which are evaluated."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.data.sources._files import Files

TRAIN = ('train', 'training')
# The first of these that there is is evaluated: where there are both, images of
# a test split often have no labels.
TEST = ('validation', 'valid', 'val', 'test', 'testing')

# `Source.about` and `Source.notes`, as far as splits go.
Said = tuple[Mapping[str, Any], tuple[str, ...]]


class Chosen(NamedTuple):
    """The names of the splits that are used.

    Attributes:
        train: name of the training split.
        test: name of the evaluated one; None if there is none.
        others: names of those that are not used.
    """

    train: str
    test: str | None
    others: tuple[str, ...]


def kind_of(name: str) -> str | None:
    """'train' or 'test' for the name of a split, in any case, else None."""
    known = {**dict.fromkeys(TRAIN, 'train'), **dict.fromkeys(TEST, 'test')}
    return known.get(name.lower())


def choose(names: Sequence[str], field: str) -> Chosen | None:
    """Chooses among the names of splits; None if none trains.

    Args:
        names: any names, of which others than those of splits do not matter.
        field: what has them, for messages.

    Raises:
        ValueError: two of them train.
    """
    train = [name for name in names if kind_of(name) == 'train']
    test = sorted(
        (name for name in names if kind_of(name) == 'test'),
        key=lambda name: (TEST.index(name.lower()), name),
    )
    if len(train) > 1:
        raise ValueError(
            f'{field}: has {" and ".join(train)}: must have one of them'
        )
    if not train:
        return None
    return Chosen(train[0], test[0] if test else None, tuple(test[1:]))


def check_fraction(chosen: Chosen | None, fraction: Any, field: str) -> None:
    """Raises ValueError if images would be held out beside a test split."""
    if fraction is not None and chosen is not None and chosen.test:
        raise ValueError(
            f'data.test_fraction={fraction}: must be None, since {field} has '
            f'{chosen.test}'
        )


def hold_out(files: Files, fraction: float, seed: int) -> dict[str, Files]:
    """Divides files into 'train' and 'test', in each class by itself.

    Which files of a class are held out depends on their names and the seed
    alone, so that it stays as it is when classes are added.

    Args:
        files: all files.
        fraction: part of each class to hold out, in (0, 1); at least one file
            is, and at least one is not.
        seed: of the draw.

    Raises:
        ValueError: a class has a single file.
    """
    is_test = np.zeros(len(files.names), bool)
    for label, name in enumerate(files.classes):
        rows = np.flatnonzero(files.labels == label)
        if len(rows) < 2:
            raise ValueError(
                f'data.test_fraction={fraction}: class {name!r} has 1 image: '
                'must have at least 2'
            )
        ranks = [_rank(seed, files.names[row]) for row in rows.tolist()]
        num = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        is_test[rows[np.argsort(ranks)[:num]]] = True
    return {
        'train': files.take(np.flatnonzero(~is_test)),
        'test': files.take(np.flatnonzero(is_test)).without_unread(),
    }


def held_out_said(fraction: float, seed: int, field: str) -> Said:
    """What `Source.about` and `Source.notes` say of `hold_out`."""
    return {'test_fraction': fraction, 'test_seed': seed}, (
        f'{field}: {fraction:g} of each class is held out and evaluated '
        f'(data.test_fraction; data.subset_seed={seed})',
    )


def chosen_said(chosen: Chosen, field: str) -> Said:
    """What they say of the splits that there are."""
    about = {
        'train_split': chosen.train,
        'evaluated_split': chosen.test,
        'unused_splits': list(chosen.others),
    }
    if not chosen.others:
        return about, ()
    others = ', '.join(chosen.others)
    return about, (f'{field}: evaluated on {chosen.test}; not used: {others}',)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f'{seed}/{name}'.encode()).digest()
