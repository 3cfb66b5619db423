"""Time from the start of the command to its first step, by compilation cache.

    python benchmarks/start.py --out=benchmarks/results/start_cpu.json

Starts the real command on configs/digits.py in a separate process, alternating
between an empty and a filled compilation cache, and ends it after its first
step. Then does two whole runs, the first with an empty cache. Counts compiled
programs and those loaded from the cache. With --quick, one start of each kind
and no whole runs.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
REPEATS = 3
# Of the compilation cache: empty and filled.
KINDS = ('cold', 'warm')
# Variables that would override the cache of a start.
CACHES = (
    'JAX_COMPILATION_CACHE_DIR',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
    'MNEMONICS_JAX_CACHE',
)


def start(
    workdir: pathlib.Path,
    *flags: str,
    whole: bool = False,
    variables: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Starts the command, whose cache is next to the work directory.

    Args:
        workdir: work directory of the run.
        *flags: flags of the command besides --workdir.
        whole: whether to run to the end.
        variables: further environment variables.

    Returns:
        'seconds' to the first step or to the end, 'compilations', the number of
        programs, 'loaded', those of them loaded from the cache, and
        'peak_bytes', the largest resident memory.

    Raises:
        subprocess.CalledProcessError: the command failed; has its output.
    """
    environment = {k: v for k, v in os.environ.items() if k not in CACHES}
    begun = time.time()
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            '--child',
            'whole' if whole else 'first',
            f'--workdir={workdir}',
            *flags,
        ],
        cwd=ROOT,
        env={**environment, 'PYTHONPATH': str(ROOT), **(variables or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {'seconds': found.pop('time') - begun, **found}


def child(argv: Sequence[str], *, whole: bool) -> None:
    """Runs the command in this process and prints counts of compilations.

    Args:
        argv: arguments of the command.
        whole: whether to run to the end, not only the first step.
    """
    import jax
    from absl import app

    from mnemonics_jax import main
    from mnemonics_jax.train import step

    counts = {'compilations': 0, 'loaded': 0}

    def on_event(name: str, **_: Any) -> None:
        counts['loaded'] += name == '/jax/compilation_cache/cache_hits'

    def on_duration(name: str, _: float, **__: Any) -> None:
        is_compilation = name == '/jax/core/compile/backend_compile_duration'
        counts['compilations'] += is_compilation

    def report() -> None:
        found = {'time': time.time(), 'peak_bytes': peak_bytes(), **counts}
        print(json.dumps(found), flush=True)

    make = step.repeat

    def make_one(*args: Any) -> Any:
        steps = make(*args)

        def take(*inputs: Any) -> None:
            jax.block_until_ready(steps(*inputs))
            report()
            os._exit(0)

        return take

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    if not whole:
        step.repeat = make_one
    try:
        app.run(main.main, argv=list(argv), flags_parser=main.parse)
    except SystemExit as e:
        if e.code:
            raise
    report()


def peak_bytes() -> int:
    """Largest resident memory of this process, on Linux.

    Not by `getrusage`, which for a new process begins at that of its parent.
    """
    status = pathlib.Path('/proc/self/status').read_text()
    (kibibytes,) = re.findall(r'VmHWM:\s+(\d+) kB', status)
    return 1024 * int(kibibytes)


def measure(root: pathlib.Path, *, quick: bool) -> dict[str, Any]:
    """Measures all figures; `root` is an empty folder."""
    repeats = 1 if quick else REPEATS
    found = first_steps(root, repeats)
    figures = {'to_the_first_step': {k: summary(v) for k, v in found.items()}}
    if not quick:
        runs = root / 'whole'
        figures['whole_run'] = {
            kind: summary([start(runs / kind, whole=True)]) for kind in KINDS
        }
        figures['whole_run']['cache_bytes'] = sum(
            path.stat().st_size for path in runs.glob('.jax_cache/*')
        )
    return {'config': 'configs/digits.py', 'repeats': repeats, **figures}


def first_steps(
    root: pathlib.Path, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Starts up to the first step, in turn, by kind; `root` is a folder."""
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for repeat in range(repeats):
        for kind, starts in found.items():
            starts.append(start(root / str(repeat) / kind))
    return found


def summary(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and all seconds, and counts and peak of the first start."""
    seconds = [each['seconds'] for each in starts]
    return {
        'median_seconds': statistics.median(seconds),
        'seconds': seconds,
        'compilations': starts[0]['compilations'],
        'loaded': starts[0]['loaded'],
        'peak_bytes': starts[0]['peak_bytes'],
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    import record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--quick', action='store_true', help='one of each')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(pathlib.Path(scratch), quick=arguments.quick)
    record.write(arguments.out, 'python benchmarks/start.py', figures)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--child']:
        child([sys.argv[0], *sys.argv[3:]], whole=sys.argv[2] == 'whole')
    else:
        main()
