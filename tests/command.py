"""The real command in a process of its own, and how it refuses."""

import pathlib
import subprocess
import sys

import compiling

ROOT = pathlib.Path(__file__).parent.parent
# Not by `preexec_fn`: JAX warns of forks of a process with threads.
LIMITED = """
import os, resource, sys
sizes = (int(sys.argv[1]), resource.RLIM_INFINITY)
resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
os.execv(sys.argv[2], sys.argv[2:])
"""


def run(
    *flags: str, largest_file: int | None = None
) -> subprocess.CompletedProcess:
    """Runs the command on one device; `largest_file` as on a full disk."""
    command = [sys.executable, '-m', 'mnemonics_jax.main', *flags]
    # One device; compiling dominates here, and running does not.
    environment = compiling.one_device()
    if largest_file is not None:
        command = [sys.executable, '-c', LIMITED, str(largest_file), *command]
        # Coverage could not write down what it has seen, and would say so.
        environment = {
            name: value
            for name, value in environment.items()
            if not name.startswith('COV')
        }
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


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
    """Runs another command of the package, on one device."""
    return subprocess.run(
        [sys.executable, '-m', f'mnemonics_jax.{name}', *map(str, arguments)],
        cwd=ROOT,
        env=compiling.one_device(),
        capture_output=True,
        text=True,
        timeout=300,
    )
