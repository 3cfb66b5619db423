"""The page: its pictures, and the data that fill `templates/page.html`."""

import base64
import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from mnemonics_jax.report import (
    by_phase,
    charts,
    confusion,
    embedding,
    exemplars,
    groups,
    overview,
    setup,
    tables,
)
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.groups import Group
from mnemonics_jax.report.runs import Run

# CSS pixels of the page per pixel of a chart, which is drawn finer than shown;
# and the least width in CSS pixels at which a chart is legible.
_CHART_SCALE = 0.66
_LEGIBLE = 640


def draw(
    runs: Sequence[Run],
) -> tuple[dict[str, Picture], dict[str, list[str]]]:
    """All pictures by name, and by section notes on what cannot be shown.

    Args:
        runs: at least one run; one without results has few pictures.
    """
    grouped = groups.collect([run for run in runs if run.phases])
    notes: dict[str, list[str]] = {'exemplars': [], 'features': []}
    found: dict[str, Picture | None] = {}
    for run, suffix in zip(runs, _suffixes(runs), strict=True):
        found[f'losses{suffix}'] = charts.losses(run)
        if not run.phases:
            continue
        found[f'confusion{suffix}'] = charts.confusion(run)
        missing: list[str] = []
        for stage, picture in exemplars.pictures(run, missing).items():
            found[f'exemplars_{stage}{suffix}'] = picture
        prefix = f'{run.name}: ' if suffix else ''
        notes['exemplars'] += [prefix + text for text in missing]
    if grouped:
        found['accuracy'] = charts.accuracy(grouped)
        found['phases'] = by_phase.picture(grouped)
        firsts = [group.first for group in grouped]
        if groups.averaged(grouped):
            done = [run for group in grouped for run in group.runs]
            found['accuracy_runs'] = charts.accuracy(groups.alone(done))
            names = ', '.join(run.name for run in firsts)
            for section, what in (('exemplars', 'Drift'), ('features', 'Here')):
                notes[section].append(
                    f'{what}: of runs that differ in their seed alone, the '
                    f'first is shown: {names}.'
                )
        found['drift'] = exemplars.drift(firsts, notes['exemplars'])
        found['tsne'] = embedding.tsne(firsts, notes['features'])
        found['border'] = embedding.border(firsts, notes['features'])
    return {n: p for n, p in found.items() if p is not None}, notes


def _suffixes(runs: Sequence[Run]) -> list[str]:
    """What tells pictures of one run from those of the others."""
    return [f'_{i}' for i in range(len(runs))] if len(runs) > 1 else ['']


def render(
    runs: Sequence[Run],
    lost: Sequence[str],
    pictures: Mapping[str, Picture],
    pngs: Mapping[str, bytes],
    notes: Mapping[str, Sequence[str]],
    files: Mapping[str, str],
) -> str:
    """The page, in ASCII.

    Args:
        runs: at least one run.
        lost: sentences on work directories that hold no run.
        pictures: pictures by name.
        pngs: the same pictures as PNG files.
        notes: by section, sentences on what cannot be shown.
        files: tables as files, by name, which the page holds too.
    """
    several = len(runs) > 1
    grouped = groups.collect(runs)
    averaged = groups.averaged(grouped)
    warnings = [
        f'{run.name}: {text}' if several else text
        for run in runs
        for text in setup.warnings(run)
    ]
    data = {
        'title': setup.headline(grouped),
        'adjusted': setup.adjusted(grouped),
        'settings': setup.settings(grouped),
        'warnings': [*warnings, *lost],
        'several': several,
        'runs': [
            _of_run(run, suffix, pictures)
            for run, suffix in zip(runs, _suffixes(runs), strict=True)
        ],
        'pictures': {n: _shown(p, pngs[n]) for n, p in pictures.items()},
        'notes': notes,
        'files': {name: _as_link(name, text) for name, text in files.items()},
        'differences': setup.differing(grouped),
        'versions': setup.versions(runs),
        'overview': overview.table(grouped),
        'single': overview.table(groups.alone(runs)) if averaged else None,
        'first': {group.first.name for group in grouped},
        **_results([group for group in grouped if group.first.phases]),
    }
    text = _template().render(page=data)
    # References, not UTF-8: correct in any encoding that a reader assumes.
    return text.encode('ascii', 'xmlcharrefreplace').decode()


def _as_link(name: str, text: str) -> str:
    """A file as an address, so that the page needs nothing beside itself."""
    kind = 'text/csv' if name.endswith('.csv') else 'text/x-tex'
    data = base64.b64encode(text.encode()).decode()
    return f'data:{kind};charset=utf-8;base64,{data}'


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies['json.dumps_kwargs'] = {'separators': (',', ':')}
    return environment.get_template('page.html')


def _of_run(
    run: Run, suffix: str, pictures: Mapping[str, Picture]
) -> dict[str, Any]:
    """What the sections have of one run each."""
    stages = [f'exemplars_{stage}{suffix}' for stage in exemplars.STAGES]
    return {
        'name': run.name,
        'suffix': suffix,
        'fields': setup.fields(run),
        'stages': [name for name in stages if name in pictures],
        'phases': tables.phases(run) if run.phases else None,
        'old_and_new': tables.old_and_new(run) if run.phases else None,
    }


def _results(grouped: Sequence[Group]) -> dict[str, Any]:
    """The data of all runs with results; without any, no section uses them."""
    if not grouped:
        return {'done': False}
    done = [run for group in grouped for run in group.runs]
    matrices, left_out = confusion.collect(done)
    alone = groups.alone(done) if groups.averaged(grouped) else []
    return {
        'done': True,
        'key_numbers': tables.key_numbers(done[0]),
        'protocol': setup.protocol_of_the_paper(done),
        'compared': overview.compared(grouped),
        'side_by_side': tables.side_by_side(grouped),
        'averages': tables.averages(grouped),
        'single_averages': tables.averages(alone) if alone else None,
        'measures': tables.known_measures(done),
        'matrices': matrices,
        'left_out': left_out,
        'pairs': confusion.pairs(done[0]),
        'border': embedding.border_table(done),
        'times': tables.times(done),
    }


def _shown(picture: Picture, png: bytes) -> dict[str, Any]:
    """A picture as the template shows it, with its sizes in pixels."""
    width, height = struct.unpack('>II', png[16:24])
    shown = round(width * (_CHART_SCALE if picture.chart else 1))
    return {
        'caption': picture.caption,
        'alt': picture.alt,
        'chart': picture.chart,
        'png': base64.b64encode(png).decode(),
        'width': width,
        'height': height,
        'shown': shown,
        'legible': _LEGIBLE if picture.chart and shown > _LEGIBLE else None,
    }
