"""Exemplars at selection, after learning and at the end, and their drift."""

import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mnemonics_jax.core.regular import regular
from mnemonics_jax.core.text import counted
from mnemonics_jax.core.workdir import exemplars_name, selected_name
from mnemonics_jax.data import encoded
from mnemonics_jax.report import runs
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.figures import curves, images, style
from mnemonics_jax.report.runs import Run

# Stages in the order of the page.
STAGES = ('selected', 'learned', 'last', 'difference')
# Maximum size of the images that are read.
_MAX_BYTES = 10**9


class Stored(NamedTuple):
    """Exemplars of n classes as a file holds them.

    Attributes:
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        mask: used slots, bool[n, m].
    """

    images: np.ndarray
    mask: np.ndarray


def arrival(run: Run) -> np.ndarray:
    """The phase in which each class seen arrived, int[S]."""
    new = np.diff([phase['num_seen'] for phase in run.phases], prepend=0)
    return np.repeat([p['phase'] for p in run.phases], np.maximum(new, 0))


def _rows(
    run: Run,
    name_of: Callable[[int], str],
    rows: np.ndarray,
    phases: np.ndarray,
    missing: list[str],
) -> Stored | None:
    """Exemplars of some classes, each from the file of a phase.

    Args:
        run: a run with results.
        name_of: gives the file of a phase.
        rows: indices of the classes.
        phases: for each class seen, the phase whose file is read.
        missing: a sentence on the first unreadable file is added here.
    """
    parts, slots = [], slice(images.MAX_PER_CLASS)
    for phase in sorted(set(phases[rows])):
        after = 1 + int(np.flatnonzero(phases == phase)[-1])
        only_new = name_of is selected_name
        start = int(np.argmax(phases == phase)) if only_new else 0
        stored = _read(run, name_of(phase), after - start)
        if stored is None:
            missing.append(f'{lack(run, name_of(phase))}: not shown.')
            return None
        own = rows[phases[rows] == phase] - start
        parts.append([part[own, slots] for part in stored])
    if len({part[0].shape[1:] for part in parts}) > 1:
        missing.append(f'{name_of(phase)} has another shape: not shown.')
        return None
    return Stored(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _read(run: Run, name: str, num: int) -> Stored | None:
    """Exemplars of `num` classes; None if missing or too large."""
    if _size(run, name) > _MAX_BYTES:
        return None
    arrays = runs.arrays(run, name, encoded.IMAGES) or runs.arrays(
        run, name, encoded.ENCODED
    )
    if arrays is None:
        return None
    try:
        stored = Stored(*encoded.from_arrays(arrays))
    except ValueError:
        return None
    fits = stored.images.ndim == 5 and stored.images.shape[:2] == (
        stored.mask.shape
    )
    return stored if fits and len(stored.mask) == num else None


def lack(run: Run, name: str) -> str:
    """A sentence on why a file was not read."""
    size = _size(run, name)
    if size > _MAX_BYTES:
        return f'{name} holds {size / 1e9:.1f} GB and was not read'
    return runs.lack(run, name)


def _size(run: Run, name: str) -> int:
    """Bytes of the images in a file, 0 if it cannot be read."""
    try:
        path = regular(run.folder / name, None)
        with zipfile.ZipFile(path) as archive:
            if 'images.npy' in archive.namelist():
                return archive.getinfo('images.npy').file_size
        with np.load(path) as stored:  # Of all slots, decoded.
            return stored['lengths'].size * int(np.prod(stored['image_shape']))
    except Exception:  # NumPy and zipfile raise many types.
        return 0


_TITLES = {
    'selected': 'at selection',
    'learned': 'after learning',
    'last': 'after the last phase',
}


def pictures(run: Run, missing: list[str]) -> dict[str, Picture]:
    """A grid for each stage, and one of the amplified differences.

    Args:
        run: a run, with or without results.
        missing: sentences on what could not be read are added here.
    """
    if not run.keeps_exemplars:
        return {}
    came = arrival(run)
    rows = style.spread(len(came), images.MAX_CLASSES)
    files = {
        'last': (exemplars_name, np.full_like(came, run.phases[-1]['phase'])),
        'selected': (selected_name, came),
    }
    if run.learns_exemplars:
        files['learned'] = (exemplars_name, came)
    known = {}
    for stage, (name_of, phases) in files.items():
        stored = _rows(run, name_of, rows, phases, missing)
        if stored is not None:
            known[stage] = stored
        elif stage == 'last':
            return {}
    if len({stored.images.shape for stored in known.values()}) > 1:
        missing.append('The exemplar files have different shapes.')
        return {}
    names = [run.names[row] for row in rows]
    few = counted(len(came), 'class')
    if len(came) > len(names):
        few = f'{len(names)} of {few}, evenly spaced'
    found = {
        stage: Picture(
            images.grid(*known[stage], names),
            title.capitalize(),
            f'Exemplars of {run.name} {title}, a row for each of {few}, from '
            f'{names[0]} to {names[-1]}.',
            chart=False,
        )
        for stage, title in _TITLES.items()
        if stage in known
    }
    if 'selected' in known:
        found['difference'] = _difference(
            run.name, names, known['selected'], known['last']
        )
    return found


def _difference(
    run: str, names: list[str], first: Stored, last: Stored
) -> Picture:
    mask = first.mask & last.mask
    shown, factor = images.difference(last.images, first.images, mask)
    return Picture(
        images.grid(shown, mask, names),
        f'Change since selection, times {factor}; mid-grey: no change',
        f'Differences of the exemplars of {run} between selection and the last '
        f'phase, amplified {factor} times around mid-grey.',
        chart=False,
    )


def drifts(run: Run) -> dict[int, tuple[list[int], list[float]]]:
    """Mean change since selection in grey levels, by phase of arrival.

    Returns:
        Phase of arrival -> phases and values.

    Raises:
        ValueError: files are damaged, missing or too large.
    """
    came = arrival(run)
    names = [exemplars_name(phase['phase']) for phase in run.phases]
    if sum(_size(run, name) for name in names) > _MAX_BYTES:
        raise ValueError('the exemplars are too large to read')
    start = {
        p: _needed(run, selected_name(p), int(np.sum(came == p)))
        for p in sorted(set(came.tolist()))
    }
    found: dict[int, tuple[list[int], list[float]]] = {
        p: ([], []) for p in start
    }
    for phase, name in zip(run.phases, names, strict=True):
        stored = _needed(run, name, phase['num_seen'])
        for p in sorted(set(came[: phase['num_seen']].tolist())):
            first, rows = start[p], np.flatnonzero(came == p)
            slots = slice(min(first.mask.shape[1], stored.mask.shape[1]))
            value = images.drift(
                stored.images[rows, slots],
                first.images[:, slots],
                first.mask[:, slots] & stored.mask[rows, slots],
            )
            if value is not None:
                found[p][0].append(phase['phase'])
                found[p][1].append(value)
    return found


def _needed(run: Run, name: str, num: int) -> Stored:
    """Exemplars of `num` classes.

    Raises:
        ValueError: they cannot be read; the message names the file.
    """
    if (stored := _read(run, name, num)) is None:
        raise ValueError(lack(run, name))
    return stored


def drift(listed: Sequence[Run], notes: list[str]) -> Picture | None:
    """The chart of `drifts`.

    Args:
        listed: runs with results.
        notes: sentences on what cannot be shown are added here.
    """
    panels = {}
    for run in listed:
        if not run.keeps_exemplars:
            continue
        try:
            lines = drifts(run)
        except ValueError as e:
            notes.append(f'{run.name}: {e}, so drift is not shown.')
            continue
        if not any(any(y) for _, y in lines.values()):
            notes.append(f'{run.name}: the exemplars never changed.')
        else:
            panels[run.name] = lines
    if not panels:
        return None
    return Picture(
        curves.drift(panels),
        'Mean absolute change of a pixel since selection, in grey levels of '
        '255, after each phase. One line for the classes of each phase: its '
        'first point shows learning, the others adjustment.',
        'Line chart of the drift of exemplars over phases for '
        f'{", ".join(panels)}.',
    )
