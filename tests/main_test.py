"""The command line: a mistake is one line, non-zero, and leaves no trace."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'mnemonics_jax.main', *flags],
        cwd=ROOT,
        env={**os.environ, 'XLA_FLAGS': ''},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith('error: ')
    for word in words:
        assert word in lines[0]
    assert 'Traceback' not in done.stderr + done.stdout


MISTAKES = {
    'misspelt field': (
        ['--config.exemplars.per_clas=5'],
        ['exemplars.per_clas', 'per_class'],
    ),
    'unknown method': (
        ['--config.method.name=lucyr'],
        ['method.name', "'lucyr'", 'finetune', 'icarl', 'lucir'],
    ),
    'negative count': (
        ['--config.exemplars.per_class=-1'],
        ['exemplars.per_class', '-1', '>= 0'],
    ),
    'phases that do not divide': (
        ['--config.protocol.phases=7'],
        ['protocol.phases', '7', '1, 2, 3, 6'],
    ),
    'wrong type': (
        ['--config.train.epochs=many'],
        ['train.epochs', 'many'],
    ),
    'missing config file': (
        ['--config=configs/absent.py'],
        ['configs/absent.py'],
    ),
    'flag without dashes': (['seed=3'], ['seed=3', '--']),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line(name, tmp_path):
    flags, words = MISTAKES[name]
    workdir = tmp_path / 'run'
    defaults = ['--config=configs/digits.py', f'--workdir={workdir}']
    assert_refused(run(*defaults, *flags), *words)
    assert not workdir.exists()


def test_missing_workdir_is_one_line():
    assert_refused(run('--config=configs/digits.py'), '--workdir')


def test_unwritable_workdir_is_one_line(tmp_path):
    # Permissions do not stop the superuser; a file in the way stops anyone.
    (tmp_path / 'file').write_text('in the way')
    workdir = tmp_path / 'file' / 'run'
    done = run('--config=configs/digits.py', f'--workdir={workdir}')
    assert_refused(done, '--workdir', str(workdir), 'can be written')
