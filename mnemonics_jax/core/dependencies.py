"""One line, not a traceback, where a package is missing or the system refuses.

Imports the standard library alone: commands import this file before all others.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NoReturn

from mnemonics_jax.core import streams, system_errors

# Exit status after Ctrl-C, as shells have it: 128 and the number of the signal.
INTERRUPTED = 130
PYTHON = (3, 11)
# Module -> package, where their names differ.
_PACKAGES = {
    'PIL': 'pillow',
    'absl': 'absl-py',
    'google': 'google-cloud-storage',
    'orbax': 'orbax-checkpoint',
    'sklearn': 'scikit-learn',
}
_ACTIVATE = (
    'activate the environment of the package (source .venv/bin/activate), or '
    'make one (./launch/quickstart.sh)'
)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Ends the process with one line for what is no defect of the program.

    With status 2 if a package is missing; see `system_errors.explain` for what
    the system refuses; with `INTERRUPTED` after Ctrl-C.
    """
    if sys.version_info < PYTHON:
        _fail(
            f'Python {sys.version.split()[0]} of {sys.executable}: must be '
            f'{".".join(map(str, PYTHON))} or newer; {_ACTIVATE}'
        )
    try:
        yield
    except ModuleNotFoundError as e:
        if not e.name or e.name.startswith('mnemonics_jax'):
            raise
        _fail(explain(e.name))
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        _fail('interrupted', INTERRUPTED)
    except Exception as e:
        if (line := system_errors.explain(e)) is None:
            raise
        _fail(*line)


def explain(name: str) -> str:
    """The line for a missing module: its package, and what installs it."""
    module = name.partition('.')[0]
    package = _PACKAGES.get(module, module.replace('_', '-'))
    try:
        declared = metadata.requires('mnemonics-jax') or []
    except metadata.PackageNotFoundError:
        declared = []
    missing = f'{package}: not installed for {sys.executable}'
    extra = extra_of(package, declared)
    # In the folder of a checkout its metadata are found by any Python.
    is_environment = sys.prefix != sys.base_prefix
    if not declared or not (extra or is_environment):
        return f'{missing}; {_ACTIVATE}'
    what = f"'.[{extra}]'" if extra else '.'
    return f'{missing}; to install it: pip install -e {what}'


def extra_of(package: str, declared: list[str]) -> str | None:
    """The extra that a package belongs to; None if all installations have it.

    Args:
        package: name of a package.
        declared: requirements as in the metadata of a package, such as
            'safetensors>=0.5; extra == "export"'.
    """
    extras: list[str] = []
    for requirement in declared:
        name = re.match(r'[\w.-]+', requirement)
        if name and name[0].lower().replace('_', '-') == package:
            found = re.search(r'extra == ["\']([\w-]+)', requirement)
            if not found:
                return None
            extras.append(found[1])
    return extras[0] if extras else None


def _fail(line: str, status: int = system_errors.MISTAKE) -> NoReturn:
    streams.complain(f'error: {" ".join(line.split())}')
    sys.exit(status)
