"""The commands, in this process or in one of their own; how they refuse."""

import contextlib
import io
import pathlib
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import compiling

ROOT = pathlib.Path(__file__).parent.parent


def call(command: Callable[[], object]) -> subprocess.CompletedProcess:
    """Calls a command in this process, which it leaves as loud as before."""
    from mnemonics_jax.core import cli

    code, out, err = 0, io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(cli, 'quieten'),
    ):
        try:
            command()
        except SystemExit as e:
            code = e.code
    return subprocess.CompletedProcess(
        [], code or 0, out.getvalue(), err.getvalue()
    )


def call_main(*arguments: object) -> subprocess.CompletedProcess:
    """Calls `mnemonics_jax.main` in this process, on one device."""
    import jax
    from absl import flags
    from absl.testing import flagsaver

    from mnemonics_jax import main
    from mnemonics_jax.core import parallel

    argv = ['main', *map(str, arguments)]
    placement = parallel.make_placement(jax.devices()[:1])

    def command():
        # Without what other tests of this process have parsed.
        for flag in flags.FLAGS.get_key_flags_for_module(main):
            flag.unparse()
        main.parse(argv)
        main.main([])

    with (
        flagsaver.flagsaver(),
        contextlib.chdir(ROOT),
        # The flag of the configuration reads its fields from there.
        mock.patch.object(sys, 'argv', argv),
        mock.patch.object(parallel, 'make_placement', return_value=placement),
        mock.patch.object(parallel, 'avoid_cached_collectives'),
    ):
        return call(command)


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One line on stderr with these words in it, and exit status 2."""
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith('error: ')
    for word in words:
        assert word in lines[0]
    assert 'Traceback' not in done.stderr + done.stdout


def run_module(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a command of the package in a process of its own, on one device."""
    return subprocess.run(
        [sys.executable, '-m', f'mnemonics_jax.{name}', *map(str, arguments)],
        cwd=ROOT,
        env=compiling.one_device(),
        capture_output=True,
        text=True,
        timeout=300,
    )
