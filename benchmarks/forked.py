"""Runs commands of the package in forks of one process, and judges their ends.

Importing JAX and the package takes seconds, a fork none. The parent imports
them but touches no device, since a fork of a process with a running JAX would
hang.
"""

import atexit
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# Seconds after which a command counts as hanging.
LIMIT = 120


class End(NamedTuple):
    """How a command ended.

    Attributes:
        status: exit status, minus the signal that ended it, or None for one
            that was still running after its time.
        out: its standard output.
        err: its standard error.
    """

    status: int | None
    out: str
    err: str

    @property
    def hung(self) -> bool:
        """Whether it was still running after its time."""
        return self.status is None

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err

    @property
    def dumped(self) -> bool:
        """Whether it ended by a signal or printed a stack."""
        stacks = ('Traceback (most recent', 'stack trace', 'Fatal Python')
        by_signal = self.status is not None and self.status < 0
        return by_signal or any(stack in self.text for stack in stacks)

    @property
    def refused(self) -> bool:
        """Whether it failed with one line, as it is to."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith('error: ')]
        return bool(self.status) and len(errors) == 1 and not self.dumped


class Fork:
    """A command that runs in a fork; ended and waited for like a `Popen`.

    Attributes:
        pid: its number.
        returncode: exit status, minus the signal that ended it; None before.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        scratch: pathlib.Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts `python -m MODULE ARGUMENTS`.

        Args:
            module: the module.
            arguments: its command line.
            scratch: a folder for what it prints.
            environment: additional environment variables.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        self._files = [scratch / 'stdout', scratch / 'stderr']
        for path in self._files:
            path.write_text('')
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _become(module, arguments, self._files, environment)

    def poll(self) -> int | None:
        """Its `returncode`."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal to it and to what it has started."""
        # Just after the fork it is not yet the leader of a group.
        self.wait_for(lambda: os.getpgid(self.pid) == self.pid)
        if self.poll() is None:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends it and what it has started."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        """Waits for its end; what it printed, all in the first.

        Raises:
            TimeoutExpired: it was still running, and is ended.
        """
        end = self.end(timeout)
        if end.hung:
            raise subprocess.TimeoutExpired('a fork', timeout, end.text)
        return end.text, ''

    def end(self, limit: float = LIMIT) -> End:
        """Waits for its end, at most `limit` seconds."""
        deadline = time.monotonic() + limit
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        hung = self.poll() is None
        if hung:
            self.kill()
            while self.poll() is None:
                time.sleep(0.02)
        texts = [path.read_text(errors='replace') for path in self._files]
        return End(None if hung else self.returncode, *texts)

    def wait_for(self, holds: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Waits until something holds; false if it ends or takes longer."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if self.poll() is not None:
                return False
            if holds():
                return True
            time.sleep(0.01)
        return False

    def printed(self, text: str) -> bool:
        """Whether it has printed a text."""
        return any(
            text in path.read_text(errors='replace') for path in self._files
        )


def run(
    module: str,
    arguments: Sequence[str],
    scratch: pathlib.Path,
    limit: float = LIMIT,
    **more: Mapping,
) -> End:
    """Runs a command to its end; see `Fork`."""
    return Fork(module, arguments, scratch, **more).end(limit)


def warm_up() -> None:
    """Imports what all commands import."""
    # Imported late, so that the environment can be set before.
    import importlib

    names = (
        'jax',
        'jax.numpy',
        'orbax.checkpoint',
        'optax',
        'sklearn.manifold',
        'matplotlib.figure',
        'mnemonics_jax.experiment',
        'mnemonics_jax.report.command',
        'mnemonics_jax.plan.request',
    )
    for name in names:
        importlib.import_module(name)


def _become(
    module: str,
    arguments: Sequence[str],
    files: Sequence[pathlib.Path],
    environment: Mapping[str, str] | None,
) -> None:
    """In the fork: becomes the command; never returns."""
    status = 70
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, path in enumerate(files, 1):
            where = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(where, number)
        os.environ.update(environment or {})
        _tell_jax(environment or {})
        sys.argv = [module, *arguments]
        sys.orig_argv = ['python', '-m', *sys.argv]
        status = _call(module)
    finally:
        os._exit(status)


def _tell_jax(environment: Mapping[str, str]) -> None:
    """Sets what JAX has read from the environment when it was imported."""
    import jax

    for name in (n.lower() for n in environment if n.startswith('JAX_')):
        value = environment[name.upper()]
        is_bool = isinstance(getattr(jax.config, name, None), bool)
        jax.config.update(name, value == '1' if is_bool else value)


def _call(module: str) -> int:
    """Runs the module as Python would; returns the exit status."""
    status = 0
    try:
        runpy.run_module(module, run_name='__main__', alter_sys=True)
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status & 0xFF
