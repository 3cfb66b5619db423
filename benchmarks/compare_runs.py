"""Compares the files of two finished runs bit for bit."""

import json
import pathlib
from typing import Any

import numpy as np

from mnemonics_jax.core.regular import regular


def differences(ours: pathlib.Path, theirs: pathlib.Path) -> list[str]:
    """Files in which two finished runs differ.

    Wall-clock times and the `checkpoint` section are ignored.
    """
    found = []
    if comparable(ours) != comparable(theirs):
        found.append('results.json')
    records = [path / 'metrics.jsonl' for path in (ours, theirs)]
    if records[0].read_bytes() != records[1].read_bytes():
        found.append('metrics.jsonl')
    names = [
        {
            str(path.relative_to(run))
            for folder in ('exemplars', 'features')
            for path in (run / folder).iterdir()
        }
        for run in (ours, theirs)
    ]
    found += sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        if arrays(ours / name) != arrays(theirs / name):
            found.append(name)
    return found


def comparable(workdir: pathlib.Path) -> dict[str, Any]:
    """`results.json` without the ignored entries."""
    results = json.loads((workdir / 'results.json').read_text())
    for phase in results['phases']:
        del phase['seconds']
    del results['config']['checkpoint']
    return results


def arrays(path: pathlib.Path) -> dict[str, tuple[Any, ...]]:
    """Arrays of an .npz file by name, in a form that compares by bits.

    Raises:
        OSError: it is no file, such as a pipe that would be read for ever.
    """
    with np.load(regular(path, None)) as found:
        return {
            name: (array.dtype.str, array.shape, array.tobytes())
            for name, array in found.items()
        }
