"""The processes that do the runs of a sweep.

A run has its own process, or shares one with others, which saves imports and
the start of JAX. This file is the program of a shared process: for each line on
standard input, a JSON object with the 'command' and the 'log' for its output,
it does the run and prints the exit status.
"""

import contextlib
import itertools
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


def device_variables(index: int) -> dict[str, str]:
    """Environment variables that leave a process one accelerator.

    Args:
        index: index of a GPU or of a TPU chip of this machine. Such a chip is a
            slice of its own: the process looks for no others.
    """
    return {
        'CUDA_VISIBLE_DEVICES': str(index),
        'TPU_VISIBLE_CHIPS': str(index),
        'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
        'TPU_PROCESS_BOUNDS': '1,1,1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_WORKER_ID': '0',
    }


class Processes:
    """Starts and ends the processes for the threads of a sweep."""

    def __init__(
        self, environment: dict[str, str], *, shared: bool, devices: int = 0
    ) -> None:
        """Starts no process yet.

        Args:
            environment: environment variables of the processes.
            shared: whether the runs of a thread share a process.
            devices: accelerators of this machine, of which the threads get one
                each in turn; 0: all processes see all of them.
        """
        self._environment, self._shared = environment, shared
        self._devices, self._threads = devices, itertools.count()
        self._live: set[subprocess.Popen] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._own = threading.local()

    def run(self, command: Sequence[str], log: pathlib.Path) -> int:
        """Does a run and returns its exit status.

        Args:
            command: command of the run.
            log: file that its output is appended to.
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
        """Ends all processes; none can be started afterwards."""
        with self._lock:
            self._closed = True
            live = list(self._live)
        for process in live:
            process.terminate()
            # A shared one saves its run, and then reads the end of the input.
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in live:
            self._wait(process)

    def _ask(self, job: dict[str, Any]) -> int:
        """Does a run in this thread's process, which is started if needed."""
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
        # The run ended the process, for example by using too much memory.
        return self._wait(process) or 1

    def _start(self, command: Sequence[str], **pipes: Any) -> subprocess.Popen:
        with self._lock:
            if self._closed:
                raise InterruptedError('the sweep is ending')
            environment = {**self._environment, **self._of_thread()}
            process = subprocess.Popen(command, env=environment, **pipes)
            self._live.add(process)
            return process

    def _of_thread(self) -> dict[str, str]:
        """Variables of the accelerator that this thread's runs have."""
        if not self._devices:
            return {}
        if not hasattr(self._own, 'number'):
            self._own.number = next(self._threads)
        return device_variables(self._own.number % self._devices)

    def _wait(self, process: subprocess.Popen) -> int:
        """Waits for the end of a process and returns its exit status."""
        status = process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            # Unsent input is of no use any more.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        with self._lock:
            self._live.discard(process)
        return status


def load(arguments: Sequence[str]) -> tuple[Any, str]:
    """The configuration and the work directory from a command's flags.

    Raises:
        ValueError: a field or a value is wrong.
    """
    from absl import flags
    from ml_collections import config_flags

    from mnemonics_jax.config import command_line

    arguments = ['sweep', *arguments]
    # Before the configuration, which has the fields of methods in them.
    command_line.load_plugins(arguments)
    # Separate flags: the global ones would keep those of the previous run.
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
    """Does a run and returns its exit status; errors go to stderr."""
    # Imported late, so that a failed import is in the log.
    import jax
    from absl import logging

    from mnemonics_jax import experiment

    # Orbax logs every file that it writes as information.
    logging.set_verbosity(logging.WARNING)
    try:
        config, workdir = load(arguments)
        parts = experiment.prepare(config, workdir)
    except (ValueError, OSError) as e:
        print(f'error: {" ".join(str(e).split())}', file=sys.stderr)
        return 2
    experiment.run(parts, workdir)
    # Each run has its own functions, whose programs would fill the memory.
    jax.clear_caches()
    return 0


def serve(jobs: TextIO, answers: TextIO) -> None:
    """Does the runs of all jobs, one line of JSON each."""
    for line in jobs:
        job = json.loads(line)
        with open(job['log'], 'ab') as log:
            # By number, to include the output of libraries not in Python.
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
    # Ctrl-C reaches every process of a terminal; the sweep ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), 'w') as channel:
        serve(sys.stdin, channel)
