"""Files and functions stay as short as one can take in."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = (
    'benchmarks',
    'configs',
    'examples',
    'experiments',
    'launch',
    'mnemonics_jax',
)
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob('*')
    if path.suffix in ('.py', '.sh')
)
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def functions(path):
    """Names and lines of a file's functions, without their docstrings.

    These have examples in them, which are to be as long as they need.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                count -= text.end_lineno - text.lineno + 1
            yield node.name, count


def test_the_files_are_found():
    assert len(FILES) > 150
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FOLDERS)
    names = [name for name, _ in functions(pathlib.Path(__file__))]
    assert 'functions' in names


def test_no_file_and_no_function_is_too_long():
    for path in FILES:
        name = path.relative_to(ROOT)
        assert len(path.read_text().splitlines()) <= MOST_LINES, name
        if path.suffix == '.py':
            for function, count in functions(path):
                assert count <= MOST_LINES_OF_A_FUNCTION, (name, function)
