"""Methods, strategies, backbones and data sources in a user's own files.

A plug-in looks like a file of the package's own folder: a method has `make` and
`SETTINGS`, a strategy has `select` and `learn`, a backbone has `BACKBONES`, a
data source has `make` only. Its name is the file's name. Plug-ins stay
registered until the process ends.
"""

import contextlib
import importlib.machinery
import importlib.util
import pathlib
import pkgutil
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mnemonics_jax.core import rules, system_errors

# The package's folder of each kind of plug-in.
KINDS = {
    'methods': 'methods',
    'backbones': 'backbones',
    'sources': 'data/sources',
    'strategies': 'exemplars/strategies',
}

# The name, in the configuration, of an object that is given in Python.
OBJECT = 'python_object'

_registered: dict[str, dict[str, types.ModuleType]] = {k: {} for k in KINDS}
# Absolute path of each file that was loaded -> the path as it was given.
_files: dict[str, str] = {}


class PluginError(ValueError):
    """A plug-in fails or breaks its contract: a user's mistake."""


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
    CHECKS[kind](module, name)
    folder = str(pathlib.Path(__file__).parent.parent / KINDS[kind])
    if name in (module.name for module in pkgutil.iter_modules([folder])):
        raise ValueError(
            f'{name}: must have another name: mnemonics_jax has {kind} of '
            'this name'
        )
    _registered[kind][name] = module


def check_method(module: types.ModuleType, name: str) -> None:
    """Raises ValueError if a method's names are not what they must be."""
    check_function(module, name)
    for field, kind, what in (
        ('SETTINGS', dict, 'a dict, setting -> (default, rule, text)'),
        ('DEFAULTS', dict, 'a dict, field -> default, {} for none'),
        ('HEADS', tuple, "a tuple of heads, such as ('cosine', 'linear')"),
    ):
        if not isinstance(getattr(module, field, None), kind):
            raise ValueError(f'{name}.{field}: must be {what}')
    if not module.HEADS:
        raise ValueError(f'{name}.HEADS: must have at least one head')
    for setting, entry in module.SETTINGS.items():
        is_entry = isinstance(entry, tuple) and len(entry) == 3
        if not is_entry or not isinstance(entry[1], rules.Rule):
            raise ValueError(
                f'{name}.SETTINGS[{setting!r}]: must be (default, rule, text), '
                'the rule one of mnemonics_jax.rules'
            )


def check_backbones(module: types.ModuleType, name: str) -> None:
    """Raises ValueError if `BACKBONES` maps no names to constructors."""
    entries = module.BACKBONES
    is_dict = isinstance(entries, dict) and bool(entries)
    if not is_dict or not all(map(callable, entries.values())):
        raise ValueError(
            f'{name}.BACKBONES: must be a dict, name -> constructor of a linen '
            'module'
        )


def check_function(module: types.ModuleType, name: str) -> None:
    """Raises ValueError if `make` is no function."""
    if not callable(module.make):
        raise ValueError(f'{name}.make: must be a function')


def check_strategy(module: types.ModuleType, name: str) -> None:
    """Raises ValueError if a strategy's functions are none."""
    for function in ('select', 'learn'):
        value = getattr(module, function)
        if value is not None and not callable(value):
            raise ValueError(f'{name}.{function}: must be a function or None')
    if module.select is None and module.learn is not None:
        raise ValueError(f'{name}.learn: must be None where select is None')


CHECKS = {
    'methods': check_method,
    'backbones': check_backbones,
    'sources': check_function,
    'strategies': check_strategy,
}


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
    if path.suffix != '.py' or not path.is_file():
        raise ValueError(f'plugins={given!r}: must be a Python file')
    register(execute(path, given, f'plugins={given!r}'), name)


def execute(path: pathlib.Path, given: str, what: str) -> types.ModuleType:
    """Runs a user's file and returns its module.

    Args:
        path: the file.
        given: how messages name it.
        what: what is run, for the message.

    Raises:
        PluginError: see `attempt`.
    """
    path = path.resolve()
    # The suffix need not be .py.
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    spec = importlib.util.spec_from_file_location(
        path.stem, path, loader=loader
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    _files[str(path)] = given
    attempt(what, loader.exec_module, module)
    return module


def load_all(paths: str) -> str:
    """Loads files separated by commas; returns their absolute paths.

    Raises:
        ValueError: see `load`.
    """
    names = [name.strip() for name in paths.split(',') if name.strip()]
    for name in names:
        load(name)
    return ','.join(str(pathlib.Path(name).resolve()) for name in names)


@contextlib.contextmanager
def objects(given: Mapping[str, types.ModuleType]) -> Iterator[None]:
    """Registers objects under the name `OBJECT` for a time.

    Args:
        given: kind -> what a file of that kind would have.
    """
    for kind, module in given.items():
        CHECKS[kind](module, OBJECT)
        _registered[kind][OBJECT] = module
    try:
        yield
    finally:
        for kind in given:
            del _registered[kind][OBJECT]


def check_object(kind: str, name: str) -> None:
    """Raises ValueError if `name` is that of an object which is not there."""
    if name == OBJECT and OBJECT not in _registered[kind]:
        argument = kind.removesuffix('s')
        raise ValueError(
            f'{name}: the {argument} of this run was an object in Python: must '
            f'be given again, as run_experiment(..., {argument}=...), which no '
            'command can; a file can be named (docs/extending.md)'
        )


def attempt(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a user's function returns; it may raise anything.

    Also what ends a process, such as `sys.exit()` and Ctrl-C while it runs: the
    place says where it hung.

    Args:
        what: what is called, for the message.
        function: the function.
        *arguments: its arguments.

    Raises:
        PluginError: the type and the first line of what the function raised,
            and the place in the plug-in's file.
        Exception: what is no mistake in a file: a limit of the system, see
            `system_errors.why_limited`, or a package that this one lacks.
    """
    try:
        return function(*arguments)
    except PluginError:
        raise
    except BaseException as e:
        if system_errors.why_limited(e) is not None or _is_missing_here(e):
            raise
        raise PluginError(f'{what}: {_reason(e)}') from e


def explain(error: BaseException) -> str | None:
    """The line for an error that a plug-in's function raised, else None."""
    if isinstance(error, PluginError):
        return str(error)
    if place(error) is None:
        return None
    return f'plug-in {_reason(error)}'


def defined_at(function: Any) -> str:
    """Where a plug-in's function is, as ' (file.py:3)'; '' if unknown."""
    code = getattr(function, '__code__', None)
    if code is None or code.co_filename not in _files:
        return ''
    return f' ({_files[code.co_filename]}:{code.co_firstlineno})'


def _is_missing_here(error: BaseException) -> bool:
    """Whether a package is missing that no user's file itself imports."""
    if not isinstance(error, ModuleNotFoundError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    files = [f.filename for f in frames if not f.filename.startswith('<')]
    return bool(files) and files[-1] not in _files


def _reason(error: BaseException) -> str:
    """Type, first line and place of what a user's function raised."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    colon = ': ' if text else ''
    lines = text.splitlines() or ['']
    return f'{type(error).__name__}{colon}{lines[0]}{place(error) or ""}'


def place(error: BaseException) -> str | None:
    """The innermost line of a user's file in a traceback, as ` (own.py:3)`."""
    if isinstance(error, SyntaxError) and error.filename in _files:
        return f' ({_files[error.filename]}:{error.lineno})'
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in _files:
            return f' ({_files[frame.filename]}:{frame.lineno})'
    return None


def described(value: Any) -> str:
    """What a user's function returned, in a few words: float32[4, 8]."""
    if hasattr(value, 'shape') and hasattr(value, 'dtype'):
        return f'{value.dtype}{list(value.shape)}'
    if isinstance(value, tuple | list):
        return f'({", ".join(map(described, value))})'
    if isinstance(value, Mapping):
        pairs = (f'{key}: {described(v)}' for key, v in value.items())
        return f'{{{", ".join(pairs)}}}'
    return type(value).__name__
