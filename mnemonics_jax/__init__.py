"""Class-incremental learning with learned exemplars, in JAX and Flax.

The names below are for use from outside; each is loaded when it is first asked
for, so that importing the package alone takes no time and no library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemonics_jax import losses, metrics
    from mnemonics_jax.bilevel.hypergradients import make_hypergradient
    from mnemonics_jax.bilevel.inner import InnerProblem, unroll
    from mnemonics_jax.bilevel.learner import (
        ExemplarLearner,
        make_exemplar_learner,
        split_nnx,
    )
    from mnemonics_jax.bilevel.outer import ExemplarState, Query, pixel_gradient
    from mnemonics_jax.config.fields import default_config
    from mnemonics_jax.core import rules
    from mnemonics_jax.data.sources import Source
    from mnemonics_jax.experiment.phase_loop import run_experiment
    from mnemonics_jax.prototypes import class_means, herding, nme_scores
    from mnemonics_jax.types import Backbone, Method

__version__ = '0.1.0'

__all__ = [
    'Backbone',
    'ExemplarLearner',
    'ExemplarState',
    'InnerProblem',
    'Method',
    'Query',
    'Source',
    'class_means',
    'default_config',
    'herding',
    'losses',
    'make_exemplar_learner',
    'make_hypergradient',
    'metrics',
    'nme_scores',
    'pixel_gradient',
    'rules',
    'run_experiment',
    'split_nnx',
    'unroll',
]

# Where each name is; a module is its own home.
_HOMES = {
    'Backbone': 'types',
    'ExemplarLearner': 'bilevel.learner',
    'ExemplarState': 'bilevel.outer',
    'InnerProblem': 'bilevel.inner',
    'Method': 'types',
    'Query': 'bilevel.outer',
    'Source': 'data.sources',
    'class_means': 'prototypes',
    'default_config': 'config.fields',
    'herding': 'prototypes',
    'losses': 'losses',
    'make_exemplar_learner': 'bilevel.learner',
    'make_hypergradient': 'bilevel.hypergradients',
    'metrics': 'metrics',
    'nme_scores': 'prototypes',
    'pixel_gradient': 'bilevel.outer',
    'rules': 'core.rules',
    'run_experiment': 'experiment.phase_loop',
    'split_nnx': 'bilevel.learner',
    'unroll': 'bilevel.inner',
}


def __getattr__(name: str) -> Any:
    """Loads a public name (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = importlib.import_module(f'{__name__}.{home}')
    return module if home.split('.')[-1] == name else getattr(module, name)


def __dir__() -> list[str]:
    """The public names beside those that are loaded."""
    return sorted({*globals(), *__all__})
