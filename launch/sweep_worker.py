"""The processes that the runs of a sweep happen in.

A run is a process of its own, or one of many in a process that this file is the
program of: imports and JAX's start are then paid for once. That program is told
of a run by a line on standard input, a JSON object with the 'command' and the
'log' for all output, and answers with the exit status that the command has.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any, TextIO


class Processes:
    """Starts processes for the threads of a sweep, and ends them."""

    def __init__(self, environment: dict[str, str], *, shared: bool) -> None:
        """Starts none yet.

        Args:
            environment: of the processes.
            shared: whether the runs of a thread share a process.
        """
        self._environment, self._shared = environment, shared
        self._live: set[subprocess.Popen] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._own = threading.local()

    def run(self, command: Sequence[str], log: pathlib.Path) -> int:
        """Does a run to its end and returns its exit status.

        Args:
            command: the run as a process of its own.
            log: where its output is added to.
        """
        if self._shared:
            return self._ask({'command': list(command), 'log': str(log)})
        with log.open('ab') as output:
            process = self._start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            return self._wait(process)

    def close(self) -> None:
        """Ends what runs, and lets nothing start from now on."""
        with self._lock:
            self._closed = True
            live = list(self._live)
        for process in live:
            process.terminate()
            # One that is in a run saves it, and then asks for the next.
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in live:
            self._wait(process)

    def _ask(self, job: dict[str, Any]) -> int:
        """Gives a run to this thread's process; starts that if need be."""
        process = getattr(self._own, 'process', None)
        if process not in self._live:
            process = self._own.process = self._start(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        answer = ''
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + '\n')
            answer = process.stdout.readline()
        if answer:
            return int(answer)
        # It died of this run, such as for want of memory.
        return self._wait(process) or 1

    def _start(self, command: Sequence[str], **pipes: Any) -> subprocess.Popen:
        with self._lock:
            if self._closed:
                raise InterruptedError('the sweep is ending')
            process = subprocess.Popen(command, env=self._environment, **pipes)
            self._live.add(process)
            return process

    def _wait(self, process: subprocess.Popen) -> int:
        """Waits until a process has ended and returns its exit status."""
        status = process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            # What it was not there to be told is of no use any more.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        with self._lock:
            self._live.discard(process)
        return status


def load(arguments: Sequence[str]) -> tuple[Any, str]:
    """The configuration and the work directory of a command's flags.

    Raises:
        ValueError: a field or a value is wrong.
    """
    from absl import flags
    from ml_collections import config_flags

    arguments = ['sweep', *arguments]
    # Flags of its own: the global ones would keep those of the run before.
    own = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        'config', flag_values=own, sys_argv=arguments
    )
    workdir = flags.DEFINE_string('workdir', None, '', flag_values=own)
    try:
        own(arguments)
        return config.value, workdir.value
    except (flags.Error, AttributeError, KeyError, TypeError) as e:
        raise ValueError(str(e)) from e


def do(arguments: Sequence[str]) -> int:
    """Does a run and returns its exit status; what fails it is on stderr."""
    # Late, so that a failing import is in the log, too.
    import jax
    from absl import logging

    from mnemonics_jax import experiment

    # Orbax tells of every file it writes, at the level of information.
    logging.set_verbosity(logging.WARNING)
    try:
        config, workdir = load(arguments)
        parts = experiment.prepare(config, workdir)
    except (ValueError, OSError) as e:
        print(f'error: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    experiment.run(parts, workdir)
    # Each run makes functions of its own: programs would pile up in memory.
    jax.clear_caches()
    return 0


def serve(jobs: TextIO, answers: TextIO) -> None:
    """Does the runs that it is told to, until there are no more."""
    for line in jobs:
        job = json.loads(line)
        with open(job['log'], 'ab') as log:
            # By number, for what libraries print that are not Python.
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        flags = [a for a in job['command'] if a.startswith('--')]
        try:
            status = do(flags)
        except Exception:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        print(status, file=answers, flush=True)


if __name__ == '__main__':
    # Ctrl-C on a terminal reaches every process; the sweep ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), 'w') as channel:
        serve(sys.stdin, channel)
