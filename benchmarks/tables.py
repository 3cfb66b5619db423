"""Figures of the benchmarks as tables, for the terminal and the documentation.

    python benchmarks/tables.py

writes the tables of the results that there are into docs/measurements.md,
between the lines that say so.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
PAGE = ROOT / 'docs' / 'measurements.md'
HOLDS = {True: 'yes', False: 'no', None: ''}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def work_table(report: Mapping[str, Any]) -> str:
    """Seconds of ours and of the peer, and their ratio."""
    rows = [
        [
            row['work'],
            seconds(row['ours']),
            seconds(row['peer']),
            '' if row['ratio'] is None else f'{row["ratio"]:.2f}',
        ]
        for part in report['parts'].values()
        for row in part['rows']
    ]
    return markdown(('work', 'ours', 'PyTorch', 'ratio'), rows)


def seconds(value: float | None) -> str:
    """Three figures with a unit; empty for None."""
    if value is None:
        return ''
    if value < 1:
        return f'{1000 * value:.3g} ms'
    return f'{value:.3g} s'


def target_table(report: Mapping[str, Any]) -> str:
    """What was aimed at, measured, and whether it holds."""
    rows = [
        [row['target'], row['measured'], HOLDS[row['holds']]]
        for row in report['targets']
    ]
    return markdown(('target', 'measured', 'holds'), rows)


def remarks(report: Mapping[str, Any]) -> str:
    """One paragraph: on what, how busy, what was compiled, what is missing."""
    found = report['versions']['device']
    before, after = report['load_average']
    command = f'`{report["command"]}`'
    texts = [
        f'{command}: {report["cores"]} cores, {found}, load average '
        f'{before:.1f} before '
        f'and {after:.1f} after.'
    ]
    counts = report['parts'].get('run', {}).get('compilations', {})
    texts += [
        f'Programs of the run with a {kind} cache: {count["compilations"]}, '
        f'{count["loaded"]} of them loaded.'
        for kind, count in counts.items()
    ]
    if report['no_peers']:
        texts.append(f'{report["no_peers"]}.')
    for title in ('failed', 'skipped'):
        for part, reason in report[title].items():
            texts.append(f'{title.capitalize()}: {part} ({reason}).')
    return ' '.join(texts)


def section(report: Mapping[str, Any]) -> str:
    """All of a device, as it stands on the page."""
    return '\n\n'.join(
        [remarks(report), work_table(report), target_table(report)]
    )


def begin(name: str) -> str:
    """The line before what is generated from `<name>.json`."""
    return f'<!-- begin benchmarks/results/{name}.json -->'


def end(name: str) -> str:
    """The line after it."""
    return f'<!-- end benchmarks/results/{name}.json -->'


def insert(text: str, name: str, body: str) -> str:
    """The text with what is between the lines of `name` replaced.

    Raises:
        ValueError: the text lacks one of the lines.
    """
    head, found_begin, rest = text.partition(begin(name))
    _, found_end, tail = rest.partition(end(name))
    if not (found_begin and found_end):
        raise ValueError(f'{name}: the text has no lines for it')
    return f'{head}{found_begin}\n{body}\n{found_end}{tail}'


def names() -> list[str]:
    """Results that the page has lines for."""
    text = PAGE.read_text()
    return sorted(
        path.stem for path in RESULTS.glob('*.json') if begin(path.stem) in text
    )


def generated(name: str) -> str:
    """What the page has to show of a file."""
    return section(json.loads((RESULTS / f'{name}.json').read_text()))


def main() -> None:
    """Writes the tables anew."""
    for name in names():
        PAGE.write_text(insert(PAGE.read_text(), name, generated(name)))


if __name__ == '__main__':
    main()
