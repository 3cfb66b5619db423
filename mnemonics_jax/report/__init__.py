"""Reports on runs: lines, tables, figures and one HTML page.

python -m mnemonics_jax.report WORKDIR [WORKDIR ...] [--out=FOLDER]
"""

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
