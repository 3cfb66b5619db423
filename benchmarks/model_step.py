"""Compares the training step of ResNet-32 with PyTorch.

    python benchmarks/model_step.py \
        --out=benchmarks/results/model_step_cpu.json
    JAX_NUM_CPU_DEVICES=2 python benchmarks/model_step.py --out=...

Our steps run as one scan in one dispatch; the peer's one after the other, in
channels-last memory, with and without `torch.compile`. Losses and updates must
agree before both are timed in turn, in one process. Writes median and minimum
seconds per step and the ratio of ours to theirs. The second form shards ours
over several devices of one CPU.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import problems
import record
import step_pairs
import timing
from problems import DEEP_BOUND, HAS_TORCH
from timing import PEER

from mnemonics_jax.core import parallel

REPEATS, STEPS = 20, 4
COMPILED = f'{PEER}, torch.compile'


def measure(
    sizes: problems.Sizes,
    *,
    repeats: int = REPEATS,
    num_steps: int = STEPS,
    compiled: bool = True,
    device: str = 'cpu',
) -> dict[str, Any]:
    """Measures all figures.

    Args:
        sizes: sizes of network and batch.
        repeats: timed rounds.
        num_steps: steps per run.
        compiled: whether to also time the peer with `torch.compile`.
        device: PyTorch device of the peers.

    Raises:
        ValueError: our results differ from the peer's.
    """
    problem = problems.make_problem(sizes, device=device)
    works, errors, unable = checked_works(problem, num_steps, compiled)
    seconds = {
        name: {key: value / num_steps for key, value in found.items()}
        for name, found in timing.time_in_turn(works, repeats).items()
    }
    ours = seconds['ours']
    return {
        **sizes._asdict(),
        'device': device,
        'steps_a_run': num_steps,
        'rounds': repeats,
        'unable_to_compile': unable,
        'relative_errors': errors,
        'bound_of_updates': DEEP_BOUND,
        'seconds_a_step': seconds,
        'ours_over_theirs': {
            name: {key: ours[key] / found[key] for key in found}
            for name, found in seconds.items()
            if name != 'ours'
        },
        **peers_setting(),
    }


def checked_works(
    problem: problems.Problem, num_steps: int, compiled: bool
) -> tuple[dict[str, Callable[[], None]], dict[str, Any], str | None]:
    """Functions to time, relative errors, and the error of `torch.compile`."""
    # Checked on one step, since each further one multiplies the error.
    make = functools.partial(step_pairs.train_steps, problem, bound=DEEP_BOUND)
    # The peer is float32 only; in other precisions only ours is timed.
    has_peer = HAS_TORCH and problem.sizes.precision == 'float32'
    errors = {}
    if has_peer:
        errors[PEER] = timing.check('model step', make(num_steps=1))
    pair = make(num_steps=num_steps)
    works = {'ours': pair.ours.run}
    if not has_peer:
        return works, errors, None
    works[PEER] = pair.peer.run
    if not compiled:
        return works, errors, None
    try:
        errors[COMPILED] = timing.check(
            COMPILED, make(num_steps=1, compiled=True)
        )
        works[COMPILED] = make(num_steps=num_steps, compiled=True).peer.run
    # Raised if it cannot compile, such as without a C++ compiler.
    except RuntimeError as e:
        return works, errors, f'{type(e).__name__}: {str(e).splitlines()[0]}'
    return works, errors, None


def measure_on_cores(*, repeats: int, num_steps: int) -> dict[str, Any]:
    """`measure` with each core as a device, in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, 'figures.json')
        command = [
            *(sys.executable, __file__, f'--out={out}'),
            *(f'--repeats={repeats}', f'--steps={num_steps}'),
        ]
        path = os.pathsep.join(filter(None, sys.path))
        count = str(os.cpu_count())
        env = {**os.environ, 'PYTHONPATH': path, 'JAX_NUM_CPU_DEVICES': count}
        subprocess.run(command, check=True, env=env)
        return json.loads(out.read_text())


def peers_setting() -> dict[str, Any]:
    """PyTorch's version and threads; empty without PyTorch."""
    if not HAS_TORCH:
        return {}
    import torch

    return {
        'torch': torch.__version__,
        'torch_threads': torch.get_num_threads(),
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--repeats', type=int, default=REPEATS)
    parser.add_argument('--steps', type=int, default=STEPS)
    arguments = parser.parse_args()
    count = jax.local_device_count('cpu')
    parallel.avoid_cached_collectives()
    figures = measure(
        problems.Sizes(num_devices=count),
        repeats=arguments.repeats,
        num_steps=arguments.steps,
        compiled=count == 1,
    )
    command = (
        f'JAX_NUM_CPU_DEVICES={count} python benchmarks/model_step.py '
        f'--repeats={arguments.repeats} --steps={arguments.steps}'
    )
    record.write(arguments.out, command, figures)


if __name__ == '__main__':
    main()
