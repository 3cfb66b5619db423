"""The contract of strategies that come from a user: checked before a run.

`select` is called with a few made-up features.
"""

import inspect

import numpy as np
from ml_collections import config_dict

from mnemonics_jax.core import parallel, plugins
from mnemonics_jax.exemplars import learning, strategies

# Images of two classes after a first, of which the second has fewer than are
# to be selected, in no order; and features of each.
_SIZES, _NUM, _D = (12, 3), 4, 8


def check_strategies(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if a strategy is a plug-in that breaks its contract.

    Args:
        config: configuration with the strategy, and the one that learning
            starts from.
    """
    ex = config.exemplars
    for name in dict.fromkeys((ex.init, ex.strategy)):
        if name in plugins.registered('strategies'):
            _check(name, ex.init)


def _check(name: str, init: str) -> None:
    learn = strategies.strategy(name).learn
    if learn is not None:
        expected = inspect.signature(learning.learn).parameters
        try:
            inspect.signature(learn).bind(*expected)
        except TypeError as e:
            raise plugins.PluginError(
                f'{name}.learn: {e}: must take ({", ".join(expected)})'
                f'{plugins.defined_at(learn)}'
            ) from e
    if strategies.keeps(name):
        parallel.check_devices()  # Features may be read by JAX.
        plugins.attempt(
            f'{name}.select', strategies.select, name, _candidates(init)
        )


def _candidates(init: str) -> strategies.Candidates:
    random = np.random.default_rng(0)
    low = 1
    high = low + len(_SIZES)
    labels = random.permutation(np.repeat(np.arange(low, high), _SIZES))
    features = random.normal(size=(len(labels), _D))
    return strategies.Candidates(
        labels.astype(np.int32),
        lambda: features.astype(np.float32),
        classes=(low, high),
        num=_NUM,
        max_class_size=max(_SIZES),
        max_classes=len(_SIZES),
        seed=(0, 1, 0),
        init=init,
    )
