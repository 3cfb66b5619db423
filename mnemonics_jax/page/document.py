"""The page as a whole: its sections in their order."""

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mnemonics_jax import markup
from mnemonics_jax.core.text import counted
from mnemonics_jax.page import matrices, setting, spaces, tables
from mnemonics_jax.page.pictures import Picture
from mnemonics_jax.runs import Run

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
        return markup.picture(self.pngs[name], caption, alt, chart=chart)

    def said(self, section: str) -> str:
        """What a section lacks."""
        return ''.join(map(markup.note, self.notes.get(section, ())))


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
        setting.describe_run(runs[0])
        if one
        else f'{counted(len(runs), "run")} compared: '
        f'{", ".join(run.name for run in runs)}'
    )
    body = [
        '<header>',
        f'<h1>{markup.escape(title)}</h1>',
        *_lines(runs),
        *map(markup.note, [*_notes(runs), *lost]),
        _summary(runs),
        markup.contents([section[:2] for section in sections]),
        '</header>',
        '<main>',
        *[markup.section(*section) for section in sections],
        '</main>',
    ]
    style, script = map(_file, ('page.css', 'page.js'))
    return markup.document(title, '\n'.join(filter(None, body)), style, script)


def _file(name: str) -> str:
    """A file beside this one, without what ends its last line."""
    text = importlib.resources.files(__package__).joinpath(name).read_text()
    return text.rstrip()


def _lines(runs: Sequence[Run]) -> list[str]:
    """What each run was."""
    if len(runs) == 1:
        lines = [setting.describe_setting(runs[0])]
    else:
        alike: dict[str, list[str]] = {}
        for run in runs:
            words = setting.describe_setting(run)
            if words:
                words = f'{setting.describe_method(run)}; {words}'
                alike.setdefault(words, []).append(run.name)
        lines = [
            f'{", ".join(names)}: {words}' if len(alike) > 1 else words
            for words, names in alike.items()
        ]
    return [
        f'<p class="soft">{markup.escape(line)}</p>' for line in lines if line
    ]


def _notes(runs: Sequence[Run]) -> list[str]:
    """What is missing, and what happened on the way."""
    several = len(runs) > 1
    return [
        f'{run.name}: {text}' if several else text
        for run in runs
        for text in (*setting.warnings(run), *run.missing)
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
        first = [('differences', 'What differs', setting.differing(runs))]
    last = [
        ('config', 'Configuration', setting.configuration(runs)),
        ('versions', 'Versions and command', setting.versions(runs)),
    ]
    if not done:
        return [*first, ('losses', 'Losses', _losses(runs, gallery)), *last]
    return [
        *first,
        ('accuracy', 'Accuracy', _accuracy(done, gallery)),
        ('phases', 'Phases', _phases(done)),
        ('averages', 'Averages and forgetting', tables.averages(done)),
        ('confusion', 'Confusion', _confusion(done, gallery)),
        ('exemplars', 'Exemplars', _exemplars(done, gallery)),
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
        markup.details(f'All of {run.name}', part)
        for run, part in zip(runs, parts, strict=True)
    )


def _accuracy(runs: Sequence[Run], gallery: Gallery) -> str:
    return gallery.shown('accuracy') + setting.comparison(runs)


def _confusion(runs: Sequence[Run], gallery: Gallery) -> str:
    fallback = '\n'.join(
        gallery.shown(name)
        for name in gallery.pictures
        if name.startswith('confusion')
    )
    return matrices.section(runs, fallback)


def _exemplars(runs: Sequence[Run], gallery: Gallery) -> str:
    several = len(runs) > 1
    parts = []
    for i, run in enumerate(runs):
        strip = ''.join(
            gallery.shown(f'exemplars_{stage}{f"_{i}" * several}')
            for stage in _STAGES
        )
        if strip:
            title = f'<h3>{markup.escape(run.name)}</h3>\n' * several
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
    table = spaces.border_table(runs)
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
        parts += [chart, markup.details('The medians of each phase', table)]
    return '\n'.join(parts)


def _losses(runs: Sequence[Run], gallery: Gallery) -> str:
    if len(runs) == 1:
        return gallery.shown('losses')
    parts = []
    for i, run in enumerate(runs):
        shown = gallery.shown(f'losses_{i}')
        if shown:
            parts.append(markup.details(f'Losses of {run.name}', shown))
    return '\n'.join(parts)
