"""What ran: configuration, protocol, versions, command, warnings."""

import json
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core.text import (
    ELLIPSIS,
    NOTHING,
    counted,
    flatten,
    shortened,
)
from mnemonics_jax.report import html, published
from mnemonics_jax.report.charts import protocol
from mnemonics_jax.report.runs import Run

# So many of a list are written out.
_MOST = 20


def describe_run(run: Run) -> str:
    """What was run, in a headline."""
    fields = flatten(run.config)
    if not fields:
        return 'A run whose configuration is lost'
    strategy = fields['exemplars.strategy']
    kept = 'no' if strategy == 'none' else strategy
    return f'{fields["method.name"]} with {kept} exemplars on {_data(fields)}'


def describe_method(run: Run) -> str:
    """Method and data, which runs that are compared often share."""
    fields = flatten(run.config)
    return f'{fields["method.name"]} on {_data(fields)}'


def _data(fields: dict[str, Any]) -> str:
    name = fields.get('data.name')
    return f'{fields["data.source"]}, {name}' if name else fields['data.source']


def describe_setting(run: Run) -> str:
    """Backbone, classes, phases, memory and seed, in a line."""
    config, phases = run.config, run.phases
    if not config or not phases:
        return ''
    ex = config['exemplars']
    sizes = [p['num_seen'] for p in phases]
    steps = [b - a for a, b in zip([0, *sizes], sizes, strict=False)]
    arrival = ' + '.join(map(str, steps[:6]))
    arrival += f' + {ELLIPSIS}' * (len(steps) > 6)
    each, total = ex['per_class'], ex['total']
    held = f'{each} images a class' if each else f'{total:,} images in all'
    memory = f'memory of {held}, stored as {ex["storage"]}'
    if ex['strategy'] == 'none':
        memory = 'no memory'
    classes = counted(sizes[-1], 'class')
    return (
        f'{config["backbone"]["name"]} backbone; {classes} in '
        f'{counted(len(phases), "phase")} ({arrival}); {memory}; '
        f'seed {config["seed"]}'
    )


def incomplete(results: dict[str, Any]) -> list[str]:
    """A sentence that says how far an unfinished run came, or nothing."""
    if results.get('complete', True):
        return []
    phases = results['phases']
    return [
        f'Not finished: {counted(len(phases), "phase")} done, '
        f'{phases[-1]["num_seen"]} of {len(results["class_names"])} classes; '
        'the same command goes on.'
    ]


def warnings(run: Run) -> list[str]:
    """What a reader should know of how the run went."""
    found = incomplete(run.results) if run.results else []
    skipped = list(map(str, (run.results or {}).get('skipped_images', ())))
    if skipped:
        shown = ', '.join(skipped[:_MOST])
        more = len(skipped) - _MOST
        found.append(
            f'Skipped {counted(len(skipped), "image")} that cannot be read: '
            f'{shown}{f" and {more:,} more" if more > 0 else ""}.'
        )
    resumed = [
        f'{_moment(start["resumed"])} ({start.get("time", "time unknown")})'
        for start in run.setup.get('starts') or ()
        if isinstance(start, dict) and isinstance(start.get('resumed'), dict)
    ]
    if resumed:
        shown = '; '.join(resumed[-_MOST:])
        found.append(f'Resumed {counted(len(resumed), "time")}: {shown}.')
    return found


def _moment(resumed: dict[str, Any]) -> str:
    words = f'phase {resumed.get("phase")}'
    if resumed.get('stage') is not None:
        words += f', {resumed["stage"]}'
    if resumed.get('step') is not None:
        words += f', after step {resumed["step"]}'
    return words


def comparison(runs: Sequence[Run]) -> str:
    """The protocol of the paper's curves beside that of the runs."""
    differing: dict[published.Difference, list[str]] = {}
    for run in runs:
        names = list(map(str, run.results['class_names']))
        for found in published.differences(run.config, names):
            differing.setdefault(found, []).append(run.name)
    if differing:
        several = max(map(len, differing.values())) < len(runs)
        return html.table(
            ['what', 'here', 'in the paper'] + ['runs'] * several,
            [
                [*found] + [', '.join(names)] * several
                for found, names in differing.items()
            ],
            'The paper\u2019s curves (digitised) are not drawn: they are of '
            'another protocol.',
            words=True,
        )
    if len({protocol(run) for run in runs}) > 1:
        return html.note(
            'The paper\u2019s curves (digitised) are not drawn: the runs '
            'follow different protocols of it.'
        )
    seeds = {flatten(run.config)['protocol.class_order_seed'] for run in runs}
    files = {flatten(r.config)['protocol.class_order_file'] for r in runs}
    if seeds == {1993} and files == {None}:
        return ''
    return html.note(
        'The class order is not the paper\u2019s (seed 1993): part of the '
        'distance to its curves is due to that.'
    )


def differing(runs: Sequence[Run]) -> str:
    """The fields in which runs differ, and whether their orders do."""
    fields = [flatten(run.config) for run in runs]
    names = list(dict.fromkeys(name for known in fields for name in known))
    rows = []
    for name in names:
        values = [_value(known, name) for known in fields]
        if len(set(values)) > 1:
            rows.append([name, *values])
    orders = [_order(run) for run in runs]
    known = {order for order in orders if order}
    if len(known) > 1:
        cells = [shortened(', '.join(o), 60) or NOTHING for o in orders]
        rows.append(['class order', *cells])
    order = 'in different orders' if len(known) > 1 else 'in the same order'
    if () in orders:
        order = 'in an order that is not known of all'
    caption = f'All other fields are equal; classes come {order}.'
    if not rows:
        return f'<p>No field differs. {html.escape(caption)}</p>'
    head = ['field', *(run.name for run in runs)]
    return html.table(head, rows, caption, words=True)


def _value(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        return NOTHING
    value = fields[name]
    return value if isinstance(value, str) else json.dumps(value)


def _order(run: Run) -> tuple[str, ...]:
    """Names of all classes in the order of arrival; () if unknown."""
    if run.results:
        names = run.results['class_names']
        return tuple(str(names[k]) for k in run.results['class_order'])
    plan = run.setup.get('plan')
    names = plan.get('classes') if isinstance(plan, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def configuration(runs: Sequence[Run]) -> str:
    """All fields of each run."""
    parts = []
    for run in runs:
        if not run.config:
            parts.append(html.note(f'{run.name}: the configuration is lost.'))
            continue
        rows = [
            (field, _value({field: value}, field))
            for field, value in flatten(run.config).items()
        ]
        caption = 'As resolved: presets and defaults are filled in.'
        table = html.table(['field', 'value'], rows, caption, words=True)
        title = 'All fields' if len(runs) == 1 else f'All fields of {run.name}'
        parts.append(html.details(title, table))
    return '\n'.join(parts)


def versions(runs: Sequence[Run]) -> str:
    """What computed each run, and by which command."""
    columns = [_versions_of(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return html.note('Unknown: config.json is missing.')
    rows = [
        [name, *(column.get(name, NOTHING) for column in columns)]
        for name in names
    ]
    head = ['what'] + (
        ['version'] if len(runs) == 1 else [run.name for run in runs]
    )
    return html.table(head, rows, 'What computed it.', words=True)


def _versions_of(run: Run) -> dict[str, str]:
    setup = run.setup
    if not setup:
        return {}
    starts = [s for s in setup.get('starts') or () if isinstance(s, dict)]
    command = starts[-1].get('command') if starts else None
    return {
        **{name: str(v) for name, v in (setup.get('versions') or {}).items()},
        'commit': str(setup.get('commit') or 'unknown: not run in a checkout'),
        'begun': str(setup.get('started', 'unknown')),
        'starts': str(len(starts)) if starts else 'not recorded',
        'command': str(command or 'not recorded'),
    }
