"""The confusion matrices of all phases, as data for `page.js`."""

import base64
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core.text import TITLES, counted, percent
from mnemonics_jax.report.charts import classifiers
from mnemonics_jax.report.figures import confusion
from mnemonics_jax.report.runs import Run
from mnemonics_jax.report.tables import Table

# Maximum number of cells of all matrices that the page holds as numbers. Beyond
# it the predictor's matrices are images, and other classifiers are left out.
MAX_NUMBERS = 500_000
MAX_IMAGES = 24
MAX_PAIRS = 10


def pairs(run: Run) -> Table:
    """The most confused pairs of the last phase; `page.js` replaces them."""
    return Table(
        ['true', 'predicted', 'images', 'share (%)'],
        pair_rows(run, run.phases[-1], run.results['predictor']),
        'Share of the test images of the true class.',
        words=True,
    )


def pair_rows(
    run: Run, phase: dict[str, Any], classifier: str
) -> list[list[str]]:
    """The most confused pairs of a phase as cells."""
    found = confusion.confused(
        phase['confusion'][classifier], run.names, MAX_PAIRS
    )
    return [[t, p, str(n), percent(share)] for t, p, n, share in found]


def collect(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """The data that the script reads, and sentences on what is left out.

    Args:
        runs: runs with results.
    """
    notes: list[str] = []
    left = MAX_NUMBERS
    found = []
    for run in runs:
        size = sum(phase['num_seen'] ** 2 for phase in run.phases)
        predictor = run.results['predictor']
        names = sorted(classifiers([run]), key=lambda name: name != predictor)
        heads, left_out = [], []
        for name in names:
            as_numbers = size <= left
            if name != predictor and not as_numbers:
                left_out.append(TITLES[name])
                continue
            left -= size if as_numbers else 0
            heads.append(_head(run, name, as_numbers))
            if not as_numbers:
                notes.append(_as_images(run, size))
        if left_out:
            notes.append(
                f'{run.name}: the matrices of {", ".join(left_out)} are left '
                'out to keep the page small; results.json has them.'
            )
        found.append({'name': run.name, 'classes': run.names, 'heads': heads})
    return {'runs': found}, notes


def _as_images(run: Run, size: int) -> str:
    text = (
        f'{run.name}: the matrices have {size:,} cells and are shown as images '
        'without counts; results.json has the counts.'
    )
    if len(run.phases) > MAX_IMAGES:
        text += f' Of {len(run.phases)} phases, {MAX_IMAGES} are shown.'
    return text


def _head(run: Run, name: str, as_numbers: bool) -> dict[str, Any]:
    phases = run.phases
    if not as_numbers and len(phases) > MAX_IMAGES:
        step = (len(phases) - 1) / (MAX_IMAGES - 1)
        phases = [phases[round(i * step)] for i in range(MAX_IMAGES)]
    return {
        'name': TITLES[name],
        'phases': [_phase(run, p, name, as_numbers) for p in phases],
    }


def _phase(
    run: Run, phase: dict[str, Any], name: str, as_numbers: bool
) -> dict[str, Any]:
    seen = phase['num_seen']
    text = (
        f'Phase {phase["phase"]}: {counted(seen, "class")}, '
        f'{percent(phase["accuracy"].get(name))} % correct'
    )
    found = {'text': text, 'seen': seen, 'old': phase.get('num_old', 0)}
    counts = phase['confusion'][name]
    if as_numbers:
        return {**found, 'counts': counts}
    data = base64.b64encode(confusion.as_image(counts)).decode()
    return {
        **found,
        'image': f'data:image/png;base64,{data}',
        'pairs': pair_rows(run, phase, name),
    }
