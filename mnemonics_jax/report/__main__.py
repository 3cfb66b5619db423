"""`python -m mnemonics_jax.report`."""

import sys

from mnemonics_jax.core import dependencies

with dependencies.explained():
    from mnemonics_jax.report.command import main

if __name__ == '__main__':
    with dependencies.explained():
        sys.exit(main())
