"""Tables of the report as files for spreadsheets (CSV) and papers (LaTeX)."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from mnemonics_jax.report import by_phase, groups, overview
from mnemonics_jax.report.charts import classifiers
from mnemonics_jax.report.groups import Group
from mnemonics_jax.report.tables import MEASURES, Table, values

Cell = str | float | None

# With these a spreadsheet begins a formula.
_FORMULA = ('=', '+', '-', '@', '\t', '\r')
# What LaTeX would not print as it is. A bracket or star at the beginning of a
# row would be an argument of the line break before it.
_LATEX = {
    '\\': r'\textbackslash{}',
    '{': r'\{',
    '}': r'\}',
    '&': r'\&',
    '%': r'\%',
    '$': r'\$',
    '#': r'\#',
    '_': r'\_',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '[': '{[}',
    '*': '{*}',
    '\u00b1': r'$\pm$',
    '\u2212': '$-$',
    '\u2013': '--',
}


def written(grouped: Sequence[Group]) -> dict[str, str]:
    """The files of a page by name; none if no run has results."""
    done = [group for group in grouped if group.first.phases]
    if not done:
        return {}
    return {
        'summary.csv': summary_csv(done),
        'summary.tex': as_latex(overview.table(done)),
        'phases.csv': as_csv(by_phase.HEAD, by_phase.rows(done)),
    }


def summary_csv(grouped: Sequence[Group]) -> str:
    """A row for each group and classifier, with all measures as fractions.

    Deviations of one run and unknown values are empty.
    """
    keys = [measure.key for measure in MEASURES]
    head = ['run', 'exemplars', 'classifier', 'evaluated_by', 'n', 'seeds']
    head += [f'{key}_{part}' for key in keys for part in ('mean', 'sd')]
    rows = []
    for group in grouped:
        first = group.first
        for name in classifiers(group.runs):
            row: list[Cell] = [group.name, first.strategy, name]
            row.append('yes' if name == first.results['predictor'] else 'no')
            row += [len(group.runs), ' '.join(map(str, group.seeds))]
            for key in keys:
                row += groups.summary(values(group, key, name))
            rows.append(row)
    return as_csv(head, rows)


def as_csv(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Rows as CSV; a text that a spreadsheet would compute gets a quote."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(head)
    writer.writerows([_plain(cell) for cell in row] for row in rows)
    return text.getvalue()


def _plain(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA) else cell
    return None if cell is None or math.isnan(cell) else cell


def as_latex(table: Table) -> str:
    """A table as a `tabular`, which needs no package; its caption on top."""
    texts = [[_escaped(cell) for cell in row] for row in table.rows]
    for row, column in table.best:
        texts[row][column] = rf'\textbf{{{texts[row][column]}}}'
    columns = 'l' + ('l' if table.words else 'r') * (len(table.head) - 1)
    head = ' & '.join(map(_escaped, table.head))
    return '\n'.join(
        [
            f'% {" ".join(table.caption.split())}',
            rf'\begin{{tabular}}{{{columns}}}',
            r'\hline',
            rf'{head} \\',
            r'\hline',
            *(rf'{" & ".join(row)} \\' for row in texts),
            r'\hline',
            r'\end{tabular}',
            '',
        ]
    )


def _escaped(text: str) -> str:
    """Text as LaTeX prints it, in one line without control characters."""
    shown = (_LATEX.get(c, c) if c.isprintable() else ' ' for c in text)
    return ' '.join(''.join(shown).split())
