"""Rules of fields whose values are names that some other code has.

The names are looked up at each check, so that plug-ins are among them. What
loads jax is imported then, too: `--help` does without.
"""

from collections.abc import Iterable

from mnemonics_jax import methods
from mnemonics_jax.core.rules import name_in
from mnemonics_jax.data import sources


def _backbones() -> Iterable[str]:
    from mnemonics_jax import backbones

    return backbones.backbone_names()


def _precisions() -> Iterable[str]:
    from mnemonics_jax import backbones

    return backbones.PRECISIONS


def _heads() -> Iterable[str]:
    from mnemonics_jax.backbones import heads

    return heads.HEADS


def _strategies() -> Iterable[str]:
    from mnemonics_jax.exemplars import strategies

    return strategies.strategy_names()


def _inits() -> Iterable[str]:
    from mnemonics_jax.exemplars import strategies

    return strategies.init_names()


def _storages() -> Iterable[str]:
    from mnemonics_jax.data import storage

    return storage.names()


def _objectives() -> Iterable[str]:
    from mnemonics_jax.exemplars import objectives

    return objectives.OBJECTIVES


def _hypergradients() -> Iterable[str]:
    from mnemonics_jax.bilevel import hypergradients

    return hypergradients.NAMES


SOURCES = name_in('mnemonics_jax/data/sources', sources.source_names)
METHODS = name_in('mnemonics_jax/methods', methods.method_names)
BACKBONES = name_in('mnemonics_jax/backbones', _backbones)
PRECISIONS = name_in('mnemonics_jax/backbones', _precisions)
HEADS = name_in('mnemonics_jax/backbones/heads.py', _heads)
STRATEGIES = name_in('mnemonics_jax/exemplars/strategies', _strategies)
INITS = name_in('mnemonics_jax/exemplars/strategies', _inits)
STORAGES = name_in('mnemonics_jax/data/storage', _storages)
OBJECTIVES = name_in('mnemonics_jax/exemplars/objectives.py', _objectives)
HYPERGRADIENTS = name_in(
    'mnemonics_jax/bilevel/hypergradients.py', _hypergradients
)
