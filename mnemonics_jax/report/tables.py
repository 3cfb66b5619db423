"""The tables of results: phases, averages, memory and time."""

from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core.text import CLASSIFIERS, NOTHING, percent
from mnemonics_jax.report import html
from mnemonics_jax.report.charts import classifiers
from mnemonics_jax.report.runs import Run

# Key in `results.json`, name, unit, and what it is.
MEASURES = (
    (
        'average_incremental_accuracy',
        'average incremental accuracy',
        '%',
        'The mean over all phases of the accuracy on the classes seen by then; '
        'higher is better.',
    ),
    (
        'forgetting',
        'forgetting',
        'points',
        'Accuracy on the first phase\u2019s classes, by the first model minus '
        'by the last (the paper\u2019s F); lower is better.',
    ),
    (
        'max_forgetting',
        'max forgetting',
        'points',
        'The best past accuracy on the classes of a phase minus the final one, '
        'a mean over all phases but the last; lower is better.',
    ),
)

# Of a page; the table of a terminal has the accuracy of each phase above.
_LAST = (
    'last_accuracy',
    'last accuracy',
    '%',
    'Accuracy on all classes seen, by the last model; higher is better.',
)

_LEARNED = (
    ' Drift: mean change of a pixel by learning, of 255 grey levels. Held-out '
    'loss: of a model trained on the exemplars, on test images of the new '
    'classes, before and after learning; this says whether learning helped, '
    'drift does not.'
)


def keys(run: Run) -> str:
    """The numbers that a reader came for."""
    results, last = run.results, run.phases[-1]
    name = results['predictor']
    title = CLASSIFIERS[name]
    average = results.get('average_incremental_accuracy', {}).get(name)
    forgetting = results.get('forgetting', {}).get(name)
    return html.keys(
        {
            f'average incremental accuracy, {title}': f'{percent(average)} %',
            f'accuracy after the last phase, {title}': (
                f'{percent(last["accuracy"].get(name))} %'
            ),
            f'forgetting, {title}': f'{percent(forgetting)} points',
            'memory after the last phase': (
                f'{last["exemplars"]["count"]:,} images'
            ),
        }
    )


def overview(runs: Sequence[Run]) -> str:
    """The runs side by side, each by the classifier that judges it."""
    head = [
        'run',
        'exemplars',
        'judged by',
        'average (%)',
        'last (%)',
        'forgetting (points)',
        'memory (images)',
        'seconds',
    ]
    rows = []
    for run in runs:
        if not run.phases:
            rows.append([run.name, run.strategy, *[NOTHING] * 6])
            continue
        name, last = run.results['predictor'], run.phases[-1]
        rows.append(
            [
                run.name,
                run.strategy,
                CLASSIFIERS[name],
                _measure(run, 'average_incremental_accuracy', name),
                percent(last['accuracy'].get(name)),
                _measure(run, 'forgetting', name),
                f'{last["exemplars"]["count"]:,}',
                f'{sum(p["seconds"]["total"] for p in run.phases):.0f}',
            ]
        )
    return html.table(
        head,
        rows,
        'Average: average incremental accuracy. One run of each says nothing '
        'of how far another seed would move it.',
    )


def _measure(run: Run, key: str, name: str) -> str:
    return percent(run.results.get(key, {}).get(name))


def phases(run: Run) -> str:
    """A row for each phase: accuracies, memory, what learning did."""
    names = classifiers([run])
    judged = run.results['predictor']
    learned = _learned_columns(run.phases)
    head = ['phase', 'classes seen']
    head += [f'{CLASSIFIERS[name]} (%)' for name in names]
    head += ['exemplars', 'bytes', *(title for title, _ in learned.values())]
    rows = []
    for phase in run.phases:
        held = phase['exemplars']
        row = [str(phase['phase']), str(phase['num_seen'])]
        row += [percent(phase['accuracy'].get(name)) for name in names]
        row += [f'{held["count"]:,}', f'{held["bytes"]:,}']
        for key, (_, form) in learned.items():
            known = isinstance(held.get(key), int | float)
            row.append(format(held[key], form) if known else NOTHING)
        rows.append([*row, f'{phase["seconds"]["total"]:.1f}'])
    caption = (
        'Accuracy on test images of all classes seen; the method is judged by '
        f'{CLASSIFIERS[judged]}. Bytes: of the images in memory.'
    )
    if 'held_out_loss_before' in learned:
        caption += _LEARNED
    return html.table(
        [*head, 'seconds'], rows, caption, judged=2 + names.index(judged)
    )


def _learned_columns(
    phases: Sequence[dict[str, Any]],
) -> dict[str, tuple[str, str]]:
    """Titles and formats of what is known of learning in any phase."""
    known = {key for phase in phases for key in phase['exemplars']}
    if 'held_out_loss_before' not in known:
        known.discard('drift_grey_levels')  # Of real exemplars: always 0.
    columns = {
        'drift_grey_levels': ('drift (grey levels)', '.1f'),
        'held_out_loss_before': ('held-out loss before', '.3f'),
        'held_out_loss_after': ('held-out loss after', '.3f'),
        'adjust_drift_grey_levels': ('drift of old (grey levels)', '.1f'),
    }
    return {key: value for key, value in columns.items() if key in known}


def old_and_new(run: Run) -> str:
    """Accuracy on the classes of earlier phases and on those of the phase."""
    names = classifiers([run])
    if not any('new_accuracy' in phase for phase in run.phases):
        return ''
    head = ['phase']
    for name in names:
        title = CLASSIFIERS[name]
        head += [f'{title}, old (%)', f'{title}, new (%)']
    rows = []
    for phase in run.phases:
        row = [str(phase['phase'])]
        for name in names:
            for key in ('old_accuracy', 'new_accuracy'):
                value = phase.get(key, {}).get(name)
                row.append(NOTHING if value is None else percent(value))
        rows.append(row)
    return html.table(
        head,
        rows,
        'Old: classes of earlier phases; new: those of the phase. Answers are '
        'among all classes seen.',
    )


def side_by_side(runs: Sequence[Run]) -> str:
    """Accuracies by the classifier that judges each run, phase by phase."""
    head = ['phase', 'classes seen']
    for run in runs:
        head += [f'{run.name} (%)', 'old', 'new']
    longest = max((run.phases for run in runs), key=len)
    rows = []
    for i, phase in enumerate(longest):
        seen = {r.phases[i]['num_seen'] for r in runs if i < len(r.phases)}
        row = [str(phase['phase']), ' / '.join(map(str, sorted(seen)))]
        for run in runs:
            name = run.results['predictor']
            for key in ('accuracy', 'old_accuracy', 'new_accuracy'):
                own = run.phases[i].get(key, {}) if i < len(run.phases) else {}
                row.append(percent(own[name]) if name in own else NOTHING)
        rows.append(row)
    judged = dict.fromkeys(CLASSIFIERS[r.results['predictor']] for r in runs)
    return html.table(
        head,
        rows,
        f'By {" or ".join(judged)}: on all classes seen, on those of earlier '
        'phases (old) and of the phase (new).',
    )


def averages(runs: Sequence[Run]) -> str:
    """All measures of whole runs, by classifier, and what they are."""
    names = classifiers(runs)
    several = len(runs) > 1
    measures = (MEASURES[0], _LAST, *MEASURES[1:])
    head = ['measure'] + ['run'] * several + [CLASSIFIERS[n] for n in names]
    rows = [
        [f'{title} ({unit})']
        + [run.name] * several
        + [_measure(run, key, n) for n in names]
        for key, title, unit, _ in measures
        for run in runs
        if key in run.results
    ]
    words = ''.join(
        f'<li><b>{html.escape(title)}</b>: {html.escape(meaning)}</li>\n'
        for _, title, _, meaning in measures
    )
    judged = {run.results['predictor'] for run in runs}
    column = -1
    if len(judged) == 1:
        column = 1 + several + names.index(judged.pop())
    table = html.table(head, rows, 'What these are:', judged=column)
    return f'{table}\n<ul class="soft">\n{words}</ul>'


def times(runs: Sequence[Run]) -> str:
    """Seconds by stage: of each phase of a run, or of several runs in all."""
    listed = [p['seconds'] for run in runs for p in run.phases]
    stages = list(dict.fromkeys(n for seconds in listed for n in seconds))
    stages.sort(key='total'.__eq__)  # The total comes last.
    rows = []
    for run in runs:
        own = [phase['seconds'] for phase in run.phases]
        known = {n for seconds in own for n in seconds}
        sums = {n: sum(p.get(n, 0) for p in own) for n in stages if n in known}
        if len(runs) == 1:
            rows += [
                [str(p['phase']), *(_seconds(p['seconds'], n) for n in stages)]
                for p in run.phases
            ]
            rows.append(['all', *(_seconds(sums, n) for n in stages)])
            whole = sums['total'] or 1
            shares = (f'{percent(s / whole)} %' for s in sums.values())
            rows.append(['share', *shares])
        else:
            rows.append([run.name, *(_seconds(sums, n) for n in stages)])
    first = 'phase' if len(runs) == 1 else 'run'
    return html.table(
        [first, *stages],
        rows,
        'In seconds. First phases contain what compiling takes.',
    )


def _seconds(seconds: dict[str, float], stage: str) -> str:
    return f'{seconds[stage]:.1f}' if stage in seconds else NOTHING
