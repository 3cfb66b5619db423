"""Methods, strategies, backbones and data sources in files of one's own.

A file is what a file of the package's folder would be: a method has `make` and
`SETTINGS`, a strategy `select` and `learn`, a backbone `BACKBONES`, a data
source `make` alone. It is known by
its name, as those of the package are. Like imported modules, what is registered
stays so for the process.
"""

import importlib.util
import pathlib
import pkgutil
import types
from collections.abc import Mapping

# Kinds of plug-ins, and the package's folders of the same kind.
KINDS = {
    'methods': 'methods',
    'backbones': 'backbones',
    'sources': 'data/sources',
    'strategies': 'exemplars/strategies',
}

_registered: dict[str, dict[str, types.ModuleType]] = {k: {} for k in KINDS}


def registered(kind: str) -> Mapping[str, types.ModuleType]:
    """What there is of one of `KINDS`, by name."""
    return _registered[kind]


def register(module: types.ModuleType, name: str) -> None:
    """Makes a module known by a name, as what it is.

    Raises:
        ValueError: it is no plug-in of any kind, or
            the package has another one of its name.
    """
    kind = kind_of(module)
    if kind is None:
        raise ValueError(
            f'{name}: must be a method (make, SETTINGS), a strategy (select, '
            'learn), a backbone (BACKBONES) or a data source (make)'
        )
    folder = str(pathlib.Path(__file__).parent.parent / KINDS[kind])
    if name in (module.name for module in pkgutil.iter_modules([folder])):
        raise ValueError(
            f'{name}: one of the {kind} of mnemonics_jax; allowed: '
            'any other name'
        )
    _registered[kind][name] = module


def kind_of(module: types.ModuleType) -> str | None:
    """One of `KINDS`, or None if it is nothing of these."""
    if hasattr(module, 'BACKBONES'):
        return 'backbones'
    if hasattr(module, 'select') and hasattr(module, 'learn'):
        return 'strategies'
    if not hasattr(module, 'make'):
        return None
    return 'methods' if hasattr(module, 'SETTINGS') else 'sources'


def load(path: str | pathlib.Path) -> None:
    """Runs a file, and registers it by its name without the suffix.

    A file that is registered already is not run again.

    Raises:
        ValueError: there is no such file, it fails, or see `register`.
    """
    given, path = str(path), pathlib.Path(path).resolve()
    name = path.stem
    known = (group.get(name) for group in _registered.values())
    if str(path) in (getattr(module, '__file__', None) for module in known):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    loader = spec and spec.loader
    if path.suffix != '.py' or not path.is_file() or not (spec and loader):
        raise ValueError(f'plugins={given!r}: allowed: a Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    # It is the user's file: whatever it does wrong is to be named.
    except Exception as e:
        reason = str(e).splitlines() or ['']
        raise ValueError(
            f'plugins={given!r}: {type(e).__name__}: {reason[0]}'
        ) from e
    register(module, name)


def load_all(paths: str) -> str:
    """Loads files separated by commas; returns their absolute paths so.

    Raises:
        ValueError: see `load`.
    """
    names = [name.strip() for name in paths.split(',') if name.strip()]
    for name in names:
        load(name)
    return ','.join(str(pathlib.Path(name).resolve()) for name in names)
