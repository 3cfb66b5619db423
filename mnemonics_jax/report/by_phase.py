"""Accuracy on the classes of each phase after each later phase."""

from collections.abc import Iterator, Sequence

import numpy as np

from mnemonics_jax import metrics
from mnemonics_jax.core.text import TITLES
from mnemonics_jax.report import groups
from mnemonics_jax.report.charts import Picture, classifiers
from mnemonics_jax.report.figures import phases as figure
from mnemonics_jax.report.groups import Group
from mnemonics_jax.report.runs import Run

HEAD = (
    *('run', 'classifier', 'after_phase', 'classes_of_phase'),
    *('accuracy_mean', 'accuracy_sd', 'n'),
)


def matrix(run: Run, name: str) -> np.ndarray:
    """`metrics.accuracy_by_phase` of a run by a classifier."""
    return metrics.accuracy_by_phase(
        [np.asarray(phase['confusion'][name]) for phase in run.phases],
        [phase['num_seen'] for phase in run.phases],
    )


def rows(grouped: Sequence[Group]) -> Iterator[list[str | float | None]]:
    """Rows of `HEAD` of groups with results, as fractions."""
    for group in grouped:
        for name in classifiers(group.runs):
            found = np.array([matrix(run, name) for run in group.runs])
            for after, of in zip(*np.tril_indices(found.shape[1]), strict=True):
                yield [
                    *(group.name, name, int(after), int(of)),
                    *groups.summary(found[:, after, of].tolist()),
                    len(group.runs),
                ]


def picture(grouped: Sequence[Group]) -> Picture | None:
    """A heat map of each group with results; None of single phases alone."""
    shown = [group for group in grouped if len(group.first.phases) > 1]
    if not shown:
        return None
    panels = {}
    for group in shown:
        name = group.first.results['predictor']
        found = [matrix(run, name) for run in group.runs]
        panels[group.name] = 100 * np.mean(found, axis=0)
    titles = dict.fromkeys(
        TITLES[group.first.results['predictor']] for group in shown
    )
    caption = (
        'Accuracy on the test images of the classes of each phase (column) '
        f'after each phase (row), by {" or ".join(titles)}, among all classes '
        'seen by then. Down a column: what is forgotten of these classes. The '
        'diagonal: how well classes are learned when they arrive.'
    )
    if groups.averaged(shown):
        caption += ' Means over seeds.'
    words = '; '.join(
        f'{name}, classes of phase 0: {found[0, 0]:.1f} % at first, '
        f'{found[-1, 0]:.1f} % at last'
        for name, found in panels.items()
    )
    return Picture(
        figure.heat_maps(panels),
        caption,
        f'Heat maps of accuracy by phase of the model and of the classes. '
        f'{words}.',
    )
