"""The page as a whole: its sections in their order."""

import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mnemonics_jax.core.text import counted
from mnemonics_jax.report import (
    charts,
    confusion,
    embedding,
    exemplars,
    html,
    setup,
    tables,
)
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.runs import Run

_STAGES = ('selected', 'learned', 'last', 'difference')


class Gallery(NamedTuple):
    """Pictures of the page and the files that they were written to.

    Attributes:
        pictures: by name.
        pngs: their content, by the same names.
        notes: by section, sentences on what cannot be shown.
    """

    pictures: Mapping[str, Picture]
    pngs: Mapping[str, bytes]
    notes: Mapping[str, Sequence[str]]

    def shown(self, name: str) -> str:
        """A picture with its caption, or nothing."""
        if name not in self.pictures:
            return ''
        _, caption, alt, chart = self.pictures[name]
        return html.picture(self.pngs[name], caption, alt, chart=chart)

    def said(self, section: str) -> str:
        """What a section lacks."""
        return ''.join(map(html.note, self.notes.get(section, ())))


def draw(
    runs: Sequence[Run],
) -> tuple[dict[str, Picture], dict[str, list[str]]]:
    """All pictures by name, and by section what cannot be shown.

    Names of pictures of one run end in its position where there are several.

    Args:
        runs: at least one; without results there are few pictures.
    """
    done = [run for run in runs if run.phases]
    found: dict[str, Picture] = {}
    notes: dict[str, list[str]] = {'exemplars': [], 'space': []}
    several = len(runs) > 1

    def add(name: str, picture: Picture | None) -> None:
        if picture is not None:
            found[name] = picture

    def each(
        listed: Sequence[Run], name: str, make: Callable[[Run], Picture | None]
    ) -> None:
        for i, run in enumerate(listed):
            add(f'{name}_{i}' if several else name, make(run))

    if done:
        add('accuracy', charts.accuracy(done))
        each(done, 'confusion', charts.confusion)
        for i, run in enumerate(done):
            missing: list[str] = []
            ending = f'_{i}' if several else ''
            for stage, picture in exemplars.pictures(run, missing).items():
                found[f'exemplars_{stage}{ending}'] = picture
            prefix = f'{run.name}: ' if several else ''
            notes['exemplars'] += [prefix + text for text in missing]
        add('drift', exemplars.drift(done, notes['exemplars']))
        add('tsne', embedding.tsne(done, notes['space']))
        add('border', embedding.border(done))
    each(runs, 'losses', charts.losses)
    return found, notes


def render(runs: Sequence[Run], lost: Sequence[str], gallery: Gallery) -> str:
    """The page, in ASCII.

    Args:
        runs: at least one.
        lost: sentences on work directories that hold nothing.
        gallery: the pictures.
    """
    sections = [
        (name, title, body)
        for name, title, body in _sections(runs, gallery)
        if body.strip()
    ]
    one = len(runs) == 1
    title = (
        setup.describe_run(runs[0])
        if one
        else f'{counted(len(runs), "run")} compared: '
        f'{", ".join(run.name for run in runs)}'
    )
    body = [
        '<header>',
        f'<h1>{html.escape(title)}</h1>',
        *_lines(runs),
        *map(html.note, [*_notes(runs), *lost]),
        _summary(runs),
        html.contents([section[:2] for section in sections]),
        '</header>',
        '<main>',
        *[html.section(*section) for section in sections],
        '</main>',
    ]
    style, script = map(_file, ('page.css', 'page.js'))
    return html.document(title, '\n'.join(filter(None, body)), style, script)


def _file(name: str) -> str:
    """A file beside this one, without what ends its last line."""
    text = importlib.resources.files(__package__).joinpath(name).read_text()
    return text.rstrip()


def _lines(runs: Sequence[Run]) -> list[str]:
    """What each run was."""
    if len(runs) == 1:
        lines = [setup.describe_setting(runs[0])]
    else:
        alike: dict[str, list[str]] = {}
        for run in runs:
            words = setup.describe_setting(run)
            if words:
                words = f'{setup.describe_method(run)}; {words}'
                alike.setdefault(words, []).append(run.name)
        lines = [
            f'{", ".join(names)}: {words}' if len(alike) > 1 else words
            for words, names in alike.items()
        ]
    return [
        f'<p class="soft">{html.escape(line)}</p>' for line in lines if line
    ]


def _notes(runs: Sequence[Run]) -> list[str]:
    """What is missing, and what happened on the way."""
    several = len(runs) > 1
    return [
        f'{run.name}: {text}' if several else text
        for run in runs
        for text in (*setup.warnings(run), *run.missing)
    ]


def _summary(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return tables.overview(runs)
    return tables.keys(runs[0]) if runs[0].phases else ''


def _sections(
    runs: Sequence[Run], gallery: Gallery
) -> list[tuple[str, str, str]]:
    """Anchors, titles and bodies; a section without a body is left out."""
    done = [run for run in runs if run.phases]
    several = len(runs) > 1
    first = []
    if several:
        first = [('differences', 'What differs', setup.differing(runs))]
    last = [
        ('config', 'Configuration', setup.configuration(runs)),
        ('versions', 'Versions and command', setup.versions(runs)),
    ]
    if not done:
        return [*first, ('losses', 'Losses', _losses(runs, gallery)), *last]
    return [
        *first,
        ('accuracy', 'Accuracy', _accuracy(done, gallery)),
        ('phases', 'Phases', _phases(done)),
        ('averages', 'Averages and forgetting', tables.averages(done)),
        ('confusion', 'Confusion', _confusion(done, gallery)),
        ('exemplars', 'FlatExemplars', _exemplars(done, gallery)),
        ('space', 'Exemplars among images', _space(done, gallery)),
        ('losses', 'Losses', _losses(runs, gallery)),
        ('time', 'Time by stage', tables.times(done)),
        *last,
    ]


def _phases(runs: Sequence[Run]) -> str:
    """The tables of a run; of several one of all, and those on demand."""
    parts = [
        tables.phases(run)
        + '\n<h3>Old and new classes</h3>\n'
        + tables.old_and_new(run)
        for run in runs
    ]
    if len(runs) == 1:
        return parts[0]
    return tables.side_by_side(runs) + '\n'.join(
        html.details(f'All of {run.name}', part)
        for run, part in zip(runs, parts, strict=True)
    )


def _accuracy(runs: Sequence[Run], gallery: Gallery) -> str:
    return gallery.shown('accuracy') + setup.comparison(runs)


def _confusion(runs: Sequence[Run], gallery: Gallery) -> str:
    fallback = '\n'.join(
        gallery.shown(name)
        for name in gallery.pictures
        if name.startswith('confusion')
    )
    return confusion.section(runs, fallback)


def _exemplars(runs: Sequence[Run], gallery: Gallery) -> str:
    several = len(runs) > 1
    parts = []
    for i, run in enumerate(runs):
        strip = ''.join(
            gallery.shown(f'exemplars_{stage}{f"_{i}" * several}')
            for stage in _STAGES
        )
        if strip:
            title = f'<h3>{html.escape(run.name)}</h3>\n' * several
            parts.append(f'{title}<div class="strip">\n{strip}\n</div>')
    if parts:
        parts.append(
            '<p class="soft">A row for each class, best first; of many classes '
            'and exemplars a few.</p>'
        )
    drift = gallery.shown('drift')
    if drift:
        parts.append(f'<h3>Drift</h3>\n{drift}')
    return '\n'.join([*parts, gallery.said('exemplars')])


def _space(runs: Sequence[Run], gallery: Gallery) -> str:
    table = embedding.border_table(runs)
    chart = gallery.shown('border')
    parts = [gallery.shown('tsne'), gallery.said('space')]
    if chart or table:
        parts.append('<h3>How near the border?</h3>')
    if len(runs) == 1:
        parts.append(
            f'<div class="pair">\n<div>{chart}</div>\n<div>{table}</div>'
        )
        parts.append('</div>')
    else:
        parts += [chart, html.details('The medians of each phase', table)]
    return '\n'.join(parts)


def _losses(runs: Sequence[Run], gallery: Gallery) -> str:
    if len(runs) == 1:
        return gallery.shown('losses')
    parts = []
    for i, run in enumerate(runs):
        shown = gallery.shown(f'losses_{i}')
        if shown:
            parts.append(html.details(f'Losses of {run.name}', shown))
    return '\n'.join(parts)
