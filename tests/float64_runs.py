"""Small runs with JAX's float64 on, and what they end with.

    JAX_ENABLE_X64=1 python tests/float64_runs.py FOLDER

leaves in FOLDER the work directories and arrays of a run in float32 and, in
float64, of one on one device and of one on eight.
"""

import json
import pathlib
import sys
from typing import Any
from unittest import mock

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# First of those that load JAX, for its flags.
from tests import conftest  # isort: skip

import jax
import numpy as np

from mnemonics_jax import bilevel, experiment
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components, context
from mnemonics_jax.train import checkpoint, evaluation, loop

FLOAT32, ONE, EIGHT = 'float32', 'float64_on_1', 'float64_on_8'


def run(
    folder: pathlib.Path,
    precision: str,
    placement: parallel.Placement,
    last_phase: int,
) -> dict[str, np.ndarray]:
    """A run of all stages in a work directory.

    Returns:
        By name all arrays that its phases end with, see `end_of`, and learned
        pixels before they are stored.
    """
    config = conftest.tiny_config.__wrapped__()
    config.update_from_flattened_dict(
        {
            'precision': precision,
            'data.num_classes': 4,
            'protocol.phases': 1,
            'protocol.stop_after_phase': last_phase,
            'train.epochs': 1,
            'train.milestones': (),
            # Adam divides by gradients, of which some are almost zero.
            'exemplars.outer_optimizer': 'sgd',
            'exemplars.outer_lr': 3.0,
            'exemplars.adjust_lr': 3.0,
            'exemplars.outer_steps': 2,
            'exemplars.adjust_steps': 1,
        }
    )
    pixels, run_loop = [], loop.ResumableLoops.run

    def keep(*arguments):
        state = run_loop(*arguments)
        if isinstance(state, bilevel.ExemplarState):
            pixels.append(np.asarray(state.pixels))
        return state

    with mock.patch.object(loop.ResumableLoops, 'run', keep):
        parts = experiment.prepare(config, folder, placement)
        experiment.run(parts, folder)
    found = {
        'pixels': pixels,
        'phases': [end_of(parts, folder, i) for i in range(last_phase + 1)],
    }
    named = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): leaf for path, leaf in named}


def end_of(
    parts: components.Components, folder: pathlib.Path, phase: int
) -> dict[str, Any]:
    """Both models, the memory and features of test images after a phase."""
    carry, other, _ = checkpoint.read_end(folder, phase)
    arrays = jax.tree.map(np.asarray, (carry, other))
    batches = context.in_order(
        parts.loader.examples('test', *parts.bounds[phase]),
        parts.config.evaluate.batch_size,
    )
    variables = parallel.replicate(parts.placement, arrays[0].variables)
    return {
        'models': (arrays[0].variables, arrays[1]),
        'memory': (arrays[0].exemplars.images, arrays[0].exemplars.mask),
        'features': evaluation.features_of(parts.evaluator, variables, batches),
    }


def confusions(folder: pathlib.Path) -> list[dict[str, list[list[int]]]]:
    """Confusion matrices by classifier, of each phase of a run."""
    content = json.loads((folder / 'results.json').read_text())
    return [phase['confusion'] for phase in content['phases']]


def main() -> None:
    """Makes the runs."""
    folder = pathlib.Path(sys.argv[1])
    one = parallel.make_placement(jax.devices()[:1])

    def save(name, *arguments):
        np.savez(folder / f'{name}.npz', **run(folder / name, *arguments))

    save(FLOAT32, 'float32', one, 0)
    save(ONE, 'float64', one, 1)
    # A program for several devices must not come from the cache.
    parallel.avoid_cached_collectives()
    save(EIGHT, 'float64', parallel.make_placement(), 1)


if __name__ == '__main__':
    main()
