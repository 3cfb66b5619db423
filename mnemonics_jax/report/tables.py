"""The tables of results: phases, averages and forgetting, and time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mnemonics_jax.core.text import NOTHING, TITLES, percent
from mnemonics_jax.report import groups
from mnemonics_jax.report.charts import classifiers
from mnemonics_jax.report.groups import Group
from mnemonics_jax.report.runs import Run


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        head: titles of the columns.
        rows: cells; the first of each row is its header.
        caption: text below the table.
        emphasis: index of the column to emphasize, -1 for none.
        words: whether cells are words, else numbers.
        best: row and column of the cells that are the best of their columns.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    emphasis: int = -1
    words: bool = False
    best: frozenset[tuple[int, int]] = frozenset()


class Measure(NamedTuple):
    """A number that describes a whole run.

    Attributes:
        key: key in `results.json`; that of the last phase begins with last_.
        title: name for people.
        unit: '%' or 'points'.
        meaning: definition.
    """

    key: str
    title: str
    unit: str
    meaning: str


MEASURES = (
    Measure(
        'average_incremental_accuracy',
        'average incremental accuracy',
        '%',
        'Mean over all phases of the accuracy on the classes seen so far; '
        'higher is better.',
    ),
    Measure(
        'last_accuracy',
        'last accuracy',
        '%',
        'Accuracy of the last model on all classes seen; higher is better.',
    ),
    Measure(
        'forgetting',
        'forgetting',
        'points',
        'Accuracy of the first model on the classes of phase 0, minus that of '
        'the last model (the paper\u2019s F); lower is better.',
    ),
    Measure(
        'max_forgetting',
        'max forgetting',
        'points',
        'Best earlier accuracy on the classes of a phase, minus the final one; '
        'mean over all phases but the last; lower is better.',
    ),
    Measure(
        'backward_transfer',
        'backward transfer',
        'points',
        'Accuracy of the last model on the classes of a phase, minus that of '
        'the model of that phase; mean over all phases but the last; negative '
        'if later phases hurt earlier classes.',
    ),
    Measure(
        'last_top5_accuracy',
        'last top-5 accuracy',
        '%',
        'Share of test images whose class is among the five that the last '
        'model finds most likely; only of more than five classes.',
    ),
)
# So many classes or fewer are always among the five most likely.
_TOP = 5

_LEARNED = (
    ' Drift: mean change of a pixel by learning, in grey levels of 255. '
    'Held-out loss: loss on test images of the new classes of a model trained '
    'on the exemplars, before and after learning. This loss shows whether '
    'learning helped; drift does not.'
)


def key_numbers(run: Run) -> dict[str, str]:
    """The most important numbers of a run with results, by name."""
    last, name = run.phases[-1], run.results['predictor']
    title = TITLES[name]
    average = percent(value(run, 'average_incremental_accuracy'))
    return {
        f'average incremental accuracy, {title}': f'{average} %',
        f'accuracy after the last phase, {title}': (
            f'{percent(last["accuracy"].get(name))} %'
        ),
        f'forgetting, {title}': f'{percent(value(run, "forgetting"))} points',
        'memory after the last phase': f'{last["exemplars"]["count"]:,} images',
    }


def value(run: Run, key: str, name: str = '') -> float | None:
    """A measure of a run as a fraction; None if unknown.

    Args:
        run: a run with results.
        key: key of `results.json`.
        name: classifier, by default the one by which the run is evaluated.
    """
    name = name or run.results['predictor']
    if key in run.results:
        return run.results[key].get(name)
    # Also of older versions, which lack some measures of whole runs.
    if not key.startswith('last_'):
        return None
    last = run.phases[-1]
    if key == 'last_top5_accuracy' and last['num_seen'] <= _TOP:
        return None
    return last.get(key.removeprefix('last_'), {}).get(name)


def known_measures(runs: Sequence[Run]) -> list[Measure]:
    """Those of `MEASURES` that any of the runs has."""
    return [
        measure
        for measure in MEASURES
        if any(value(run, measure.key) is not None for run in runs)
    ]


def values(group: Group, key: str, name: str = '') -> list[float | None]:
    """`value` of each run; None for runs without results."""
    return [value(run, key, name) if run.phases else None for run in group.runs]


def spread(group: Group, key: str, name: str = '') -> str:
    """`values` as text, such as '61.2 \u00b1 0.8' in percent."""
    return groups.spread_text(values(group, key, name))


def phases(run: Run) -> Table:
    """A row for each phase: accuracies, memory, and what learning changed."""
    names = classifiers([run])
    predictor = run.results['predictor']
    learned = _learned_columns(run.phases)
    head = ['phase', 'classes seen']
    head += [f'{TITLES[name]} (%)' for name in names]
    top = [
        p for p in run.phases if p['num_seen'] > _TOP and 'top5_accuracy' in p
    ]
    head += [f'{TITLES[predictor]}, top 5 (%)'] if top else []
    head += ['exemplars', 'bytes', *(title for title, _ in learned.values())]
    rows = []
    for phase in run.phases:
        held = phase['exemplars']
        row = [str(phase['phase']), str(phase['num_seen'])]
        row += [percent(phase['accuracy'].get(name)) for name in names]
        if top:
            row.append(
                _cell(phase, 'top5_accuracy', predictor)
                if phase in top
                else NOTHING
            )
        row += [f'{held["count"]:,}', f'{held["bytes"]:,}']
        for key, (_, form) in learned.items():
            known = isinstance(held.get(key), int | float)
            row.append(format(held[key], form) if known else NOTHING)
        rows.append([*row, f'{phase["seconds"]["total"]:.1f}'])
    caption = (
        'Accuracy on test images of all classes seen; the method is evaluated '
        f'by {TITLES[predictor]}. Bytes: size of the images in memory'
        + (
            ', with the header that they share. PSNR: of the new exemplars '
            'against the real images that they come from.'
            if 'psnr' in learned
            else '.'
        )
    )
    if top:
        caption += (
            ' Top 5: share of test images whose class is among the five most '
            'likely, once there are more than five classes.'
        )
    if 'held_out_loss_before' in learned:
        caption += _LEARNED
    emphasis = 2 + names.index(predictor)
    return Table([*head, 'seconds'], rows, caption, emphasis)


def _learned_columns(
    phases: Sequence[dict[str, Any]],
) -> dict[str, tuple[str, str]]:
    """Titles and formats of the results of learning that any phase has."""
    known = {key for phase in phases for key in phase['exemplars']}
    if 'held_out_loss_before' not in known:
        known.discard('drift_grey_levels')  # Always 0 for real images.
    columns = {
        'drift_grey_levels': ('drift (grey levels)', '.1f'),
        'held_out_loss_before': ('held-out loss before', '.3f'),
        'held_out_loss_after': ('held-out loss after', '.3f'),
        'psnr': ('PSNR (dB)', '.1f'),
        'adjust_drift_grey_levels': ('drift of old (grey levels)', '.1f'),
    }
    return {key: value for key, value in columns.items() if key in known}


def old_and_new(run: Run) -> Table | None:
    """Accuracy on the old and on the new classes of each phase, if known."""
    names = classifiers([run])
    if not any('new_accuracy' in phase for phase in run.phases):
        return None
    keys = ('old_accuracy', 'new_accuracy')
    return Table(
        ['phase']
        + [
            f'{TITLES[n]}, {kind} (%)' for n in names for kind in ('old', 'new')
        ],
        [
            [
                str(p['phase']),
                *(_cell(p, key, n) for n in names for key in keys),
            ]
            for p in run.phases
        ],
        'Old: classes of earlier phases. New: classes of this phase. '
        'Predictions are among all classes seen.',
    )


def _cell(phase: Mapping[str, Any], key: str, name: str) -> str:
    value = phase.get(key, {}).get(name)
    return NOTHING if value is None else percent(value)


def side_by_side(grouped: Sequence[Group]) -> Table:
    """Accuracies of groups by their predictors, phase by phase."""
    head = ['phase', 'classes seen']
    for group in grouped:
        head += [f'{group.name} (%)', 'old', 'new']
    longest = max((group.first.phases for group in grouped), key=len)
    rows = []
    for i, phase in enumerate(longest):
        seen = {
            group.first.phases[i]['num_seen']
            for group in grouped
            if i < len(group.first.phases)
        }
        row = [str(phase['phase']), ' / '.join(map(str, sorted(seen)))]
        row += [
            _phase_cell(group, i, key)
            for group in grouped
            for key in ('accuracy', 'old_accuracy', 'new_accuracy')
        ]
        rows.append(row)
    predictors = dict.fromkeys(
        TITLES[group.first.results['predictor']] for group in grouped
    )
    caption = (
        f'By {" or ".join(predictors)}: on all classes seen, on those of '
        'earlier phases (old) and on those of the phase (new).'
    )
    if groups.averaged(grouped):
        caption += ' Mean \u00b1 standard deviation over seeds.'
    return Table(head, rows, caption)


def _phase_cell(group: Group, index: int, key: str) -> str:
    """A result of a phase by the predictor; a dash if unknown."""
    name = group.first.results['predictor']
    found = [
        run.phases[index].get(key, {}).get(name)
        for run in group.runs
        if index < len(run.phases)
    ]
    if not found or None in found:
        return NOTHING
    return groups.spread_text(found)


def averages(grouped: Sequence[Group]) -> Table:
    """All measures of whole runs, by classifier."""
    runs = [run for group in grouped for run in group.runs]
    names = classifiers(runs)
    several = len(grouped) > 1
    rows = [
        [f'{measure.title} ({measure.unit})']
        + [group.name] * several
        + [spread(group, measure.key, name) for name in names]
        for measure in known_measures(runs)
        for group in grouped
    ]
    head = ['measure'] + ['run'] * several + [TITLES[name] for name in names]
    predictors = {run.results['predictor'] for run in runs}
    emphasis = -1
    if len(predictors) == 1:
        emphasis = 1 + several + names.index(predictors.pop())
    return Table(head, rows, 'Definitions:', emphasis)


def times(runs: Sequence[Run]) -> Table:
    """Seconds by stage: of each phase of one run, or in all of several runs."""
    listed = [p['seconds'] for run in runs for p in run.phases]
    stages = list(dict.fromkeys(n for seconds in listed for n in seconds))
    stages.sort(key='total'.__eq__)  # The total comes last.
    sums = []
    for run in runs:
        own = [phase['seconds'] for phase in run.phases]
        known = {stage for seconds in own for stage in seconds}
        sums.append(
            {s: sum(p.get(s, 0) for p in own) for s in stages if s in known}
        )
    if len(runs) > 1:
        named = ((r.name, total) for r, total in zip(runs, sums, strict=True))
        rows = _seconds(named, stages)
    else:
        named = ((str(p['phase']), p['seconds']) for p in runs[0].phases)
        rows = _seconds([*named, ('all', sums[0])], stages)
        whole = sums[0]['total'] or 1
        shares = (f'{percent(s / whole)} %' for s in sums[0].values())
        rows.append(['share', *shares])
    return Table(
        ['run' if len(runs) > 1 else 'phase', *stages],
        rows,
        'In seconds. The first phases include compilation.',
    )


def _seconds(
    named: Iterable[tuple[str, Mapping[str, float]]], stages: Sequence[str]
) -> list[list[str]]:
    """Rows of a name and its seconds by stage."""
    return [
        [name] + [f'{known[s]:.1f}' if s in known else NOTHING for s in stages]
        for name, known in named
    ]
