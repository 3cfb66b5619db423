"""Reports on runs: lines, tables, figures and one HTML page.

python -m mnemonics_jax.report WORKDIR [WORKDIR ...] [--out=FOLDER]

The names below are loaded when they are first asked for, so that the command
can say in one line which package is missing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnemonics_jax.report.command import (
        default_out,
        main,
        phase_line,
        table,
        write,
        write_anew,
    )

__all__ = [
    'default_out',
    'main',
    'phase_line',
    'table',
    'write',
    'write_anew',
]


def __getattr__(name: str) -> Any:
    """Loads a name of `__all__` (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mnemonics_jax.report import command

    return getattr(command, name)
