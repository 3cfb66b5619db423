"""The report of a run as one HTML page that needs nothing beside itself."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_jax import markup
from mnemonics_jax.figures import (
    CLASSIFIERS,
    MAX_CLASSES,
    MAX_PER_CLASS,
    names_in_order,
    percent,
    phase_lines,
)

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

_LEARNED = (
    ' Drift: mean change of a pixel by learning, of 255 grey levels. Held-out '
    'loss: of a model trained on the exemplars, on test images of the new '
    'classes, before and after learning; this says whether learning helped, '
    'drift does not.'
)
_NOTHING = '\u2013'


def render(
    results: dict[str, Any],
    setup: dict[str, Any] | None,
    pngs: Mapping[str, bytes],
    missing: Sequence[str],
) -> str:
    """The page, in ASCII.

    Args:
        results: content of `results.json`.
        setup: content of `config.json`, if there is one.
        pngs: figures by name, in the order in which they are shown.
        missing: files that could not be shown, each with what is lost.
    """
    sections = (
        ('phases', 'Phases', _phases(results)),
        ('averages', 'Averages and forgetting', _averages(results)),
        ('figures', 'Figures', _figures(results, pngs)),
        ('time', 'Time by stage', _times(results)),
        ('config', 'Configuration', _config(results['config'])),
        ('versions', 'Versions', _versions(setup)),
    )
    title = describe_run(results)
    body = [
        '<header>',
        f'<h1>{markup.escape(title)}</h1>',
        f'<p class="soft">{markup.escape(describe_setting(results))}</p>',
        *[markup.note(text) for text in (*incomplete(results), *missing)],
        _keys(results),
        '</header>',
        '<main>',
        *[markup.section(*section) for section in sections],
        '</main>',
    ]
    return markup.document(title, '\n'.join(body))


def describe_run(results: dict[str, Any]) -> str:
    """What was run, in a headline."""
    fields = flatten(results['config'])
    return (
        f'{fields["method.name"]} with {fields["exemplars.strategy"]} '
        f'exemplars on {fields["data.source"]}'
    )


def describe_setting(results: dict[str, Any]) -> str:
    """Backbone, classes, phases, memory and seed, in a line."""
    config, phases = results['config'], results['phases']
    ex = config['exemplars']
    sizes = [phase['num_seen'] - phase['num_old'] for phase in phases]
    arrival = ' + '.join(map(str, sizes[:6])) + ' + \u2026' * (len(sizes) > 6)
    each, total = ex['per_class'], ex['total']
    held = f'{each} images a class' if each else f'{total:,} images in all'
    return (
        f'{config["backbone"]["name"]} backbone; {phases[-1]["num_seen"]} '
        f'classes in {len(phases)} phases ({arrival}); memory of {held}, '
        f'stored as {ex["storage"]}; seed {config["seed"]}'
    )


def incomplete(results: dict[str, Any]) -> list[str]:
    """A sentence that says how far an unfinished run came, or nothing."""
    if results['complete']:
        return []
    phases = results['phases']
    return [
        f'Not finished: {len(phases)} phases done, {phases[-1]["num_seen"]} '
        f'of {len(results["class_names"])} classes; the same command goes on.'
    ]


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
    """Nested fields as {'a.b': value}."""
    if not isinstance(config, dict):
        return {prefix: config}
    found = {}
    for name, value in config.items():
        found |= flatten(value, f'{prefix}.{name}' if prefix else name)
    return found


def _keys(results: dict[str, Any]) -> str:
    """The numbers that a reader came for."""
    name, last = results['predictor'], results['phases'][-1]
    title = CLASSIFIERS[name]
    average = results['average_incremental_accuracy'][name]
    forgetting, held = results['forgetting'][name], last['exemplars']
    keys = {
        f'average incremental accuracy, {title}': f'{percent(average)} %',
        f'accuracy after the last phase, {title}': (
            f'{percent(last["accuracy"][name])} %'
        ),
        f'forgetting, {title}': f'{percent(forgetting)} points',
        'memory after the last phase': f'{held["count"]:,} images',
    }
    return markup.keys(keys)


def _phases(results: dict[str, Any]) -> str:
    phases = results['phases']
    names = list(phases[0]['accuracy'])
    learned = _learned_columns(phases)
    head = ['phase', 'classes seen']
    head += [f'{CLASSIFIERS[name]} (%)' for name in names]
    head += ['exemplars', 'bytes', *(title for title, _ in learned.values())]
    rows = []
    for phase in phases:
        held = phase['exemplars']
        row = [str(phase['phase']), str(phase['num_seen'])]
        row += [percent(phase['accuracy'][name]) for name in names]
        row += [f'{held["count"]:,}', f'{held["bytes"]:,}']
        for key, (_, form) in learned.items():
            row.append(format(held[key], form) if key in held else _NOTHING)
        rows.append([*row, f'{phase["seconds"]["total"]:.1f}'])
    caption = (
        'Accuracy on test images of all classes seen; the method is judged by '
        f'{CLASSIFIERS[results["predictor"]]}.'
    )
    if 'held_out_loss_before' in learned:
        caption += _LEARNED
    judged = 2 + names.index(results['predictor'])
    return markup.table([*head, 'seconds'], rows, caption, judged=judged)


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


def _averages(results: dict[str, Any]) -> str:
    names = list(results['phases'][0]['accuracy'])
    head = ['measure', *(CLASSIFIERS[name] for name in names)]
    rows = [
        [f'{title} ({unit})', *(percent(results[key][name]) for name in names)]
        for key, title, unit, _ in MEASURES
    ]
    words = '\n'.join(
        f'<li><b>{markup.escape(title)}</b>: {markup.escape(meaning)}</li>'
        for _, title, _, meaning in MEASURES
    )
    judged = 1 + names.index(results['predictor'])
    table = markup.table(head, rows, 'What these are:', judged=judged)
    return f'{table}\n<ul class="soft">\n{words}\n</ul>'


def _figures(results: dict[str, Any], pngs: Mapping[str, bytes]) -> str:
    words = _captions(results)
    return '\n'.join(
        markup.picture(png, *words[name], chart=name != 'exemplars')
        for name, png in pngs.items()
    )


def _captions(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """A caption and an alternative text for each figure."""
    phases, name = results['phases'], results['predictor']
    judged, num_seen = CLASSIFIERS[name], phases[-1]['num_seen']
    first, last = (percent(phases[i]['accuracy'][name]) for i in (0, -1))
    strategy = results['config']['exemplars']['strategy']
    kind = 'learned' if strategy == 'mnemonics' else 'real'
    names, few = names_in_order(results), f'{num_seen} classes'
    if num_seen > MAX_CLASSES:
        few = f'{MAX_CLASSES} of {few}, evenly spaced,'
    every = len(phase_lines(results)) == len(phases) - 1
    lines = 'between phases' if every else 'after phase 0'
    return {
        'accuracy': (
            'Accuracy on all classes seen so far, after each phase; the thick '
            f'line is {judged}, by which the method is judged.',
            f'Line chart of accuracy over classes seen. {judged}: {first} % '
            f'with {phases[0]["num_seen"]}, {last} % with {num_seen}.',
        ),
        'confusion': (
            f'What {judged} takes test images of each class for, after the '
            'last phase; classes in the order in which they came, with lines '
            f'{lines}. Colours follow the square root of the share.',
            f'Confusion matrix of {judged} over {num_seen} classes; {last} % '
            'of the images lie on the diagonal.',
        ),
        'exemplars': (
            f'The {kind} exemplars in memory after the last phase, as stored, '
            f'best first: {few} in the order in which they came, at most '
            f'{MAX_PER_CLASS} of each.',
            f'Grid of {kind} exemplars, a row for each class, from {names[0]} '
            f'to {names[-1]}.',
        ),
        'learning': (
            'Loss of each stage that has one, a line for each phase.',
            'Line charts of the loss over epochs of training and over outer '
            'steps of learning exemplars.',
        ),
    }


def _times(results: dict[str, Any]) -> str:
    phases = [phase['seconds'] for phase in results['phases']]
    stages = list(dict.fromkeys(n for seconds in phases for n in seconds))
    stages.sort(key='total'.__eq__)  # The total comes last.
    sums = {n: sum(seconds.get(n, 0) for seconds in phases) for n in stages}
    rows = [
        [str(phase['phase']), *(_seconds(phase['seconds'], n) for n in stages)]
        for phase in results['phases']
    ]
    rows.append(['all', *(_seconds(sums, n) for n in stages)])
    whole = sums['total'] or 1
    rows.append(['share', *(f'{percent(sums[n] / whole)} %' for n in stages)])
    return markup.table(['phase', *stages], rows, 'In seconds.')


def _seconds(seconds: dict[str, float], stage: str) -> str:
    return f'{seconds[stage]:.1f}' if stage in seconds else _NOTHING


def _config(config: dict[str, Any]) -> str:
    rows = [
        (field, value if isinstance(value, str) else json.dumps(value))
        for field, value in flatten(config).items()
    ]
    caption = 'As resolved: presets and defaults are filled in.'
    table = markup.table(['field', 'value'], rows, caption, words=True)
    return f'<details>\n<summary>All fields</summary>\n{table}\n</details>'


def _versions(setup: dict[str, Any] | None) -> str:
    if setup is None:
        return markup.note('Unknown: config.json is missing.')
    rows = list(setup.get('versions', {}).items())
    rows += [
        ('commit', setup.get('commit') or 'unknown: not run in a checkout'),
        ('started', setup.get('started', 'unknown')),
    ]
    return markup.table(
        ['what', 'version'], rows, 'What computed it.', words=True
    )
