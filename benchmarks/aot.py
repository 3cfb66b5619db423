r"""Programs of a run, compiled ahead of time for TPUs and GPUs; and gates.

    python benchmarks/aot.py --out=benchmarks/results/aot.json

compiles training, learning and evaluation of configs/cifar100.py for one v4
chip, 16 of them and eight H100s, without these devices (the extra plan), and
ends with 1 if a gate fails:

- each program compiles, and takes no more bytes than a device has;
- no array of images as large as the memory of exemplars is only laid out anew;
- the compiler makes no loop over images of an operation;
- a step has no more collectives, bytes of them or kernels than in the committed
  results, or those of --against.

Other programs and other configurations, before and after a change:

    python benchmarks/aot.py --chips=v4-32 --programs=training \
        --out=before.json --config=imagenet --classes=1000 \
        --images_per_class=1300 --test_images_per_class=50
    python benchmarks/aot.py --chips=v4-32 --programs=training \
        --out=after.json --against=before.json --config=imagenet ...
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mnemonics_jax.plan import chips

os.environ.update(chips.ENVIRONMENT)

import record

from mnemonics_jax.plan import compiling, table

RESULTS = pathlib.Path(__file__).parent / 'results' / 'aot.json'
CHIPS = 'v4-2,v4-32,h100:8'
PROGRAMS = 'training,learning exemplars,evaluation'
CONFIG = ('--config=cifar100:phases=5',)
PACKAGES = ('libtpu', 'jax-cuda13-pjrt')
# Kernels and bytes may differ a little between versions of the compilers.
_TOLERANCE = 1.02


def measure(devices: str, program: str, flags: Sequence[str]) -> dict[str, Any]:
    """Compiles a program: its row and the figures of a step."""
    argv = [f'--chips={devices}', *flags]
    row = compiling.in_process_of_its_own(argv, program)
    found = table.figures(row, chips.find(devices).chip, 0)
    kept = {name: value for name, value in found.items() if 'run' not in name}
    return {'chips': devices, **row, 'figures': kept}


def failures(
    row: Mapping[str, Any], before: Mapping[str, Any] | None
) -> Iterator[str]:
    """The gates that a program fails, a line each.

    Args:
        row: from `measure`.
        before: the row of the same program to compare with, if any.
    """
    name = f'{row["chips"]}, {row["program"]}'
    if row['status'] != compiling.COMPILED:
        why = row.get('remedy') or row.get('reason')
        yield f'{name}: {row["status"]} ({why})'
        return
    cost = row['cost']
    if cost['largest_image_copy'] >= row['exemplar_bytes']:
        size = cost['largest_image_copy'] / 1e6
        yield f'{name}: {size:.1f} MB of images are laid out anew'
    for loop in cost['loops']:
        if loop['by_compiler'] and loop['trips'] != 1:
            yield f'{name}: a loop of {loop["trips"]} rounds: {loop["name"]}'
    if before is None or 'cost' not in before:
        return
    for what, ours in counted(row).items():
        theirs = counted(before).get(what, 0)
        if ours > theirs * _TOLERANCE:
            yield f'{name}: {what} a step: {ours:,.0f}, were {theirs:,.0f}'


def counted(row: Mapping[str, Any]) -> dict[str, float]:
    """What must not grow, of a step."""
    found = {'kernels': row['figures']['kernels']}
    for kind, each in row['figures']['collectives'].items():
        found[kind] = each['calls']
        found[f'bytes of {kind}'] = each['bytes']
    return found


def rows_of(
    path: pathlib.Path, flags: Sequence[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of a file by chips and program.

    Empty if there is no file, or its rows are of another configuration.
    """
    content = json.loads(path.read_text()) if path.exists() else {'flags': None}
    if content['flags'] != list(flags):
        return {}
    return {(row['chips'], row['program']): row for row in content['rows']}


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 1 if a gate fails."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--against', type=pathlib.Path, default=RESULTS)
    parser.add_argument('--chips', default=CHIPS, help='separated by commas')
    parser.add_argument('--programs', default=PROGRAMS)
    asked, flags = parser.parse_known_args(argv)
    flags, rows = tuple(flags) or CONFIG, []
    before = rows_of(asked.against, flags)
    for devices in asked.chips.split(','):
        for program in asked.programs.split(','):
            print(f'compiling {program} for {devices}', file=sys.stderr)
            rows.append(measure(devices, program, flags))
    failed = [
        line
        for row in rows
        for line in failures(row, before.get((row['chips'], row['program'])))
    ]
    figures = {
        'compilers': {
            name: importlib.metadata.version(name) for name in PACKAGES
        },
        'flags': flags,
        'failed': failed,
        'rows': rows,
    }
    command = shlex.join(['python', 'benchmarks/aot.py', *argv])
    record.write(asked.out, command, figures)
    for line in failed:
        print(line, file=sys.stderr)
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
