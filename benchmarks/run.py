"""Compares all work with PyTorch, in one command.

    python -m benchmarks.run --quick

Checks that model steps, exemplar steps, herding, evaluation and feeds agree
with their PyTorch peers, then times both in turn in one process. Also measures
temporary bytes and whole runs. Writes benchmarks/results/<device>.json and
prints the tables and targets. If a part fails, the others are still written,
and the exit status is 1. --only selects parts.
"""

import argparse
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The files of this folder import each other by their bare names.
sys.path.insert(0, str(pathlib.Path(__file__).parent))
# The peers and the runs share the accelerator's memory with this process.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import parts
import problems
import record
import tables
import targets

Part = Callable[[parts.Scale], dict[str, Any]]


def device_name() -> str:
    """The device's name in lower case with dashes, 'cpu' for any CPU."""
    device = jax.devices()[0]
    if device.platform == 'cpu':
        return 'cpu'
    return '-'.join(device.device_kind.lower().split())


def run_parts(chosen: Mapping[str, Part], scale: parts.Scale) -> dict[str, Any]:
    """Figures of all parts: 'parts', 'failed' and 'skipped', all by name."""
    found: dict[str, Any] = {'parts': {}, 'failed': {}, 'skipped': {}}
    for name, part in chosen.items():
        begun = time.perf_counter()
        try:
            found['parts'][name] = part(scale)
        except parts.SkippedError as e:
            found['skipped'][name] = str(e)
        # Any error: the figures of the other parts must not be lost.
        except Exception as e:
            traceback.print_exc()
            reason = str(e).splitlines() or ['']
            found['failed'][name] = f'{type(e).__name__}: {reason[0]}'
        else:
            seconds = time.perf_counter() - begun
            found['parts'][name]['seconds_of_part'] = seconds
            print(f'{name}: {seconds:.0f} s', flush=True)
    return found


def measure(
    chosen: Mapping[str, Part], scale: parts.Scale, *, quick: bool
) -> dict[str, Any]:
    """Figures of the chosen parts, and targets."""
    begun, before = time.perf_counter(), os.getloadavg()[0]
    found = run_parts(chosen, scale)
    figures = {
        'platform': jax.default_backend(),
        'quick': quick,
        'all_parts': set(chosen) == set(parts.PARTS),
        'no_peers': problems.why_no_peers(),
        'cores': os.cpu_count(),
        'load_average': [before, os.getloadavg()[0]],
        'seconds': time.perf_counter() - begun,
        **found,
    }
    return {**figures, 'targets': targets.rows(figures)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, writes and prints; returns 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='smaller sizes')
    parser.add_argument('--only', nargs='+', choices=parts.PARTS)
    parser.add_argument('--out', type=pathlib.Path, default=tables.RESULTS)
    arguments = parser.parse_args(argv)
    only = arguments.only or parts.PARTS
    chosen = {name: parts.PARTS[name] for name in only}
    scale = parts.make_scale(quick=arguments.quick)
    figures = measure(chosen, scale, quick=arguments.quick)
    command = 'python -m benchmarks.run' + ' --quick' * arguments.quick
    if arguments.only:
        command += f' --only {" ".join(map(repr, arguments.only))}'
    path = arguments.out / f'{device_name()}.json'
    report = record.write(path, command, figures)
    print(tables.section(report))
    for name, reason in figures['failed'].items():
        print(f'failed: {name}: {reason}', file=sys.stderr)
    return bool(figures['failed'])


if __name__ == '__main__':
    sys.exit(main())
