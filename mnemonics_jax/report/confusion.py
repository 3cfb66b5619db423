"""The confusion matrix of every phase, which the reader leafs through."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core.text import CLASSIFIERS, counted, percent
from mnemonics_jax.report import html
from mnemonics_jax.report.charts import classifiers
from mnemonics_jax.report.figures import confusion
from mnemonics_jax.report.runs import Run

# Fields of all matrices of a page that are written as numbers, at most; those
# of further classifiers are left out, and large ones are images.
MAX_NUMBERS = 500_000
MAX_IMAGES = 24
MOST_PAIRS = 10


def section(runs: Sequence[Run], fallback: str) -> str:
    """The matrix with its controls, and the most confused pairs.

    Args:
        runs: with results.
        fallback: what is shown where no script runs.
    """
    content, notes = collect(runs)
    # In JSON a script element must not be ended from within.
    data = json.dumps(content, separators=(',', ':')).replace('<', '\\u003c')
    return f"""
<div class="matrix" id="matrix" hidden>
{_controls(runs, content)}
<p id="matrix-state" role="status"></p>
<div class="pair">
<div>
<canvas id="matrix-canvas" tabindex="0" role="img"
aria-describedby="matrix-cell"></canvas>
<p class="soft" id="matrix-cell" role="status">Point at a field, or move with
the arrow keys, to read its count.</p>
</div>
<div><h3 id="pairs-title">Most confused pairs</h3>
{_pairs(runs[0])}</div>
</div>
</div>
<noscript>{fallback}</noscript>
<p class="soft">Rows are true classes, columns predicted ones, in the order in
which they came. Colours follow the square root of the share of the true class;
lines part the classes of earlier phases from those of the phase.</p>
{''.join(map(html.note, notes))}
<script type="application/json" id="matrices">{data}</script>
"""


def _controls(runs: Sequence[Run], content: dict[str, Any]) -> str:
    """What chooses the run, the classifier and the phase."""
    listed, last = content['runs'], len(runs[0].phases) - 1
    heads = [head['name'] for head in listed[0]['heads']]
    return f"""<div class="controls">
{_select('matrix-run', 'run', [run['name'] for run in listed])}
{_select('matrix-head', 'classifier', heads)}
<label class="grow">phase <input type="range" id="matrix-phase" min="0"
max="{last}" value="{last}" step="1"></label>
</div>"""


def _pairs(run: Run) -> str:
    """The table of pairs, of the last phase until the script fills it."""
    return html.table(
        ['true', 'taken for', 'images', 'share (%)'],
        pair_rows(run, run.phases[-1], run.results['predictor']),
        'Share of the test images of the true class.',
        words=True,
        name='pairs',
    )


def _select(name: str, title: str, options: Sequence[str]) -> str:
    """A choice among several; nothing to choose from is not shown."""
    items = ''.join(
        f'<option value="{i}">{html.escape(option)}</option>'
        for i, option in enumerate(options)
    )
    hidden = ' hidden' if len(options) < 2 else ''
    return (
        f'<label{hidden}>{title} <select id="{name}">{items}</select></label>'
    )


def pair_rows(
    run: Run, phase: dict[str, Any], classifier: str
) -> list[list[str]]:
    """The most confused pairs of a phase as cells."""
    pairs = confusion.confused(
        phase['confusion'][classifier], run.names, MOST_PAIRS
    )
    return [[t, p, str(n), percent(share)] for t, p, n, share in pairs]


def collect(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """What the script reads, and sentences on what was left out."""
    notes: list[str] = []
    left = MAX_NUMBERS
    found = []
    for run in runs:
        size = sum(phase['num_seen'] ** 2 for phase in run.phases)
        judged = run.results['predictor']
        names = sorted(classifiers([run]), key=lambda name: name != judged)
        heads, left_out = [], []
        for name in names:
            as_numbers = size <= left
            if name != judged and not as_numbers:
                left_out.append(CLASSIFIERS[name])
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
        f'{run.name}: with {size:,} fields in all the matrices are shown as '
        'pictures without counts; results.json has the counts.'
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
        'name': CLASSIFIERS[name],
        'phases': [_phase(run, p, name, as_numbers) for p in phases],
    }


def _phase(
    run: Run, phase: dict[str, Any], name: str, as_numbers: bool
) -> dict[str, Any]:
    seen, before = phase['num_seen'], phase.get('num_old', 0)
    text = (
        f'Phase {phase["phase"]}: {counted(seen, "class")}, '
        f'{percent(phase["accuracy"].get(name))} % right'
    )
    found = {'text': text, 'seen': seen, 'old': before}
    counts = phase['confusion'][name]
    if as_numbers:
        return {**found, 'counts': counts}
    data = base64.b64encode(confusion.as_image(counts)).decode()
    return {
        **found,
        'image': f'data:image/png;base64,{data}',
        'pairs': pair_rows(run, phase, name),
    }
