"""What the system refuses is one line, and has an exit status of its own."""

import contextlib
import errno
import io
import os
import subprocess
import sys

import compiling
import numpy as np
import pytest
from command import ROOT, assert_refused, call
from diverged_test import FIELDS, LOW

from mnemonics_jax import main
from mnemonics_jax.core import cli, dependencies, streams, system_errors

MAIN = f'{sys.executable} -m mnemonics_jax.main'
FLAGS = ' '.join(
    f"'--config.{name}={value}'"
    for name, value in {**FIELDS, 'train.lr': LOW}.items()
)
RUN = f'{MAIN} --workdir={{here}}/run {FLAGS}'
DEVICES = '--xla_force_host_platform_device_count'
# A command for a shell, its exit status and a part of its line.
COMMANDS = {
    f'ulimit -n 16; {RUN}': (71, 'too many open files'),
    f'XLA_FLAGS=--xla_nothing=1 {RUN}': (2, 'Unknown flag in XLA_FLAGS'),
    # Of its reasons XLA does not always give the same one.
    f'XLA_FLAGS=--xla_cpu_enable_fast_math=x {RUN}': (
        2,
        'XLA_FLAGS=--xla_cpu_enable_fast_math=x: must be flags that XLA knows',
    ),
    f'XLA_FLAGS={DEVICES}=0 {RUN}': (2, f'{DEVICES} must be an integer >= 1'),
    f'{RUN} > /dev/full': (74, 'stdout: No space left on device'),
    f'{MAIN} --help > /dev/full': (74, 'stdout: No space left on device'),
}


@pytest.mark.parametrize('text', COMMANDS)
def test_a_command_in_a_bad_place_has_one_line(text, tmp_path):
    status, said = COMMANDS[text]
    done = subprocess.run(
        ['bash', '-c', text.format(here=tmp_path)],
        cwd=ROOT,
        env=compiling.one_device(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    if status == streams.LOST and text.startswith(RUN):
        assert (tmp_path / 'run' / 'results.json').exists()
        assert (tmp_path / 'run' / 'checkpoints' / 'phases' / '1').is_dir()


def caused(error, cause):
    error.__cause__ = cause
    return error


ERRORS = [
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 71, '(ulimit -n)'),
    (ImportError('a.so: Too many open files'), 71, '(ulimit -n)'),
    (caused(RuntimeError(), OSError(errno.ENFILE, '')), 71, '(ulimit -n)'),
    (MemoryError('Unable to allocate 8 TiB'), 71, 'Unable to allocate 8 TiB'),
    (ImportError('failed to map segment from shared object'), 71, '-v'),
    (RuntimeError("can't start new thread"), 71, '(ulimit -u)'),
    (OSError(errno.EIO, 'Input/output error', 'a/b'), 2, 'a/b: Input/output'),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, 'No space left'),
    (UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'bad'), 2, 'not UTF-8'),
    (KeyboardInterrupt(), 130, 'interrupted'),
]


@pytest.mark.parametrize(('error', 'status', 'said'), ERRORS)
def test_an_error_of_the_system_is_one_line(error, status, said):
    def command():
        raise error

    done = call(lambda: cli.answer(command))
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ')
    assert said in line


@pytest.mark.parametrize('error', [KeyError('a'), RuntimeError('b')])
def test_a_defect_keeps_its_traceback(error):
    assert system_errors.explain(error) is None
    with pytest.raises(type(error)), dependencies.explained():
        raise error


def test_in_a_run_files_are_not_taken_for_device_memory():
    words = 'RESOURCE_EXHAUSTED: '
    files = main.explain_late(ValueError(f'{words}Too many open files'), 'run')
    device = main.explain_late(RuntimeError(f'{words}1 byte'), 'run')
    assert files.status == 71
    assert 'ulimit -n' in files.text
    assert device.status == 2
    assert 'device memory' in device.text


def test_what_cannot_be_printed_is_lost_once(monkeypatch):
    output = streams._Output(is_open=False)
    assert output.write(np.zeros(3, np.uint8).data) == 3
    monkeypatch.setattr(
        sys, 'stdout', io.TextIOWrapper(io.BufferedWriter(output))
    )
    print('progress')
    assert streams.lost().startswith('stdout: Bad file descriptor: ')
    with contextlib.redirect_stdout(io.StringIO()):
        assert streams.lost() is None
    done = call(lambda: cli.fail('no'))
    assert_refused(done, 'no')
