"""Studies of what learned exemplars bring; README.md has their commands."""

import pathlib
import sys

# Its runs, flags and summaries are those of `launch/sweep.py`.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'launch'))
