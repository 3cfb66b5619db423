"""The tables that compare runs: their summary, and differences of pairs."""

import functools
from collections.abc import Sequence

from mnemonics_jax.core.text import NOTHING, TITLES, percent
from mnemonics_jax.report import groups
from mnemonics_jax.report.groups import Group, Interval
from mnemonics_jax.report.tables import Table, spread, value, values

KEYS = ('average_incremental_accuracy', 'last_accuracy', 'forgetting')
# Of these a low value is the best.
LOWER_IS_BETTER = ('forgetting',)


def table(grouped: Sequence[Group]) -> Table:
    """Groups of runs side by side, each by its own predictor."""
    averaged = groups.averaged(grouped)
    head = ['run', 'exemplars', 'evaluated by'] + ['n'] * averaged
    start = len(head)
    head += ['average (%)', 'last (%)', 'forgetting (points)']
    head += ['memory (images)', 'seconds']
    rows = []
    for group in grouped:
        first, num = group.first, [str(len(group.runs))] * averaged
        cells = [NOTHING, *num, *[NOTHING] * 5]
        if first.phases:
            held = {r.phases[-1]['exemplars']['count'] for r in group.runs}
            cells = [TITLES[first.results['predictor']], *num]
            cells += [spread(group, key) for key in KEYS]
            cells.append(' / '.join(f'{count:,}' for count in sorted(held)))
            cells.append(
                groups.spread_text(_seconds_of(group), '{:.0f}'.format)
            )
        rows.append([group.name, first.strategy, *cells])
    caption = (
        'Mean \u00b1 standard deviation over n runs that differ in their seed '
        'alone.'
        if averaged
        else 'One run of each does not show how much results vary with the '
        'seed.'
    )
    best = {
        place
        for i, key in enumerate(KEYS)
        for place in _best(grouped, rows, start + i, key)
    }
    if best:
        caption += ' Bold: the best of a column.'
    return Table(
        head,
        rows,
        f'Average: average incremental accuracy. {caption}',
        best=frozenset(best),
    )


def _best(
    grouped: Sequence[Group],
    rows: Sequence[Sequence[str]],
    column: int,
    key: str,
) -> list[tuple[int, int]]:
    """Cells that show the best mean; none unless all are of the same task."""
    tasks = {
        str((run.names, [phase['num_seen'] for phase in run.phases]))
        for group in grouped
        for run in group.runs
    }
    found = [groups.summary(values(group, key))[0] for group in grouped]
    means = [mean for mean in found if mean is not None]
    if len(grouped) < 2 or len(tasks) > 1 or len(means) < len(grouped):
        return []
    top = min(means) if key in LOWER_IS_BETTER else max(means)
    # Means that the page shows as equal are equally good.
    return [
        (i, column)
        for i, mean in enumerate(means)
        if percent(mean) == percent(top)
    ]


def _seconds_of(group: Group) -> list[float]:
    return [sum(p['seconds']['total'] for p in r.phases) for r in group.runs]


def compared(grouped: Sequence[Group]) -> Table | None:
    """Differences between groups over the seeds that they share, if any."""
    columns = [
        groups.compared(grouped, functools.partial(value, key=key))
        for key in KEYS
    ]
    rows = []
    for pair in dict.fromkeys(pair for found in columns for pair in found):
        found = [column.get(pair) for column in columns]
        num = max(interval.num for interval in found if interval is not None)
        cells = [NOTHING if i is None else _interval(i) for i in found]
        rows.append([' \u2212 '.join(pair), str(num), *cells])
    if not rows:
        return None
    return Table(
        ['difference', 'n', 'average', 'last', 'forgetting'],
        rows,
        'In points: mean of the differences between runs of the same seed, '
        'with its 95 % interval by Student\u2019s t; n: pairs. An interval '
        'that holds 0 does not tell the two apart. Of many intervals one in '
        'twenty misses the true value by chance.',
    )


def _interval(found: Interval) -> str:
    mean, low, high = (100 * v for v in (found.mean, found.low, found.high))
    return f'{mean:+.1f} [{low:+.1f}, {high:+.1f}]'
