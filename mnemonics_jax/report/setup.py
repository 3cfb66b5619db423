"""What was run: configuration, protocol, versions, command, warnings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_jax.core.text import (
    ELLIPSIS,
    NOTHING,
    counted,
    flatten,
    shortened,
)
from mnemonics_jax.report import groups, paper_protocol
from mnemonics_jax.report.charts import protocol
from mnemonics_jax.report.groups import Group
from mnemonics_jax.report.runs import Run
from mnemonics_jax.report.tables import Table

# Maximum number of items of a list that a sentence names.
_MOST = 20


def headline(grouped: Sequence[Group]) -> str:
    """The title of the page."""
    runs = [run for group in grouped for run in group.runs]
    if len(runs) > 1:
        names = ', '.join(
            f'{group.name} ({counted(len(group.runs), "seed")})'
            if len(group.runs) > 1
            else group.name
            for group in grouped
        )
        return f'{counted(len(runs), "run")} compared: {names}'
    config = runs[0].config
    if not config:
        return 'A run without its configuration'
    strategy = runs[0].strategy
    kept = 'no' if strategy == 'none' else strategy
    return (
        f'{config["method"]["name"]} with {kept} exemplars on {_data(config)}'
    )


def _data(config: dict[str, Any]) -> str:
    fields = flatten(config)
    source, name = fields['data.source'], fields.get('data.name')
    return f'{source}, {name}' if name else source


def settings(grouped: Sequence[Group]) -> list[str]:
    """A line for each setting, after the names of its groups if they differ."""
    several = sum(len(group.runs) for group in grouped) > 1
    alike: dict[str, list[str]] = {}
    for group in grouped:
        config = group.first.config
        if config and group.first.phases:
            words = _setting(group)
            if several:
                method = config['method']['name']
                words = f'{method} on {_data(config)}; {words}'
            alike.setdefault(words, []).append(group.name)
    return [
        f'{", ".join(names)}: {words}' if len(alike) > 1 else words
        for words, names in alike.items()
    ]


def adjusted(grouped: Sequence[Group]) -> list[str]:
    """A sentence if real exemplars were changed, which none may expect."""
    names = [group.name for group in grouped if _changes_real_images(group)]
    if not names:
        return []
    return [
        f'{", ".join(names)}: exemplars are selected real images, but their '
        'pixels were changed in later phases, because exemplars.adjust is '
        'true. With exemplars.adjust=false they stay as they were selected.'
    ]


def _changes_real_images(group: Group) -> bool:
    return not group.first.learns_exemplars and any(
        'adjust_drift_grey_levels' in phase['exemplars']
        for run in group.runs
        for phase in run.phases
    )


def _budget(exemplars: Mapping[str, Any]) -> str:
    """How much a run may store."""
    forms = {
        'per_class': '{:,} images per class',
        'total': '{:,} images',
        'bytes_per_class': '{:,} bytes per class',
        'bytes_total': '{:,} bytes',
    }
    # Runs of older versions lack the budgets in bytes.
    given = [name for name in forms if exemplars.get(name)]
    return forms[given[0]].format(exemplars[given[0]])


def _storage(exemplars: Mapping[str, Any]) -> str:
    """How a run stores exemplars."""
    name = exemplars['storage']
    if name in ('uint8', 'float32'):
        return name
    text = f'{name} of quality {exemplars["quality"]}'
    return f'{text}, {exemplars["subsampling"]}' if name == 'jpeg' else text


def _setting(group: Group) -> str:
    """Backbone, classes, phases, memory and seeds."""
    config, phases = group.first.config, group.first.phases
    ex = config['exemplars']
    sizes = [p['num_seen'] for p in phases]
    steps = [b - a for a, b in zip([0, *sizes], sizes, strict=False)]
    arrival = ' + '.join(map(str, steps[:6]))
    arrival += f' + {ELLIPSIS}' * (len(steps) > 6)
    memory = f'memory of {_budget(ex)}, stored as {_storage(ex)}'
    if ex['strategy'] == 'none':
        memory = 'no memory'
    classes = counted(sizes[-1], 'class')
    return (
        f'{config["backbone"]["name"]} backbone; {classes} in '
        f'{counted(len(phases), "phase")} ({arrival}); {memory}; '
        f'{_seeds(group)}'
    )


def _seeds(group: Group) -> str:
    """'seed 0', or 'seeds 0, 1, 2'."""
    word = 'seed' if len(group.runs) == 1 else 'seeds'
    return f'{word} {", ".join(map(str, group.seeds))}'


def incomplete(results: dict[str, Any]) -> list[str]:
    """A sentence on the progress of an unfinished run; [] if it is finished."""
    if results.get('complete', True):
        return []
    phases = results['phases']
    return [
        f'Not finished: {counted(len(phases), "phase")} done, '
        f'{phases[-1]["num_seen"]} of {len(results["class_names"])} classes; '
        'rerun the command to resume.'
    ]


def warnings(run: Run) -> list[str]:
    """Sentences on missing phases and files, skipped images and resumptions."""
    found = incomplete(run.results) if run.results else []
    skipped = list(map(str, run.results.get('skipped_images', ())))
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
    return found + other_rates(run) + run.missing


def other_rates(run: Run) -> list[str]:
    """Sentences on phases from which on learning rates were others."""
    found = []
    for start in run.setup.get('starts') or ():
        if isinstance(start, dict) and isinstance(
            rates := start.get('new_rates'), dict
        ):
            words = ', '.join(
                f'{name} {" instead of ".join(map(str, reversed(values)))}'
                for name, values in rates.items()
                if isinstance(values, list)
            )
            phase = (start.get('resumed') or {}).get('phase')
            found.append(f'From phase {phase} on: {words}.')
    return found


def _moment(resumed: dict[str, Any]) -> str:
    words = f'phase {resumed.get("phase")}'
    if resumed.get('stage') is not None:
        words += f', {resumed["stage"]}'
    if resumed.get('step') is not None:
        words += f', after step {resumed["step"]}'
    return words


def protocol_of_the_paper(runs: Sequence[Run]) -> Table | str:
    """How the runs differ from the protocol of the paper's curves.

    Returns:
        A table if the protocol differs; else a sentence, empty if the paper's
        curves are drawn.
    """
    differing: dict[paper_protocol.Difference, list[str]] = {}
    for run in runs:
        for found in paper_protocol.differences(run.results):
            differing.setdefault(found, []).append(run.name)
    if differing:
        several = max(map(len, differing.values())) < len(runs)
        return Table(
            ['what', 'here', 'in the paper'] + ['runs'] * several,
            [
                [*found] + [', '.join(names)] * several
                for found, names in differing.items()
            ],
            'The paper\u2019s curves (digitised) are not drawn, because the '
            'protocol differs.',
            words=True,
        )
    if len({protocol(run) for run in runs}) > 1:
        return (
            'The paper\u2019s curves (digitised) are not drawn, because the '
            'runs follow different protocols of the paper.'
        )
    return ''


def differing(grouped: Sequence[Group]) -> Table:
    """The fields in which groups differ, and whether their class orders do."""
    fields = [flatten(group.first.config) for group in grouped]
    for known, group in zip(fields, grouped, strict=True):
        if len(group.runs) > 1:
            known['seed'] = ', '.join(map(str, group.seeds))
    names = list(dict.fromkeys(name for known in fields for name in known))
    rows = [
        [name, *(_value(known, name) for known in fields)] for name in names
    ]
    averaged = groups.averaged(grouped)
    rows = [
        row
        for row in rows
        if len(set(row[1:])) > 1 or (averaged and row[0] == 'seed')
    ]
    # Runs of a group have the same, see `groups.collect`.
    orders = [_order(group.first) for group in grouped]
    caption = 'classes arrive in the same order.'
    if len(set(orders) - {()}) > 1:
        cells = [shortened(', '.join(o), 60) or NOTHING for o in orders]
        rows.append(['class order', *cells])
        caption = 'classes arrive in different orders.'
    if () in orders:
        caption = 'the class order of some runs is unknown.'
    start = 'All other fields are equal' if rows else 'No field differs'
    head = ['field', *(group.name for group in grouped)]
    return Table(head, rows, f'{start}; {caption}', words=True)


def _value(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        return NOTHING
    value = fields[name]
    return value if isinstance(value, str) else json.dumps(value)


def _order(run: Run) -> tuple[str, ...]:
    """Names of all classes in their class order; () if unknown."""
    if run.results:
        names = run.results['class_names']
        return tuple(str(names[k]) for k in run.results['class_order'])
    plan = run.setup.get('plan')
    names = plan.get('classes') if isinstance(plan, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def fields(run: Run) -> Table | None:
    """All fields of a run, if its configuration is known."""
    if not run.config:
        return None
    known = flatten(run.config)
    return Table(
        ['field', 'value'],
        [[name, _value(known, name)] for name in known],
        'As resolved: presets and defaults are filled in.',
        words=True,
    )


def versions(runs: Sequence[Run]) -> Table | None:
    """The versions, commit and command of each run, if any is known."""
    columns = [_versions_of(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return None
    titles = ['version'] if len(runs) == 1 else [run.name for run in runs]
    return Table(
        ['what', *titles],
        [[name, *(c.get(name, NOTHING) for c in columns)] for name in names],
        'The software and the command of the latest start.',
        words=True,
    )


def _versions_of(run: Run) -> dict[str, str]:
    setup = run.setup
    if not setup:
        return {}
    starts = [s for s in setup.get('starts') or () if isinstance(s, dict)]
    command = starts[-1].get('command') if starts else None
    return {
        **{name: str(v) for name, v in (setup.get('versions') or {}).items()},
        'commit': str(setup.get('commit') or 'unknown: not run in a checkout'),
        'started': str(setup.get('started', 'unknown')),
        'starts': str(len(starts)) if starts else 'not recorded',
        'command': str(command or 'not recorded'),
    }
