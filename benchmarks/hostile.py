"""Hostile tries: damaged files, extreme values, odd folders, bad surroundings.

    python benchmarks/hostile.py --tries=1000 --seed=1 \
        --out=benchmarks/results/hostile_1.json

Each try is drawn by its number and the seed, is a real command in a process of
its own, and has a time limit. Its outcome is one of:

    same bits           the results are those of an undisturbed run
    one line            an error in one line, or the damage is named
    starts              a configuration that is valid: the run starts
    traceback           a stack, a signal, or more than a line
    hang                still running after two minutes
    silent difference   other results, and nothing said

The last three are defects: the command names them and ends with status 1. Rerun
it to go on after an interruption.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import forked  # noqa: E402


def run_tries(
    numbers: list[int],
    seed: int,
    scratch: pathlib.Path,
    keep: bool,
    done: pathlib.Path | None,
) -> list[dict[str, Any]]:
    """Does tries by number; see the module.

    Args:
        numbers: numbers of the tries.
        seed: seed of all tries.
        scratch: folder for them.
        keep: whether to keep their folders.
        done: file with a line for each try that is done, to go on from.
    """
    import hostile_files as files
    import hostile_folders
    import hostile_processes
    import hostile_runs
    import hostile_settings as settings
    import numpy as np

    # How many of a hundred tries are of a kind.
    shares = {
        files.damaged_file: 29,
        files.json_files: 10,
        settings.divergence: 3,
        files.two_at_once: 4,
        files.killed: 6,
        settings.field_value: 20,
        hostile_folders.image_folder: 7,
        settings.configuration: 8,
        settings.surroundings: 8,
        hostile_processes.processes: 5,
    }
    fixtures = hostile_runs.make_fixtures(scratch)
    kinds = [kind for kind, share in shares.items() for _ in range(share)]
    rows = []
    if done and done.exists():
        rows = [json.loads(line) for line in done.read_text().splitlines()]
    finished = {row['number'] for row in rows}
    for number in [n for n in numbers if n not in finished]:
        random = np.random.default_rng([seed, number])
        kind = kinds[random.integers(len(kinds))]
        folder, began = scratch / f'try_{number}', time.monotonic()
        what, outcome = kind(random, folder, fixtures)
        what = what.replace(f'{folder}/', '')
        rows.append(
            {
                'number': number,
                'kind': kind.__name__,
                'what': what.encode('ascii', 'backslashreplace').decode(),
                'outcome': outcome,
                'seconds': round(time.monotonic() - began, 1),
            }
        )
        print(rows[-1], flush=True)
        if done:
            with done.open('a') as file:
                file.write(json.dumps(rows[-1]) + '\n')
        if outcome in hostile_runs.BAD:
            for path in sorted(folder.glob('log*/*')):
                print(path.read_text(errors='replace')[-2000:], flush=True)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def table(rows: list[dict[str, Any]], outcomes: tuple[str, ...]) -> str:
    """Counts by kind and outcome as Markdown."""
    kinds = sorted({row['kind'] for row in rows})
    count = collections.Counter((row['kind'], row['outcome']) for row in rows)
    lines = [
        f'| kind | {" | ".join(outcomes)} |',
        '|---' * (1 + len(outcomes)) + '|',
    ]
    for kind in kinds:
        cells = [str(count[kind, outcome]) for outcome in outcomes]
        lines.append(f'| {kind} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Does the tries and writes their table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--tries', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--only', type=int, nargs='*', help='numbers of tries')
    parser.add_argument('--keep', action='store_true', help='keep the folders')
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('--scratch', type=pathlib.Path)
    args = parser.parse_args()
    scratch = pathlib.Path(args.scratch or tempfile.mkdtemp())
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ['MNEMONICS_JAX_CACHE'] = str(scratch / 'cache')
    forked.warm_up()
    import hostile_runs
    import record

    numbers = args.only or list(range(args.tries))
    done = args.out and args.out.with_suffix('.tries')
    rows = run_tries(numbers, args.seed, scratch, args.keep, done)
    if not args.keep:
        shutil.rmtree(scratch, ignore_errors=True)
    counts = collections.Counter(row['outcome'] for row in rows)
    bad = [row for row in rows if row['outcome'] in hostile_runs.BAD]
    print(table(rows, hostile_runs.OUTCOMES))
    if args.out:
        figures = {
            'seed': args.seed,
            'tries': len(rows),
            'seconds': round(sum(row['seconds'] for row in rows)),
            'outcomes': dict(counts),
            'rows': rows,
        }
        command = f'python benchmarks/hostile.py --tries={args.tries} '
        record.write(args.out, command + f'--seed={args.seed}', figures)
        args.out.with_suffix('.md').write_text(
            table(rows, hostile_runs.OUTCOMES)
        )
        done.unlink()
    sys.exit(bool(bad))


if __name__ == '__main__':
    main()
