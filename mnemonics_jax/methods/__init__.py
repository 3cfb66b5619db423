"""Class-incremental methods, one file each; a new file adds a method.

The docstring of a method's file cites its paper. The file defines
    make: `(settings) -> Method`, from its own section of the configuration.
    SETTINGS: name -> (default, rule, text), the fields of that section.
    DEFAULTS: field -> default, for fields of other sections whose default is
        `ByMethod` in `config/fields.py` and not the usual one in the method's
        paper or code.
    HEADS: supported heads.
"""

import importlib
import pkgutil
import types as python_types
from typing import TYPE_CHECKING, Any

from mnemonics_jax.core import plugins
from mnemonics_jax.core.rules import Field, one_of

if TYPE_CHECKING:  # Importing it loads jax, which names do not need.
    from mnemonics_jax.types import Method


def method_names() -> list[str]:
    """Sorted names of all methods: the files of this folder and plug-ins."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted({*files, *plugins.registered('methods')})


def make_method(name: str, config: Any) -> 'Method':
    """Makes a method with its settings.

    Args:
        name: one of `method_names()`.
        config: config section `method`, or any mapping from the method's name
            to its settings.

    Raises:
        ValueError: there is no such method.
    """
    return _file(name).make(config[name])


def settings_of(name: str) -> dict[str, Field]:
    """The settings of a method."""
    settings = _file(name).SETTINGS
    return {key: Field(*entry) for key, entry in settings.items()}


def defaults_of(name: str) -> dict[str, Any]:
    """Defaults of fields of other sections that a method changes."""
    return _file(name).DEFAULTS


def heads_of(name: str) -> tuple[str, ...]:
    """Heads that a method supports."""
    return _file(name).HEADS


def default_settings() -> dict[str, dict[str, Any]]:
    """Defaults of all methods' settings, by method."""
    return {
        name: {key: field.default for key, field in settings_of(name).items()}
        for name in method_names()
    }


def _file(name: str) -> python_types.ModuleType:
    plugins.check_object('methods', name)
    if name not in method_names():
        raise ValueError(
            f'method.name={name!r}: must be {one_of(method_names()).words}'
        )
    if name in plugins.registered('methods'):
        return plugins.registered('methods')[name]
    return importlib.import_module(f'{__name__}.{name}')
