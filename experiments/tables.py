"""Writes the results of the studies into docs/results.md and the README.

    python -m experiments.tables

replaces the text between two marks in both files by tables of
`experiments/results/*.json`.
"""

import pathlib

from experiments import results_bytes, results_page
from experiments.flags import RESULTS, ROOT

BEGIN = '<!-- experiments:begin -->'
END = '<!-- experiments:end -->'
PAGE = ROOT / 'docs' / 'results.md'
README = ROOT / 'README.md'


def bodies(results: pathlib.Path) -> dict[pathlib.Path, str]:
    """The text between the marks of each file."""
    sections = [table.markdown() for table in results_page.sections(results)]
    return {
        PAGE: '\n\n'.join(sections),
        README: results_bytes.summary(results),
    }


def insert(text: str, body: str) -> str:
    """Replaces the text between the marks by `body`.

    Raises:
        ValueError: a mark is missing.
    """
    head, begun, rest = text.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not (begun and ended):
        raise ValueError(f'the text has no {BEGIN} or no {END}')
    return f'{head}{begun}\n\n{body}\n\n{ended}{tail}'


def main() -> None:
    """Writes both files."""
    for path, body in bodies(RESULTS).items():
        path.write_text(insert(path.read_text(), body))


if __name__ == '__main__':
    main()
