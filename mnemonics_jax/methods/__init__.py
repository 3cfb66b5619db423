"""Class-incremental methods, one file each: a new file is a new method.

A method's file says at its top what it follows and has
    make: `(settings) -> Method`, from its own section of the configuration.
    SETTINGS: name -> (default, rule, text), the fields of that section.
    DEFAULTS: general fields as the method's paper has them: `head` (of
        `backbone`), `imprint` and `freeze_old_rows` (of `method`).
    HEADS: the heads that it works with.
"""

import importlib
import pkgutil
import types as python_types
from typing import TYPE_CHECKING, Any

from mnemonics_jax.core import plugins
from mnemonics_jax.core.rules import Field, one_of

if TYPE_CHECKING:  # It loads jax, and the names of methods need none.
    from mnemonics_jax.types import Method


def method_names() -> list[str]:
    """Names of all methods: the files of this folder, and plug-ins."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted({*files, *plugins.registered('methods')})


def make_method(name: str, config: Any) -> 'Method':
    """A method with its settings.

    Args:
        name: one of `method_names()`.
        config: the section `method` of the configuration, or anything with the
            method's settings under the method's name.

    Raises:
        ValueError: there is no such method.
    """
    return _file(name).make(config[name])


def settings_of(name: str) -> dict[str, Field]:
    """The settings of a method."""
    settings = _file(name).SETTINGS
    return {key: Field(*entry) for key, entry in settings.items()}


def defaults_of(name: str) -> dict[str, Any]:
    """General fields as a method's paper has them."""
    return _file(name).DEFAULTS


def heads_of(name: str) -> tuple[str, ...]:
    """Heads that a method works with."""
    return _file(name).HEADS


def default_settings() -> dict[str, dict[str, Any]]:
    """Defaults of all methods' settings, by method."""
    return {
        name: {key: field.default for key, field in settings_of(name).items()}
        for name in method_names()
    }


def _file(name: str) -> python_types.ModuleType:
    if name not in method_names():
        raise ValueError(
            f'method.name={name!r}: must be {one_of(method_names()).words}'
        )
    if name in plugins.registered('methods'):
        return plugins.registered('methods')[name]
    return importlib.import_module(f'{__name__}.{name}')
