"""Exemplar strategies, one file each; a new file adds a strategy.

A strategy's file says at its top what it follows and has
    select: `(Candidates) -> int32[c, num]`, the images to keep of each new
        class: positions of examples, best first, -1 where a class has no more.
        None keeps nothing.
    learn: changes the pixels of the selected images, with the arguments and the
        result of `learning.learn`. None keeps real images.
"""

import importlib
import pkgutil
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core import plugins


class Candidates(NamedTuple):
    """The training images of a phase, of which a strategy selects some.

    Attributes:
        labels: int32[n].
        features: `() -> f32[n, D]`, features by the current model. They are
            computed when the function is called.
        classes: low and high of the new classes.
        num: images to select of each class.
        max_class_size: images of the largest class of the data, for shapes that
            do not depend on the phase.
        seed: seed of random choices.
        init: strategy that selects the images which learning starts from.
        max_classes: most classes of a phase, also for shapes; 0: unknown.
    """

    labels: np.ndarray
    features: Callable[[], np.ndarray]
    classes: tuple[int, int]
    num: int
    max_class_size: int
    seed: tuple[int, ...]
    init: str = 'random'
    max_classes: int = 0

    def members(self) -> list[np.ndarray]:
        """Positions of the examples of each new class."""
        return [np.flatnonzero(self.labels == k) for k in range(*self.classes)]

    def take(self, ranks: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """What `select` returns, of ranks within each class.

        Args:
            ranks: for each class the selected ones of its `members`, best
                first; -1 is skipped.
        """
        chosen = np.full((len(ranks), self.num), -1, np.int32)
        for row, members, rank in zip(
            chosen, self.members(), ranks, strict=True
        ):
            valid = rank[rank >= 0]
            row[: len(valid)] = members[valid]
        return chosen


def strategy_names() -> list[str]:
    """Names of all strategies: the files of this folder, and plug-ins."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted({*files, *plugins.registered('strategies')})


def init_names() -> list[str]:
    """Names of the strategies that select real images, for `init`."""
    return [name for name in strategy_names() if keeps(name) > learns(name)]


def strategy(name: str) -> types.ModuleType:
    """The file of a strategy.

    Raises:
        ValueError: there is no such strategy.
    """
    if name not in strategy_names():
        raise ValueError(
            f'exemplars.strategy={name!r}: must be one of '
            f'{", ".join(strategy_names())}'
        )
    if name in plugins.registered('strategies'):
        return plugins.registered('strategies')[name]
    return importlib.import_module(f'{__name__}.{name}')


def select(name: str, candidates: Candidates) -> np.ndarray:
    """What a strategy selects, int32[c, num]; see the module.

    Raises:
        PluginError: the strategy breaks its contract.
    """
    function = strategy(name).select
    found = function(candidates)
    chosen = plugins.attempt(f'{name}.select: returned', np.asarray, found)
    where = plugins.defined_at(function)
    shape = (len(candidates.members()), candidates.num)
    if chosen.shape != shape or not np.issubdtype(chosen.dtype, np.integer):
        raise plugins.PluginError(
            f'{name}.select: returned {plugins.described(found)}, must be '
            f'int32{list(shape)}{where}'
        )
    for row, members in zip(chosen, candidates.members(), strict=True):
        kept = row[row != -1]
        if (
            len(set(kept.tolist())) < len(kept)
            or not np.isin(kept, members).all()
        ):
            raise plugins.PluginError(
                f'{name}.select: a row must hold different positions of its '
                f'own class, and -1{where}'
            )
    return chosen.astype(np.int32)


def learn(name: str, *arguments: Any) -> Any:
    """What a strategy learns, f32[c, s, H, W, C]; see `learning.learn`.

    Raises:
        PluginError: the strategy returns something else than images.
    """
    function = strategy(name).learn
    learned, shape = function(*arguments), arguments[2].shape
    if getattr(learned, 'shape', None) != shape:
        raise plugins.PluginError(
            f'{name}.learn: returned {plugins.described(learned)}, must be '
            f'images of shape {shape}{plugins.defined_at(function)}'
        )
    return learned


def keeps(name: str) -> bool:
    """Whether a strategy keeps any exemplars."""
    return strategy(name).select is not None


def learns(name: str) -> bool:
    """Whether a strategy learns pixels."""
    return strategy(name).learn is not None
