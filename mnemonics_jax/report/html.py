"""HTML building blocks: a document, its sections, tables and pictures.

Everything that is passed as text is escaped here; `body` is HTML already.
"""

import base64
import html
import struct
from collections.abc import Mapping, Sequence
from typing import Any

# Pixels of the page for one of a chart, which is drawn finer than shown; and
# the width at which a chart is still legible.
_CHART_SCALE = 0.66
_NARROW = 640
_TALL = 15  # Rows that a table shows without scrolling.


def document(title: str, body: str, style: str, script: str) -> str:
    """A page that needs nothing beside itself, in ASCII.

    Args:
        title: of the window.
        body: HTML.
        style: CSS.
        script: JavaScript, in ASCII, without the end of a script element.
    """
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
    # References, not UTF-8: right whatever encoding the file is written in.
    return page.encode('ascii', 'xmlcharrefreplace').decode()


def escape(value: Any) -> str:
    """Text as HTML, quotes included."""
    return html.escape(str(value))


def note(text: str) -> str:
    """A paragraph that stands out."""
    return f'<p class="note">{escape(text)}</p>'


def section(name: str, title: str, body: str) -> str:
    """A section; `name` is what a link within the page says."""
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(title)}'
        f'</h2>\n{body}\n</section>'
    )


def _row(cells: Sequence[str], first: str, rest: str, judged: int) -> str:
    """A row of a table, of cells of these tags."""
    found = []
    for i, content in enumerate(cells):
        tag = rest if i else first
        mark = ' class="judged"' if i == judged else ''
        found.append(
            f'<{tag}{mark}>{escape(content)}</{tag.partition(" ")[0]}>'
        )
    return f'<tr>{"".join(found)}</tr>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    *,
    judged: int = -1,
    words: bool = False,
    name: str = '',
) -> str:
    """A table whose first column heads its rows.

    Args:
        head: titles of the columns.
        rows: cells.
        caption: shown below, where it does not scroll with the table.
        judged: the column to emphasise.
        words: cells are words and not numbers.
        name: by which a script finds it.
    """
    titles = _row(head, 'th scope="col"', 'th scope="col"', judged)
    lines = [_row(row, 'th scope="row"', 'td', judged) for row in rows]
    body = '\n'.join(lines)
    kind = ' class="words"' if words else ''
    kind += f' id="{name}"' if name else ''
    # Scrolls by itself where a phone is narrower, by keyboard as well.
    tall = ' tall' if len(rows) > _TALL else ''
    return (
        f'<div class="wide{tall}" role="group" tabindex="0" '
        f'aria-label="Scrollable table">\n<table{kind}>\n'
        f'<thead>\n{titles}\n</thead>\n'
        f'<tbody>\n{body}\n</tbody>\n</table>\n</div>\n'
        f'<p class="soft">{escape(caption)}</p>'
    )


def keys(items: Mapping[str, str]) -> str:
    """Names and values, the values large."""
    body = '\n'.join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value in items.items()
    )
    return f'<dl class="keys">\n{body}\n</dl>'


def contents(sections: Sequence[Sequence[str]]) -> str:
    """Links to sections, given as names and titles."""
    links = ''.join(
        f'<a href="#{name}">{escape(title)}</a>\n' for name, title in sections
    )
    return f'<nav aria-label="Sections">\n{links}</nav>'


def details(title: str, body: str) -> str:
    """What is shown on demand; nothing where there is nothing."""
    if not body:
        return ''
    return f'<details>\n<summary>{escape(title)}</summary>\n{body}\n</details>'


def picture(png: bytes, caption: str, alt: str, *, chart: bool) -> str:
    """A figure; in the dark a `chart` is shown with light and dark swapped.

    A wide one scrolls by itself on a phone, where it could not be read.
    """
    kind = ' class="chart"' if chart else ''
    width, height = struct.unpack('>II', png[16:24])
    shown = round(width * (_CHART_SCALE if chart else 1))
    style = f'width:100%;max-width:{shown}px'
    if shown > _NARROW and chart:
        style += f';min-width:{_NARROW}px'
    data = base64.b64encode(png).decode()
    image = (
        f'<img{kind} alt="{escape(alt)}" width="{width}" height="{height}" '
        f'style="{style}" src="data:image/png;base64,{data}">'
    )
    if shown > _NARROW and chart:
        image = (
            '<div class="wide" role="group" tabindex="0" '
            f'aria-label="Scrollable figure">{image}</div>'
        )
    return (
        f'<figure>\n{image}\n<figcaption>{escape(caption)}</figcaption>\n'
        '</figure>'
    )
