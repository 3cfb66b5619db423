"""Runs a grid of configurations and makes a table of the results.

    python launch/sweep.py --config=configs/digits.py --out=runs/sweep \
        --grid method=finetune,icarl,lucir \
        --grid strategy=random,herding,mnemonics \
        --grid transfer=false,true --grid seed=0,1,2 --jobs=2

does a run for each combination, with the command that `--dry-run` prints. After
each run it writes `sweep.md`, `sweep.csv` and `sweep.json` to `--out`: mean,
standard deviation and count over seeds. Rerun the command to resume: finished
runs are kept, failed ones are repeated. Fields of the configuration have their
full names or short ones: method, strategy, adjust, phases, transfer.

With `--devices=4` runs share a machine of four GPUs or TPU chips: each has one
of them, and four go at a time. A run gives the numbers that it gives alone on
one device. Small networks leave most of a chip idle, and steps shared by chips
wait for each other, so this is how several seeds use a machine best. Without
`--devices` keep `--jobs` at 1 on accelerators.
"""

import argparse
import contextlib
import os
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The package of this checkout, even if another one is installed.
sys.path[:0] = [str(ROOT), str(ROOT / 'launch')]

import sweep_grid  # noqa: E402
import sweep_table  # noqa: E402
import sweep_worker  # noqa: E402

from mnemonics_jax.core import dependencies  # noqa: E402

with dependencies.explained():
    from mnemonics_jax.config import arguments
    from mnemonics_jax.core import cli, manifest, schema
    from mnemonics_jax.core.rules import TEXT


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the flags; `grid` and `set` become dicts by field."""
    parser = cli.Parser(
        description=__doc__.partition('\n')[0], allow_abbrev=False
    )
    add = parser.add_argument
    add('--config', required=True, help='file with get_config(), or its name')
    add('--out', required=True, type=pathlib.Path, help='directory to write to')
    grid_help = 'F=A,B: a field and its values; repeatable; averages over seed'
    add('--grid', required=True, action='append', help=grid_help)
    add('--set', default=[], action='append', help='F=V: a field of all runs')
    add('--jobs', type=int, help='runs at a time; default: 1, or --devices')
    add('--devices', default=0, type=int, help='accelerators, one for each run')
    add('--dry-run', action='store_true', help='print the commands only')
    add('--in-process', action='store_true', help='many runs per process')
    add('--small', action='store_true', help='tiny runs, in process')
    args = parser.parse_args(argv)
    try:
        if args.devices < 0:
            raise ValueError(f'--devices={args.devices}: must be >= 0')
        if args.jobs is None:
            args.jobs = max(1, args.devices)
        if args.jobs < 1:
            raise ValueError(f'--jobs={args.jobs}: must be an integer >= 1')
        args.config = arguments.locate(args.config)
        args.grid = sweep_grid.parse_grid(args.grid)
        args.set = sweep_grid.parse_fixed(args.set, args.grid, small=args.small)
        check_out(args.out, {'config': args.config, 'set': args.set})
    except (OSError, ValueError) as e:
        parser.error(str(e))
    return args


def check_out(out: pathlib.Path, fixed: dict[str, Any]) -> None:
    """Checks that a table will not mix runs with different fixed settings.

    Args:
        out: directory of the sweep.
        fixed: 'config' and 'set' of this sweep.

    Raises:
        ValueError: finished runs in the directory have other settings, or its
            table is damaged.
    """
    path = out / 'sweep.json'
    if not path.exists():
        return
    try:
        there = schema.load(path, _check_table)
    except ValueError as e:
        raise ValueError(f'{path} is damaged: {e}; it may be removed') from e
    others = [f'--{name}' for name in fixed if there.get(name) != fixed[name]]
    if others and any(run['state'] == 'finished' for run in there['runs']):
        raise ValueError(
            f'--out={out}: must be another directory: it has runs with another '
            f'{" and ".join(others)}'
        )


def _check_table(content: Any) -> None:
    run = {'state': TEXT, ...: schema.ANY}
    schema.check(content, {'runs': [run], ...: schema.ANY})


def environment(out: pathlib.Path, jobs: int) -> dict[str, str]:
    """Environment variables of the runs; the user's own ones win."""
    defaults = {
        # Runs of a sweep share most of their programs.
        'JAX_COMPILATION_CACHE_DIR': str(out.resolve() / '.jax_cache'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
        # Otherwise the last line of a traceback is about filtering.
        'JAX_TRACEBACK_FILTERING': 'off',
        # Keeps output of Python and of libraries in order.
        'PYTHONUNBUFFERED': '1',
    }
    if jobs > 1:
        # Otherwise the first run takes most of an accelerator's memory.
        defaults['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    return {**defaults, **os.environ, 'PYTHONPATH': os.pathsep.join(paths)}


def record(run: sweep_grid.Run, error: str | None = None) -> dict[str, Any]:
    """The record of a run, see `sweep_table`."""
    found = sweep_table.outcome(run.workdir)
    state = 'failed' if error else 'finished' if found else 'pending'
    return {
        'name': run.name,
        'settings': run.settings,
        'state': state,
        'error': error,
        **(found or {}),
    }


def execute(
    processes: sweep_worker.Processes, run: sweep_grid.Run
) -> tuple[dict[str, Any], float]:
    """Does a run; returns its record and its seconds."""
    start = time.monotonic()
    with run.log.open('ab') as log:
        log.write(f'$ {shlex.join(run.command)}\n'.encode())
        size = log.tell()
    status = processes.run(run.command, run.log)
    error = None
    if status:
        text = run.log.read_bytes()[size:].decode(errors='replace')
        last = text.strip().split('\n')[-1].strip()
        ended = f'signal {-status}' if status < 0 else f'status {status}'
        error = f'{ended}: {last or "no output"}'
    return record(run, error), time.monotonic() - start


def duration(seconds: float) -> str:
    """Seconds as text: '45 s', '12 min' or '3.5 h'."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    if seconds < 6000:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'


def describe(entry: dict[str, Any]) -> str:
    """The result of a run as text."""
    if entry['state'] != 'finished':
        return (
            f'failed: {entry["error"]}' if entry['error'] else 'stopped early'
        )
    judged = entry['judged']
    average = entry['metrics'][judged]['average_incremental_accuracy']
    return f'average incremental accuracy {100 * average:.1f} % ({judged})'


class Progress:
    """The state of a sweep, on disk and as lines on the terminal."""

    def __init__(
        self, runs: Sequence[sweep_grid.Run], out: pathlib.Path, about: dict
    ) -> None:
        """Writes the table of the runs that are finished already.

        Args:
            runs: all runs of the sweep.
            out: directory to write to.
            about: all of `sweep.json` but the runs.
        """
        self._out, self._about = out, about
        self.records = {run.name: record(run) for run in runs}
        self.left = [r for r in runs if not self._finished(r)]
        self._before = len(runs) - len(self.left)
        self._ended, self._start = 0, time.monotonic()
        self._write()
        if self._before:
            print(f'{self._before} of {len(runs)} runs finished before')

    def add(self, entry: dict[str, Any], seconds: float) -> None:
        """Adds the record of a run and prints a line about it."""
        self.records[entry['name']] = entry
        self._ended += 1
        self._write()
        passed = time.monotonic() - self._start
        left = passed / self._ended * (len(self.left) - self._ended)
        print(
            f'{self._before + self._ended}/{len(self.records)} '
            f'{entry["name"]}: {duration(seconds)}, {describe(entry)}, '
            f'{duration(left)} left',
            flush=True,
        )

    def _finished(self, run: sweep_grid.Run) -> bool:
        return self.records[run.name]['state'] == 'finished'

    def _write(self) -> None:
        """Writes the table, with the versions from a run's config.json."""
        notes = {'versions': None, 'commit': None}
        for entry in self.records.values():
            path = self._out / entry['name'] / 'config.json'
            damaged = manifest.damage(path.parent, path.name)
            if path.exists() and not damaged:
                # One that is none of a run: its run says so.
                with contextlib.suppress(OSError, ValueError):
                    found = schema.load(path, schema.check_setup)
                    notes = {name: found.get(name) for name in notes}
                    break
        runs = list(self.records.values())
        sweep_table.write(self._out, {**self._about, **notes, 'runs': runs})


def interrupt(signum: int, frame: Any) -> NoReturn:
    """Handles SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def run_all(args: argparse.Namespace, progress: Progress) -> None:
    """Does the remaining runs of a sweep."""
    signal.signal(signal.SIGTERM, interrupt)
    processes = sweep_worker.Processes(
        environment(args.out, args.jobs),
        shared=args.in_process or args.small,
        devices=args.devices,
    )
    with futures.ThreadPoolExecutor(args.jobs) as pool:
        ends = [pool.submit(execute, processes, r) for r in progress.left]
        try:
            for end in futures.as_completed(ends):
                progress.add(*end.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.close()


def main(argv: Sequence[str]) -> int:
    """Runs a sweep and returns the exit status."""
    args = parse(argv)
    runs = sweep_grid.plan(args.config, args.out, args.grid, args.set)
    if args.dry_run:
        print('\n'.join(shlex.join(run.command) for run in runs))
        return 0
    about = {
        'command': shlex.join(['python', 'launch/sweep.py', *argv]),
        'config': args.config,
        'set': args.set,
        'grid': args.grid,
    }
    (args.out / 'logs').mkdir(parents=True, exist_ok=True)
    progress = Progress(runs, args.out, about)
    try:
        run_all(args, progress)
    except KeyboardInterrupt:
        print('interrupted; rerun the command to resume', file=sys.stderr)
        return 130
    print(f'table: {args.out / "sweep.md"}')
    failed = [r for r in progress.records.values() if r['state'] == 'failed']
    for entry in failed:
        print(f'failed: {entry["name"]}: {entry["error"]}', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
