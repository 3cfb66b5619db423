"""Where exemplars lie among images: t-SNE and distances from class borders."""

from collections.abc import Sequence

import numpy as np

from mnemonics_jax import prototypes
from mnemonics_jax.core.text import counted
from mnemonics_jax.core.workdir import features_name
from mnemonics_jax.report import runs
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.figures import border as border_figure
from mnemonics_jax.report.figures import tsne as tsne_figure
from mnemonics_jax.report.runs import Run
from mnemonics_jax.report.tables import Table

MAX_RUNS = 6
_KEYS = ('features', 'labels', 'means', 'exemplars', 'mask', 'class_names')


def stored(run: Run, phase: int) -> dict[str, np.ndarray] | None:
    """Features of a phase; None if missing, inconsistent or not finite."""
    found = runs.arrays(run, features_name(phase), _KEYS)
    return found if found is not None and _fits(found) else None


def _fits(found: dict[str, np.ndarray]) -> bool:
    """Whether there are images, of consistent shapes and finite."""
    n, labels = len(found['means']), found['labels']
    return (
        len(labels) == len(found['features']) > 0
        and 0 <= labels.min() <= labels.max() < n
        and len(found['mask']) == len(found['class_names']) == n
        and found['exemplars'].shape[:2] == found['mask'].shape
        and found['means'].ndim == 2
        and found['features'].shape[1:] == found['means'].shape[1:]
        and found['exemplars'].shape[2:] == found['means'].shape[1:]
        # A run of an older version may have diverged unnoticed.
        and all(np.isfinite(found[name]).all() for name in _KEYS[:4])
    )


def _lack(run: Run, phase: int) -> str:
    """A sentence on why `stored` gave nothing."""
    return f'{run.name}: {runs.lack(run, features_name(phase))}.'


def _shown(run: Run) -> list[int]:
    """The first and the last phase."""
    return sorted({run.phases[0]['phase'], run.phases[-1]['phase']})


def chosen_names(listed: Sequence[Run]) -> list[str]:
    """Classes in colour: of phase 0 in all runs, else in the first run."""
    firsts = [run.names[: run.phases[0]['num_seen']] for run in listed]
    common = [n for n in firsts[0] if all(n in first for first in firsts)]
    return (common or firsts[0])[: tsne_figure.MAX_CHOSEN]


def tsne(listed: Sequence[Run], notes: list[str]) -> Picture | None:
    """t-SNE of the first and the last phase of each run.

    Args:
        listed: runs.
        notes: sentences on what cannot be shown are added here.
    """
    listed = [run for run in listed if run.phases]
    if len(listed) > MAX_RUNS:
        notes.append(
            f'Only the first {MAX_RUNS} of {len(listed)} runs are shown.'
        )
    rows = {}
    wanted = chosen_names(listed) if listed else []
    for run in listed[:MAX_RUNS]:
        columns = {}
        for phase in _shown(run):
            content = stored(run, phase)
            if content is None:
                notes.append(_lack(run, phase))
                continue
            names = [str(name) for name in content['class_names']]
            chosen = [names.index(n) for n in wanted if n in names]
            if not chosen:
                which = f'{run.name}, phase {phase}'
                notes.append(f'{which} has no class of {", ".join(wanted)}.')
            else:
                title = f'phase {phase}, {counted(len(names), "class")}'
                columns[title] = tsne_figure.gather(content, chosen)
        if columns:
            rows[run.name] = columns
    if not rows:
        return None
    return Picture(
        tsne_figure.embedding(rows),
        'Features by t-SNE after the first and the last phase, as in Figures 1 '
        f'and 5 of the paper. Colours: {counted(len(wanted), "class")} of '
        'phase 0, test images light and exemplars dark. Crosses: means of the '
        'other classes, whose images are embedded but not drawn. Each picture '
        'is a separate embedding; sizes of clusters and distances between '
        'them carry little meaning.',
        f'Scatter plots of features of {", ".join(wanted)} for '
        f'{", ".join(rows)}, after the first and the last phase.',
    )


def distributions(
    run: Run, notes: list[str]
) -> dict[int, tuple[list[float], list[float]]]:
    """Quantiles of the border ratios of exemplars and of images, by phase.

    Args:
        run: a run with results.
        notes: sentences on what cannot be shown are added here.
    """
    found = {}
    for phase in run.phases:
        content = stored(run, phase['phase'])
        if content is None:
            note = _lack(run, phase['phase'])
            notes += [note] if note not in notes else []
            continue
        means, mask = content['means'].astype(np.float32), content['mask']
        if len(means) < 2 or not mask.any():
            continue
        among = (
            (content['exemplars'][mask], np.nonzero(mask)[0]),
            (content['features'], content['labels']),
        )
        exemplars, others = (
            border_figure.quantiles(
                prototypes.border_ratios(
                    features.astype(np.float32), labels, means
                )
            )
            for features, labels in among
        )
        found[phase['phase']] = exemplars, others
    return found


def border(listed: Sequence[Run], notes: list[str]) -> Picture | None:
    """Border ratios of exemplars and of test images, by phase.

    Args:
        listed: runs with results.
        notes: see `distributions`.
    """
    panels = {run.name: distributions(run, notes) for run in listed}
    panels = {name: found for name, found in panels.items() if found}
    if not panels:
        return None
    words = '; '.join(
        f'{name}, last phase: exemplars {last[0][2]:.2f}, images '
        f'{last[1][2]:.2f}'
        for name, last in (
            (name, found[max(found)]) for name, found in panels.items()
        )
    )
    return Picture(
        border_figure.border(panels),
        'Distance of a feature to the nearest other class mean, divided by the '
        'distance to its own class mean (means of all test images). 1 is the '
        'border (dashed); larger values lie inside the class. Marks: medians. '
        'Thick bars: 25 to 75 %. Thin bars: 5 to 95 %. Images are a sample.',
        f'Distributions of the border ratio. Medians: {words}.',
    )


def border_table(listed: Sequence[Run]) -> Table | None:
    """Medians of the border ratio over exemplars and all test images."""
    several = len(listed) > 1
    rows = []
    for run in listed:
        for phase in run.phases:
            found = phase['exemplars'].get('border')
            if isinstance(found, dict) and {'exemplars', 'images'} <= set(
                found
            ):
                values = found['exemplars'], found['images']
                rows.append([run.name] * several + [str(phase['phase'])])
                rows[-1] += [f'{v:.2f}' for v in (*values, np.divide(*values))]
    if not rows:
        return None
    return Table(
        ['run'] * several + ['phase', 'exemplars', 'all test images', 'ratio'],
        rows,
        'Medians of distance to the nearest other mean / to the own mean. A '
        'ratio below 1: exemplars lie nearer the border than images of their '
        'class. Above 1: farther from it.',
    )
