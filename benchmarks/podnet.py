"""PODNet's scale and training loss, in the runs of a sweep.

    python benchmarks/podnet.py runs/methods --out=runs/podnet.json

reads the work directories `method=podnet,seed=*` of the sweep of methods on
digits (docs/measurements.md). For each it writes average accuracies in percent,
the head's scale sigma after the last phase, and the NCA loss of the first and
the last epoch of training in each phase.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from mnemonics_jax.experiment import finished  # noqa: E402


def describe(workdir: pathlib.Path) -> dict[str, Any]:
    """The measures of a run."""
    results = json.loads((workdir / 'results.json').read_text())
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    losses: dict[int, list[float]] = {}
    for line in map(json.loads, lines):
        if line['stage'] == 'train':
            losses.setdefault(line['phase'], []).append(line['nca'])
    head = finished.restore_phase(workdir, -1).variables.params['head']
    average = results['average_incremental_accuracy']
    return {
        'run': workdir.name,
        'average': {name: round(100 * x, 2) for name, x in average.items()},
        'sigma': round(float(head['sigma']), 2),
        'nca': [[round(x[0], 3), round(x[-1], 3)] for x in losses.values()],
    }


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('sweep', type=pathlib.Path)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    runs = sorted(args.sweep.glob('method=podnet,seed=*'))
    command = f'python benchmarks/podnet.py {args.sweep}'
    record.write(args.out, command, {'runs': [describe(run) for run in runs]})


if __name__ == '__main__':
    main()
