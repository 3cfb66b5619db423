"""Tests of mnemonics_jax.core.cli."""

import pathlib
import subprocess
import sys

import pytest

from mnemonics_jax.core import cli

ROOT = pathlib.Path(cli.__file__).parent.parent
MUCH = """
from mnemonics_jax.core import cli
cli.answer(lambda: print('x' * 10**6, flush=True))
"""


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (ValueError('a=1:\n  allowed: 2'), 'error: a=1: allowed: 2'),
        (
            PermissionError(13, 'Permission denied', 'a/b'),
            'error: a/b: Permission denied',
        ),
        (OSError('no room'), 'error: no room'),
    ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, error, line):
    monkeypatch.setattr(cli, 'quieten', lambda: None)

    def command():
        raise error

    with pytest.raises(SystemExit) as left:
        cli.answer(command)
    assert left.value.code == 2
    assert capsys.readouterr().err == line + '\n'


def test_a_reader_that_has_seen_enough_is_no_mistake():
    process = subprocess.Popen(
        [sys.executable, '-c', MUCH],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(3) == b'xxx'
    process.stdout.close()
    assert process.stderr.read() == b''
    process.stderr.close()
    assert process.wait() == 0
