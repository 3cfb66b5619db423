"""The tutorial runs to its end, and its notebook is made from it."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import compiling
import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / 'docs'


def load_maker():
    spec = importlib.util.spec_from_file_location(
        'notebook', DOCS / 'notebook.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_made_from_the_program():
    made = load_maker().as_text((DOCS / 'tutorial.py').read_text())
    assert (DOCS / 'tutorial.ipynb').read_text() == made, (
        'run python docs/notebook.py'
    )


def test_cells_of_the_notebook_hold_every_line_of_the_program():
    content = json.loads((DOCS / 'tutorial.ipynb').read_text())
    assert (content['nbformat'], content['nbformat_minor']) == (4, 5)
    ids = [cell['id'] for cell in content['cells']]
    assert len(set(ids)) == len(ids) > 10
    lines = []
    for cell in content['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            compile(text, cell['id'], 'exec')
            assert (cell['outputs'], cell['execution_count']) == ([], None)
            lines += text.splitlines()
        else:
            assert set(cell) == {'cell_type', 'id', 'metadata', 'source'}
            lines += [f'# {line}'.rstrip() for line in text.splitlines()]
    program = (DOCS / 'tutorial.py').read_text().splitlines()
    expected = [line for line in program if not line.startswith('# %%')]
    assert list(filter(None, lines)) == list(filter(None, expected))


def test_links_of_the_tutorial_lead_to_pages():
    links = re.findall(r'\]\((.*?)\)', (DOCS / 'tutorial.py').read_text())
    assert len(links) == 3
    assert all((DOCS / link).is_file() for link in links)


@pytest.mark.slow
def test_the_tutorial_runs_to_its_end_and_draws_its_figures(tmp_path):
    done = subprocess.run(
        [sys.executable, 'docs/tutorial.py'],
        cwd=ROOT,
        env=compiling.one_device(
            PYTHONPATH=str(ROOT),
            MPLBACKEND='Agg',
            TUTORIAL_SHORT='1',
            TUTORIAL_FIGURES=str(tmp_path),
        ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    found = re.findall(
        r'^(first images|herded|learned) +([\d.]+)', done.stdout, re.MULTILINE
    )
    assert [name for name, _ in found] == ['first images', 'herded', 'learned']
    # Chance is 10 %.
    assert all(30 < float(share) <= 100 for _, share in found)
    assert {path.stem for path in tmp_path.iterdir()} == {
        'loss',
        'pixels',
        'borders',
    }
    for path in tmp_path.iterdir():
        with PIL.Image.open(path) as picture:
            assert len(picture.convert('RGB').getcolors(10**6)) > 20
