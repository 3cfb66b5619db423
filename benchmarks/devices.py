"""Measures how runs on one and on eight devices diverge, and why.

    python benchmarks/devices.py --out=benchmarks/results/devices_cpu.json

Runs on digits with several numbers of epochs: on one device, on eight, and on
one with the rows of every batch reversed, which only changes the order of sums;
in float32 and in float64. Compared with one device are the final weights
(relative distance), the exemplars (number of different ones) and the correct
test images (largest difference over phases and classifiers).
"""

import argparse
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '')
    + ' --xla_force_host_platform_device_count=8'
    # Eight devices may share few cores and wait long for each other.
    + ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
)
os.environ['JAX_CPU_ENABLE_ASYNC_DISPATCH'] = 'false'

import jax
import numpy as np
import record
from ml_collections import ConfigDict, FrozenConfigDict

from mnemonics_jax import config as config_lib
from mnemonics_jax import experiment
from mnemonics_jax.config import arguments
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components, model_stages
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.experiment.phase import run_phase
from mnemonics_jax.train.loop import ResumableLoops
from mnemonics_jax.train.metric_writer import Recorder
from mnemonics_jax.types import Carry

EPOCHS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)


def build(num_devices: int) -> components.Components:
    """Components of all runs on `num_devices` devices.

    Exemplars are selected, not learned: what is compared is training.
    """
    config = arguments.load('digits')
    config.update_from_flattened_dict(
        {
            'data.feed': 'device',
            'data.pad': 0,
            'backbone.name': 'convnet_tiny',
            'protocol.phases': 2,
            'train.batch_size': 64,
            'train.milestones': (),
            'finetune.batch_size': 16,
            'exemplars.strategy': 'herding',
            'exemplars.adjust': False,
        }
    )
    placement = parallel.make_placement(jax.devices()[:num_devices])
    return components.build(config_lib.resolve(config), placement)


def run(
    parts: components.Components, seed: int, epochs: int, dtype: Any
) -> tuple[Carry, list[dict[str, Any]]]:
    """Final carry of a run, and counts by classifier of each phase."""
    config = ConfigDict(parts.config.to_dict())
    config.seed, config.train.epochs = seed, epochs
    parts = parts._replace(config=FrozenConfigDict(config))
    carry = experiment.first_carry(parts)
    variables = jax.tree.map(lambda x: x.astype(dtype), carry.variables)
    carry = Carry(variables, carry.exemplars)
    loops, counts = ResumableLoops(), []
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(pathlib.Path(folder), first_phase=0, quiet=True) as recorder,
    ):
        for index, bounds in enumerate(parts.bounds):
            loops.open_phase(index)
            context = PhaseContext(parts, index, *bounds, recorder, loops)
            carry, outcome = run_phase(context, carry)
            counts.append(outcome.counts)
    return jax.device_get(carry), counts


def reverse(batches: Any) -> Any:
    """`Pool.batches` with the rows of each batch reversed."""

    def reversed_batches(*arguments: Any) -> Iterator[dict[str, Any]]:
        for batch in batches(*arguments):
            yield {
                name: x[::-1] if isinstance(x, np.ndarray) else x
                for name, x in batch.items()
            }

    return reversed_batches


def compare(ours: Any, theirs: Any) -> dict[str, float]:
    """Differences between two runs, see the module text."""
    flat = [
        np.concatenate([x.ravel() for x in jax.tree.leaves(carry.variables)])
        for carry, _ in (ours, theirs)
    ]
    gaps = [
        abs(int(np.trace(this[name].confusion - that[name].confusion)))
        for this, that in zip(ours[1], theirs[1], strict=True)
        for name in that
    ]
    distance = np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])
    images = [carry.exemplars.images for carry, _ in (ours, theirs)]
    exemplars = int(np.any(images[0] != images[1], axis=(2, 3, 4)).sum())
    return {
        'weights': float(distance),
        'exemplars': exemplars,
        'images': max(gaps),
    }


def measure(dtype: Any) -> list[dict[str, Any]]:
    """Results for all numbers of epochs and seeds in one precision."""
    one, eight = build(1), build(8)
    batches, found = model_stages.Pool.batches, []
    for epochs in EPOCHS:
        for seed in SEEDS:
            alone = run(one, seed, epochs, dtype)
            with mock.patch.object(
                model_stages.Pool, 'batches', reverse(batches)
            ):
                backwards = run(one, seed, epochs, dtype)
            row = {
                'epochs': epochs,
                'seed': seed,
                'eight_devices': compare(
                    run(eight, seed, epochs, dtype), alone
                ),
                'rows_in_reverse': compare(backwards, alone),
            }
            print(np.dtype(dtype).name, row, flush=True)
            found.append(row)
    return found


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    parallel.avoid_cached_collectives()
    figures = {'float32': measure(np.float32)}
    with jax.enable_x64(True):
        figures['float64'] = measure(np.float64)
    record.write(arguments.out, 'python benchmarks/devices.py', figures)


if __name__ == '__main__':
    main()
