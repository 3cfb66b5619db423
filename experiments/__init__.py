"""Studies of the benefit of learned exemplars; README.md has their commands."""

import pathlib
import sys

# The studies import modules of `launch/sweep.py`.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'launch'))
