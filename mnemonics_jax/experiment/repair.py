"""Files of finished phases that are damaged: written again, or named.

A checkpoint has the memory of its phase and the results of all phases so far.
It has neither features, nor exemplars before they were learned, nor records.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core import manifest, multihost
from mnemonics_jax.core.workdir import (
    METRICS,
    RESULTS,
    SETUP,
    Workdir,
    exemplars_name,
    phase_files,
    read_arrays,
)
from mnemonics_jax.experiment import components, results
from mnemonics_jax.train.checkpoint import Checkpointer
from mnemonics_jax.types import Carry


def repair(
    parts: components.Components,
    place: Workdir,
    checkpointer: Checkpointer,
    carry: Carry,
    phases: Sequence[dict[str, Any]],
) -> None:
    """Checks the files of finished phases, before the run writes any.

    Prints a line on those written again, and one on those that are lost.

    Args:
        parts: components of the run.
        place: work directory.
        checkpointer: its checkpoints.
        carry: what the last of them has; an empty one of a new run.
        phases: results of the finished phases.
    """
    done = range(len(phases))
    names = [RESULTS, METRICS, *itertools.chain(*map(phase_files, done))]
    for name in names:
        place.fetch(name)
    lost: dict[str, str] = {}
    if multihost.is_main():
        lost = _check(place.local, names)
    restored = []
    if phases and lost.pop(RESULTS, ''):
        results.write(parts, phases, place.local)
        restored.append(RESULTS)
    for phase in checkpointer.saved():
        name = exemplars_name(phase)
        # All processes read a checkpoint together.
        if phase not in done or multihost.all_agree(name not in lost):
            continue
        held, _ = checkpointer.restore(phase, carry)
        if multihost.is_main():
            seen = phases[phase]['num_seen']
            with manifest.writing(place.local, [name]):
                results.save_exemplars(parts, phase, seen, held, place.local)
            del lost[name]
            restored.append(name)
    if restored:
        _say(f'written again from a checkpoint: {", ".join(restored)}')
    if lost:
        named = (f'{name} {why}' for name, why in lost.items())
        _say(f'lost, in no checkpoint: {"; ".join(named)}')


def _check(folder: pathlib.Path, names: Sequence[str]) -> dict[str, str]:
    """What is wrong with files, by name.

    A good file without an entry, of an older run or one that was killed, gets
    one.
    """
    try:
        entries = manifest.read(folder)
    except ValueError as e:
        entries = {}
        _say(f'{e}: written again for the files as they are')
        (folder / manifest.NAME).unlink()
    # Of phases that run again, since they ended without a checkpoint.
    manifest.drop(folder, [n for n in entries if n not in (*names, SETUP)])
    lost, found = {}, [SETUP] if SETUP not in entries else []
    for name in names:
        why = manifest.damage(folder, name)
        if why is None and name not in entries and name.endswith('.npz'):
            try:
                read_arrays(folder / name)
                found.append(name)
            except FileNotFoundError:
                pass  # Some runs do not write it.
            except ValueError:
                why = 'cannot be read'
        if why is not None:
            lost[name] = why
    manifest.add(folder, found)
    return lost


def _say(line: str) -> None:
    print(line, flush=True)
