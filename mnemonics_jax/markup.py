"""HTML building blocks: a document, its sections, tables and pictures.

Everything that is passed as text is escaped here; `body` is HTML already.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2025; --soft: #59616b;
  --line: #dfe3e8; --page: #fff; --card: #f5f7f9; --accent: #0063a0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a0a8b2; --line: #343a42; --page: #15181c;
    --card: #1e2227; --accent: #6db8ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 54rem;
  color: var(--ink); background: var(--page);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; }
p { margin: .5rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.note { border-left: 4px solid #d55e00; background: var(--card);
  margin: 1rem 0; padding: .5rem .9rem; }
.keys { display: grid; gap: .75rem; margin: 1.25rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.keys div { background: var(--card); border-radius: .5rem;
  padding: .75rem .9rem; }
dt { color: var(--soft); font-size: .85rem; line-height: 1.3; }
dd { margin: .2rem 0 0; font-size: 1.4rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 500;
  min-width: 3.9rem; overflow-wrap: normal; line-height: 1.3; }
tbody th { font-weight: 500; white-space: nowrap; }
td { white-space: nowrap; }
th:first-child, .words th, .words td { text-align: left; }
.words td { white-space: normal; }
.judged { color: var(--accent); font-weight: 700; }
figure { margin: 0; }
figure + figure { margin-top: 2rem; }
img { display: block; max-width: min(100%, 40rem); height: auto;
  margin: 0 auto .5rem; background: #fff; border-radius: .5rem; }
summary { cursor: pointer; color: var(--accent); }
details .wide { margin-top: .75rem; }
@media (prefers-color-scheme: dark) {
  img.chart { filter: invert(.91) hue-rotate(180deg); } }
"""


def document(title: str, body: str) -> str:
    """A page that needs nothing beside itself, in ASCII."""
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
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


def _cell(tag: str, content: str, judged: bool) -> str:
    mark = ' class="judged"' if judged else ''
    return f'<{tag}{mark}>{escape(content)}</{tag.split()[0]}>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    *,
    judged: int = -1,
    words: bool = False,
) -> str:
    """A table whose first column heads its rows.

    Args:
        head: titles of the columns.
        rows: cells.
        caption: shown below, where it does not scroll with the table.
        judged: the column to emphasise.
        words: cells are words and not numbers.
    """
    titles = ''.join(
        _cell('th scope="col"', title, i == judged)
        for i, title in enumerate(head)
    )
    lines = [
        ''.join(
            _cell('td' if i else 'th scope="row"', cell, i == judged)
            for i, cell in enumerate(row)
        )
        for row in rows
    ]
    body = '\n'.join(f'<tr>{line}</tr>' for line in lines)
    kind = ' class="words"' if words else ''
    # Scrolls by itself where a phone is narrower, by keyboard as well.
    return (
        '<div class="wide" role="group" tabindex="0" '
        f'aria-label="Scrollable table">\n<table{kind}>\n'
        f'<thead>\n<tr>{titles}</tr>\n</thead>\n'
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


def picture(png: bytes, caption: str, alt: str, *, chart: bool) -> str:
    """A figure; in the dark a `chart` is shown with light and dark swapped."""
    kind = ' class="chart"' if chart else ''
    data = base64.b64encode(png).decode()
    return (
        f'<figure>\n<img{kind} alt="{escape(alt)}" '
        f'src="data:image/png;base64,{data}">\n'
        f'<figcaption>{escape(caption)}</figcaption>\n</figure>'
    )
