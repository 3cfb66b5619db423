"""Checks that a resumed run still has the data that it was started with."""

import hashlib
import json
from collections.abc import Mapping

from mnemonics_jax.core.workdir import Workdir
from mnemonics_jax.data import record
from mnemonics_jax.data.errors import BadDataError
from mnemonics_jax.experiment import components, run_config

# The most classes to name in a line.
_MOST = 5


def check(
    parts: components.Components, place: Workdir, num_begun: int
) -> list[str]:
    """Compares the images with those recorded in `config.json`, and records.

    Images may be moved, and those of classes to come may change. Images of
    classes that were learned, or are in the middle of it, may change only with
    `data.on_changed=continue`.

    Args:
        parts: components of the run.
        place: work directory with `config.json`.
        num_begun: phases that are finished or that a checkpoint is within.

    Returns:
        Lines to print on what has changed.

    Raises:
        BadDataError: images have changed that may not.
    """
    now, before = record.describe(parts.source), run_config.read_data(place)
    lines = []
    if before is not None:
        names = parts.plan.classes
        num = parts.bounds[num_begun - 1][1] if num_begun else 0
        learned = record.changes(before, now, names[:num])
        if learned and parts.config.data.on_changed == 'stop':
            raise BadDataError(
                f'data.dir={parts.config.data.dir!r}: must have the images '
                f'that classes were learned from, but has {listed(learned)}; '
                'to go on with the images as they are: '
                'data.on_changed=continue'
            )
        if learned:
            lines.append(f'going on with changed data: {listed(learned)}')
        if later := record.changes(before, now, names[num:]):
            lines.append(f'changed data of classes to come: {listed(later)}')
    run_config.write_data(place, now)
    return lines


def in_words(parts: components.Components) -> dict[str, str]:
    """What must be equal in all processes of a run, as digests, by name."""
    found = {
        'classes and phases': parts.plan,
        'images': record.describe(parts.source),
        'labels': {
            split: labels.tolist()
            for split, labels in parts.source.labels.items()
        },
    }
    return {
        f'the digest of {name}': hashlib.sha256(
            json.dumps(value, sort_keys=True).encode()
        ).hexdigest()[:8]
        for name, value in found.items()
    }


def listed(changes: Mapping[str, str]) -> str:
    """Changed classes in words, the first few of them."""
    words = [f'class {name!r}: {how}' for name, how in changes.items()]
    more = len(words) - _MOST
    return ', '.join(words[:_MOST]) + (f' and {more} more' if more > 0 else '')
