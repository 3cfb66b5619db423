"""Sources, methods and networks that are given to a run as Python objects.

For the time of the run an object is registered as a file of its kind would be,
under one name, which the configuration has too.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import ml_collections
from flax import linen as nn

from mnemonics_jax.backbones import heads
from mnemonics_jax.core import plugins
from mnemonics_jax.data.sources import Source
from mnemonics_jax.types import Backbone, Method


@contextlib.contextmanager
def given(
    config: ml_collections.ConfigDict,
    source: Source | None,
    method: Method | None,
    backbone: Backbone | nn.Module | None,
) -> Iterator[ml_collections.ConfigDict]:
    """Registers objects, and yields a configuration that names them.

    Args:
        config: configuration; not changed.
        source: in place of `data.source`; None for no object, as below.
        method: in place of `method.name`.
        backbone: in place of `backbone.name`: a model, or a trunk.

    Raises:
        ValueError: an object is of another type.
    """
    _check('source', source, Source)
    _check('method', method, Method)
    _check('backbone', backbone, Backbone, nn.Module)
    modules, fields = {}, []
    if source is not None:
        modules['sources'] = _module(make=lambda options: source)
        fields.append('data.source')
    if method is not None:
        modules['methods'] = _module(
            make=lambda settings: method,
            SETTINGS={},
            DEFAULTS={},
            HEADS=tuple(heads.HEADS),
        )
        fields.append('method.name')
    if backbone is not None:
        modules['backbones'] = _module(
            BACKBONES={plugins.OBJECT: lambda: backbone}
        )
        fields.append('backbone.name')
    # `resolve` refuses what is not a configuration.
    if not modules or not isinstance(config, ml_collections.ConfigDict):
        yield config
        return
    named = ml_collections.ConfigDict(config.to_dict())
    named.update_from_flattened_dict(dict.fromkeys(fields, plugins.OBJECT))
    with plugins.objects(modules):
        yield named


def _check(argument: str, value: Any, *kinds: type) -> None:
    if value is not None and not isinstance(value, kinds):
        names = ' or a linen '.join(kind.__name__ for kind in kinds)
        raise ValueError(
            f'{argument}: {type(value).__name__}: must be a {names}'
        )


def _module(**content: Any) -> types.ModuleType:
    module = types.ModuleType(plugins.OBJECT)
    vars(module).update(content)
    return module
