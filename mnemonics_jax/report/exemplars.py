"""Exemplars at selection, after learning and at the end, and their drift."""

import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mnemonics_jax.core.text import counted
from mnemonics_jax.core.workdir import exemplars_name, selected_name
from mnemonics_jax.report import runs
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.figures import curves, images, style
from mnemonics_jax.report.runs import Run

# Stages in the order of the page.
STAGES = ('selected', 'learned', 'last', 'difference')
# Maximum size of the images that are read.
_MAX_BYTES = 10**9


class Stages(NamedTuple):
    """Exemplars of some classes at several stages.

    Attributes:
        names: names of the n classes.
        images: images by stage, [n, m, H, W, C].
        masks: used slots by stage, bool[n, m].
    """

    names: list[str]
    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


def arrival(run: Run) -> list[int]:
    """The phase in which each class seen arrived."""
    return [
        phase['phase']
        for phase, old in zip(
            run.phases,
            [0, *(phase['num_seen'] for phase in run.phases)],
            strict=False,
        )
        for _ in range(phase['num_seen'] - old)
    ]


def stages(run: Run, missing: list[str]) -> Stages | None:
    """The exemplars of evenly spaced classes; None without any.

    Args:
        run: a run with results.
        missing: sentences on what could not be read are added here.
    """
    came = np.array(arrival(run))
    rows = style.spread(len(came), images.MAX_CLASSES)
    last = np.full(len(came), run.phases[-1]['phase'])
    found = {'last': _rows(run, exemplars_name, rows, last, missing)}
    if found['last'] is None:
        return None
    found['selected'] = _rows(run, selected_name, rows, came, missing)
    if run.strategy == 'mnemonics':
        found['learned'] = _rows(run, exemplars_name, rows, came, missing)
    shapes = {part[0].shape for part in found.values() if part is not None}
    if len(shapes) > 1:
        missing.append('The exemplar files have different shapes.')
        return None
    known = {key: part for key, part in found.items() if part is not None}
    return Stages(
        [run.names[row] for row in rows],
        {key: part[0] for key, part in known.items()},
        {key: part[1] for key, part in known.items()},
    )


def _rows(
    run: Run,
    name_of: Callable[[int], str],
    rows: np.ndarray,
    phases: np.ndarray,
    missing: list[str],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and masks of some classes, each from the file of a phase.

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
    pixels, mask = (np.concatenate(part) for part in zip(*parts, strict=True))
    return pixels, mask


def lack(run: Run, name: str) -> str:
    """A sentence on why a file was not read."""
    size = _size(run, name)
    if size > _MAX_BYTES:
        return f'{name} holds {size / 1e9:.1f} GB and was not read'
    return runs.lack(run, name)


def _read(
    run: Run, name: str, num: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and mask of `num` classes; None if missing or too large."""
    if _size(run, name) > _MAX_BYTES:
        return None
    stored = runs.arrays(run, name, ('images', 'mask'))
    if stored is None:
        return None
    images, mask = stored['images'], stored['mask']
    fits = images.ndim == 5 and images.shape[:2] == mask.shape
    return (images, mask) if fits and len(mask) == num else None


def _size(run: Run, name: str) -> int:
    """Bytes of the images in a file, 0 if it cannot be read."""
    try:
        with zipfile.ZipFile(run.folder / name) as archive:
            return archive.getinfo('images.npy').file_size
    except (OSError, KeyError, zipfile.BadZipFile):
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
    if not run.phases or run.strategy == 'none':
        return {}
    known = stages(run, missing)
    if known is None:
        return {}
    few = counted(len(run.names), 'class')
    if len(run.names) > len(known.names):
        few = f'{len(known.names)} of {few}, evenly spaced'
    found = {}
    for stage, title in _TITLES.items():
        if stage in known.images:
            found[stage] = Picture(
                images.grid(
                    known.images[stage], known.masks[stage], known.names
                ),
                title.capitalize(),
                f'Exemplars of {run.name} {title}, a row for each of {few}, '
                f'from {known.names[0]} to {known.names[-1]}.',
                chart=False,
            )
    if {'selected', 'last'} <= set(known.images):
        found['difference'] = _difference(run, known)
    return found


def _difference(run: Run, known: Stages) -> Picture:
    mask = known.masks['selected'] & known.masks['last']
    shown, factor = images.difference(
        known.images['last'], known.images['selected'], mask
    )
    title = f'Change since selection, times {factor}; mid-grey: no change'
    return Picture(
        images.grid(shown, mask, known.names),
        title,
        f'Differences of the exemplars of {run.name} between selection and '
        f'the last phase, amplified {factor} times around mid-grey.',
        chart=False,
    )


def drifts(run: Run) -> dict[int, tuple[list[int], list[float]]] | None:
    """Mean change since selection in grey levels, by phase of arrival.

    Returns:
        Phase of arrival -> phases and values; None if files are missing or too
        large.
    """
    came = np.array(arrival(run))
    names = [exemplars_name(phase['phase']) for phase in run.phases]
    if sum(_size(run, name) for name in names) > _MAX_BYTES:
        return None
    start = {
        p: _read(run, selected_name(p), int(np.sum(came == p)))
        for p in sorted(set(came))
    }
    found: dict[int, tuple[list[int], list[float]]] = {
        p: ([], []) for p in start
    }
    for phase, name in zip(run.phases, names, strict=True):
        stored = _read(run, name, phase['num_seen'])
        if stored is None:
            return None
        for p in sorted(set(came[: phase['num_seen']])):
            first = start[p]
            if first is None:
                return None
            rows = np.flatnonzero(came == p)
            slots = slice(min(first[1].shape[1], stored[1].shape[1]))
            mask = first[1][:, slots] & stored[1][rows, slots]
            value = images.drift(
                stored[0][rows, slots], first[0][:, slots], mask
            )
            if value is not None:
                found[p][0].append(phase['phase'])
                found[p][1].append(value)
    return found


def drift(listed: Sequence[Run], notes: list[str]) -> Picture | None:
    """The chart of `drifts`.

    Args:
        listed: runs with results.
        notes: sentences on what cannot be shown are added here.
    """
    panels = {}
    for run in listed:
        if run.strategy == 'none':
            continue
        lines = drifts(run)
        if lines is None:
            notes.append(
                f'{run.name}: exemplars at selection or after a phase are '
                'missing or too large to read, so drift is not shown.'
            )
        elif not any(any(y) for _, y in lines.values()):
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
