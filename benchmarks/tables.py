"""Tables of benchmark results, for the terminal and the documentation.

    python benchmarks/tables.py

writes the tables of the existing results into docs/measurements.md, between
marker lines.
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
    """Seconds as text with three digits and unit; empty for None."""
    if value is None:
        return ''
    if value < 1:
        return f'{1000 * value:.3g} ms'
    return f'{value:.3g} s'


def target_table(report: Mapping[str, Any]) -> str:
    """Targets, measured values, and whether the targets hold."""
    rows = [
        [row['target'], row['measured'], HOLDS[row['holds']]]
        for row in report['targets']
    ]
    return markdown(('target', 'measured', 'holds'), rows)


def remarks(report: Mapping[str, Any]) -> str:
    """A paragraph on environment, load, compilations and missing parts."""
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
        f'{count["loaded"]} of them loaded, at most '
        f'{count["peak_bytes"] / 1e9:.2f} GB of memory.'
        for kind, count in counts.items()
    ]
    if report['no_peers']:
        texts.append(f'{report["no_peers"]}.')
    for title in ('failed', 'skipped'):
        for part, reason in report[title].items():
            texts.append(f'{title.capitalize()}: {part} ({reason}).')
    return ' '.join(texts)


def section(report: Mapping[str, Any]) -> str:
    """Section of a device on the page."""
    return '\n\n'.join(
        [remarks(report), work_table(report), target_table(report)]
    )


def begin(name: str) -> str:
    """Marker line before the tables of `<name>.json`."""
    return f'<!-- begin benchmarks/results/{name}.json -->'


def end(name: str) -> str:
    """Marker line after them."""
    return f'<!-- end benchmarks/results/{name}.json -->'


def insert(text: str, name: str, body: str) -> str:
    """Replaces the text between the marker lines of `name` by `body`.

    Raises:
        ValueError: a marker line is missing.
    """
    head, found_begin, rest = text.partition(begin(name))
    _, found_end, tail = rest.partition(end(name))
    if not (found_begin and found_end):
        raise ValueError(f'{name}: must have marker lines in the text')
    return f'{head}{found_begin}\n{body}\n{found_end}{tail}'


def names() -> list[str]:
    """Names of results that have marker lines on the page."""
    text = PAGE.read_text()
    return sorted(
        path.stem for path in RESULTS.glob('*.json') if begin(path.stem) in text
    )


def generated(name: str) -> str:
    """The section generated from `<name>.json`."""
    return section(json.loads((RESULTS / f'{name}.json').read_text()))


def main() -> None:
    """Updates the tables on the page."""
    for name in names():
        PAGE.write_text(insert(PAGE.read_text(), name, generated(name)))


if __name__ == '__main__':
    main()
