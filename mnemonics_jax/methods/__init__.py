"""Class-incremental methods, one file each: a new file is a new method.

A method's file has `make(config) -> Method`, where `config` is the section
`method` of the configuration, and says at its top what it follows.
"""

import importlib
import pkgutil
from typing import Any

from mnemonics_jax.types import Method


def method_names() -> list[str]:
    """Names of all methods: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_method(config: Any) -> Method:
    """The method `config.name` with the settings of `config`.

    Raises:
        ValueError: there is no such method.
    """
    if config.name not in method_names():
        raise ValueError(
            f'method.name={config.name!r}: no such method; allowed: '
            f'{", ".join(method_names())}'
        )
    module = importlib.import_module(f'{__name__}.{config.name}')
    return module.make(config)
