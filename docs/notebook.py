"""Makes docs/tutorial.ipynb from docs/tutorial.py, which has cells `# %%`.

python docs/notebook.py
"""

import json
import pathlib
import re
from typing import Any

SOURCE = pathlib.Path(__file__).with_name('tutorial.py')
_MARK = re.compile(r'^# %%( \[markdown\])?\n', re.MULTILINE)


def notebook(program: str) -> dict[str, Any]:
    """The notebook, without outputs, of a program with cells.

    Args:
        program: text that begins with a cell.
    """
    _, *parts = _MARK.split(program)
    cells = []
    for kind, body in zip(parts[::2], parts[1::2], strict=True):
        text = re.sub(r'^# ?', '', body, flags=re.MULTILINE) if kind else body
        cell: dict[str, Any] = {
            'cell_type': 'markdown' if kind else 'code',
            'id': f'cell-{len(cells)}',
            'metadata': {},
            'source': text.strip('\n').splitlines(keepends=True),
        }
        if not kind:
            cell |= {'execution_count': None, 'outputs': []}
        cells.append(cell)
    return {
        'cells': cells,
        'metadata': {
            'kernelspec': {
                'display_name': 'Python 3',
                'language': 'python',
                'name': 'python3',
            },
            'language_info': {'name': 'python'},
        },
        'nbformat': 4,
        'nbformat_minor': 5,
    }


def as_text(program: str) -> str:
    """The content of the notebook's file."""
    return json.dumps(notebook(program), indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    SOURCE.with_suffix('.ipynb').write_text(as_text(SOURCE.read_text()))
