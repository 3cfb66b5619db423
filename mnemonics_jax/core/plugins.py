"""Methods, strategies, backbones and data sources in a user's own files.

A plug-in looks like a file of the package's own folder: a method has `make` and
`SETTINGS`, a strategy has `select` and `learn`, a backbone has `BACKBONES`, a
data source has `make` only. Its name is the file's name. Plug-ins stay
registered until the process ends.
"""

import importlib.util
import pathlib
import pkgutil
import types
from collections.abc import Mapping

# The package's folder of each kind of plug-in.
KINDS = {
    'methods': 'methods',
    'backbones': 'backbones',
    'sources': 'data/sources',
    'strategies': 'exemplars/strategies',
}

_registered: dict[str, dict[str, types.ModuleType]] = {k: {} for k in KINDS}


def registered(kind: str) -> Mapping[str, types.ModuleType]:
    """The registered plug-ins of one of `KINDS`, by name."""
    return _registered[kind]


def register(module: types.ModuleType, name: str) -> None:
    """Registers a module as a plug-in of its kind.

    Raises:
        ValueError: it is no plug-in, or the package has one of this name.
    """
    kind = kind_of(module)
    if kind is None:
        raise ValueError(
            f'{name}: must be a method (make, SETTINGS), a strategy (select, '
            'learn), a backbone (BACKBONES) or a data source (make)'
        )
    if kind == 'strategies':
        check_strategy(module, name)
    folder = str(pathlib.Path(__file__).parent.parent / KINDS[kind])
    if name in (module.name for module in pkgutil.iter_modules([folder])):
        raise ValueError(
            f'{name}: must have another name: mnemonics_jax has {kind} of '
            'this name'
        )
    _registered[kind][name] = module


def check_strategy(module: types.ModuleType, name: str) -> None:
    """Raises ValueError if a strategy's functions are none."""
    for function in ('select', 'learn'):
        value = getattr(module, function)
        if value is not None and not callable(value):
            raise ValueError(f'{name}.{function}: must be a function or None')
    if module.select is None and module.learn is not None:
        raise ValueError(f'{name}.learn: must be None where select is None')


def kind_of(module: types.ModuleType) -> str | None:
    """The one of `KINDS` that a module is, or None."""
    if hasattr(module, 'BACKBONES'):
        return 'backbones'
    if hasattr(module, 'select') and hasattr(module, 'learn'):
        return 'strategies'
    if not hasattr(module, 'make'):
        return None
    return 'methods' if hasattr(module, 'SETTINGS') else 'sources'


def load(path: str | pathlib.Path) -> None:
    """Runs a file and registers it under its name without the suffix.

    A registered file is not run again.

    Raises:
        ValueError: the file is missing or fails, or see `register`.
    """
    given, path = str(path), pathlib.Path(path).resolve()
    name = path.stem
    known = (group.get(name) for group in _registered.values())
    if str(path) in (getattr(module, '__file__', None) for module in known):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    loader = spec and spec.loader
    if path.suffix != '.py' or not path.is_file() or not (spec and loader):
        raise ValueError(f'plugins={given!r}: must be a Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    # The user's file may raise anything.
    except Exception as e:
        reason = str(e).splitlines() or ['']
        raise ValueError(
            f'plugins={given!r}: {type(e).__name__}: {reason[0]}'
        ) from e
    register(module, name)


def load_all(paths: str) -> str:
    """Loads files separated by commas; returns their absolute paths.

    Raises:
        ValueError: see `load`.
    """
    names = [name.strip() for name in paths.split(',') if name.strip()]
    for name in names:
        load(name)
    return ','.join(str(pathlib.Path(name).resolve()) for name in names)
