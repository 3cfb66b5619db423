"""Plans of the published configurations on several slices, and their table.

    python benchmarks/plans.py --out=benchmarks/results/plans.json
    python benchmarks/plans.py --add=runs/plan.json --config=cifar100:phases=5 \
        --out=benchmarks/results/plans.json

The first compiles everything (about 40 minutes on two cores), the second adds
the `--out` file of `python -m mnemonics_jax.plan` to the record. Both print the
table of docs/devices.md, which a test compares with the record.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import record  # noqa: E402

CIFAR, IMAGENET = 'cifar100:phases=5', 'imagenet:phases=10'
# TFDS knows the shapes of CIFAR-100; these are those of ILSVRC 2012.
SHAPES = {
    CIFAR: [],
    IMAGENET: [
        '--classes=1000',
        '--images_per_class=1300',
        '--test_images_per_class=50',
    ],
}
CHIPS = ('v4-32', 'v5e-16', 'v6e-8', 'h100:8')
HEADER = (
    'configuration',
    'chips',
    'program',
    'GB',
    'of memory',
    'collectives',
    'estimate, ms',
    'bound, ms',
)


def compile_all() -> list[dict[str, Any]]:
    """The plans of both configurations on all slices."""
    found = []
    for config, shapes in SHAPES.items():
        for chips in CHIPS:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, 'plan.json')
                command = [sys.executable, '-m', 'mnemonics_jax.plan']
                flags = [f'--config={config}', f'--chips={chips}', *shapes]
                subprocess.run(
                    [*command, *flags, f'--out={path}'], cwd=ROOT, check=True
                )
                found.append({'config': config, **json.loads(path.read_text())})
    return found


def table(plans: list[dict[str, Any]]) -> str:
    """The plans as Markdown."""
    rows = [HEADER, tuple('---' for _ in HEADER)]
    for plan in plans:
        for each in plan['programs']:
            figures = each['figures']
            sent = figures['collectives'].values()
            calls = sum(kind['calls'] for kind in sent)
            moved = sum(kind['bytes'] for kind in sent) / 1e6
            seconds = figures['estimated_seconds']
            rows.append(
                (
                    f'`{plan["config"]}`',
                    f'`{plan["chips"]}`',
                    each['program'],
                    f'{each["needed_bytes"] / 1e9:.2f}',
                    f'{each["needed_bytes"] / room(plan["chips"]):.1%}',
                    f'{calls:,.0f}, {moved:,.1f} MB',
                    f'{seconds * 1e3:,.2f}' if seconds else '',
                    f'{figures["bound_seconds"] * 1e3:,.2f}',
                )
            )
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows) + '\n'


def room(name: str) -> int:
    """Bytes that a program may have on a chip of a slice."""
    from mnemonics_jax.plan import chips

    return chips.find(name).chip.room


def main() -> None:
    """Writes the record and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--add', type=pathlib.Path)
    parser.add_argument('--config', choices=list(SHAPES))
    args = parser.parse_args()
    if args.add is None:
        plans = compile_all()
    else:
        plans = []
        if args.out.exists():
            plans = json.loads(args.out.read_text())['plans']
        added = {'config': args.config, **json.loads(args.add.read_text())}
        same = (added['config'], added['chips'])
        plans = [p for p in plans if (p['config'], p['chips']) != same]
        plans.append(added)
        order = [(config, chips) for config in SHAPES for chips in CHIPS]
        plans.sort(key=lambda p: order.index((p['config'], p['chips'])))
    for plan in plans:
        if bad := [p for p in plan['programs'] if p['status'] != 'compiled']:
            raise SystemExit(f'{plan["chips"]}: {bad}')
    command = 'python benchmarks/plans.py --out=benchmarks/results/plans.json'
    record.write(args.out, command, {'plans': plans})
    print(table(plans))


if __name__ == '__main__':
    main()
