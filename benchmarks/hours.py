"""Hours of the paper's runs, from compiled programs: the table of reproduce.md.

    python benchmarks/hours.py --out=benchmarks/results/hours.json

It needs the extra `plan`. On one v4 chip: steps of each program in a run, times
the TPU compiler's own estimate of a step in the programs of N = 5. On two CPU
cores: steps of training alone, times a measured step of
`benchmarks/results/cpu.json`. Nothing of this was run.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import record  # noqa: E402

IMAGENET = (
    '--classes=1000',
    '--images_per_class=1300',
    '--test_images_per_class=50',
)
# Configuration, flags that describe its data, and its letter in the page.
DATA = (('cifar100', (), 'C'), ('imagenet_subset', IMAGENET, 'S'))
ROWS = {
    'LUCIR': 'exemplars=herding',
    'LUCIR w/ mnemonics': 'preset=paper',
    'iCaRL': 'method=icarl,exemplars=herding',
    'iCaRL w/ mnemonics': 'method=icarl,preset=paper',
}
PHASES = (5, 10, 25)
CHIPS = 'v4-2'
# The work in cpu.json whose seconds a training step of CIFAR-100 takes.
STEP = 'model step, resnet32, batch 128, float32'
HEADER = ('row', 'data, N', 'training steps', 'two cores', 'v4 chip', 'GB')


def flags_of(
    config: str, shape: tuple[str, ...], given: str, phases: int
) -> list[str]:
    """The flags of a plan."""
    return [f'--config={config}:phases={phases},{given}', *shape]


def compiled(flags: list[str]) -> dict[str, Any]:
    """A plan, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'plan.json')
        command = [sys.executable, '-m', 'mnemonics_jax.plan', *flags]
        subprocess.run(
            [*command, f'--chips={CHIPS}', f'--out={path}'],
            cwd=ROOT,
            check=True,
        )
        return json.loads(path.read_text())


def counted(flags: list[str]) -> dict[str, int]:
    """Steps of each program in a run."""
    from mnemonics_jax.core import parallel
    from mnemonics_jax.experiment.phase_loop import last_phase
    from mnemonics_jax.experiment.step_counts import steps_of_run
    from mnemonics_jax.plan import request

    asked = request.parse([*flags, f'--chips={CHIPS}'])
    parts = request.build(asked, parallel.make_placement())
    return steps_of_run(parts, last_phase(parts))


def measure() -> list[dict[str, Any]]:
    """For each row, data set and N: steps, estimated seconds and memory."""
    found = []
    for config, shape, letter in DATA:
        for row, given in ROWS.items():
            plan = compiled(flags_of(config, shape, given, PHASES[0]))
            step = {
                each['program']: each['figures']['estimated_seconds']
                for each in plan['programs']
            }
            for phases in PHASES:
                steps = counted(flags_of(config, shape, given, phases))
                found.append(
                    {
                        'row': row,
                        'data': letter,
                        'phases': phases,
                        'steps': steps,
                        'seconds': sum(step[k] * n for k, n in steps.items()),
                        'bytes': max(
                            each['needed_bytes'] for each in plan['programs']
                        ),
                    }
                )
    return found


def measured_step() -> float:
    """Seconds of a training step of CIFAR-100 on two cores."""
    content = json.loads((ROOT / 'benchmarks/results/cpu.json').read_text())
    (row,) = [
        each
        for each in content['parts']['model step']['rows']
        if each['work'] == STEP
    ]
    return row['ours']


def table(rows: list[Mapping[str, Any]], step: float) -> str:
    """The rows as Markdown.

    Args:
        rows: from `measure`.
        step: from `measured_step`.
    """
    lines = [HEADER, tuple('---' for _ in HEADER)]
    for each in rows:
        training = each['steps']['training']
        cores = f'{step * training / 3600:.1f} h' if each['data'] == 'C' else ''
        lines.append(
            (
                each['row'],
                f'{each["data"]} {each["phases"]}',
                f'{training:,}',
                cores,
                f'{each["seconds"] / 3600:.2f} h',
                f'{each["bytes"] / 1e9:.2f}',
            )
        )
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def main() -> None:
    """Writes the record and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    rows = measure()
    command = 'python benchmarks/hours.py --out=benchmarks/results/hours.json'
    record.write(args.out, command, {'chips': CHIPS, 'rows': rows})
    print(table(rows, measured_step()))


if __name__ == '__main__':
    main()
