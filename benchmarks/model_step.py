"""The training step of ResNet-32, beside what one would write in PyTorch.

    python benchmarks/model_step.py \
        --out=benchmarks/results/model_step_cpu.json

Our steps run in one scan, in one dispatch; the peer's one after the other, in
channels-last memory, as they are and through `torch.compile`. Loss and updates
of both must agree before they are timed, in turn, in one process. Written are
medians and least seconds a step, and the ratio of ours to theirs.
"""

import argparse
import functools
import pathlib
from typing import Any

import problems
import record
import step_pairs
import timing
from problems import DEEP_BOUND, HAS_TORCH
from timing import PEER

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
    """All figures.

    Args:
        sizes: of network and batch.
        repeats: rounds of one run of each.
        num_steps: steps of a run.
        compiled: whether to time the peer through `torch.compile`, too.
        device: of the peers, as PyTorch calls it.

    Raises:
        ValueError: ours and theirs do not compute the same.
    """
    problem = problems.make_problem(sizes, device=device)
    # Of one step: each further one multiplies the error.
    make = functools.partial(step_pairs.train_steps, problem, bound=DEEP_BOUND)
    errors = {}
    # PyTorch computes in float32: with another precision ours are timed alone.
    has_peer = HAS_TORCH and sizes.precision == 'float32'
    if has_peer:
        errors[PEER] = timing.check('model step', make(num_steps=1))
    pair = make(num_steps=num_steps)
    works = {'ours': pair.ours.run}
    if has_peer:
        works[PEER] = pair.peer.run
    unable = None
    if has_peer and compiled:
        try:
            errors[COMPILED] = timing.check(
                COMPILED, make(num_steps=1, compiled=True)
            )
            works[COMPILED] = make(num_steps=num_steps, compiled=True).peer.run
        # What it raises where it cannot compile, as without a C++ compiler.
        except RuntimeError as e:
            unable = f'{type(e).__name__}: {str(e).splitlines()[0]}'
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


def peers_setting() -> dict[str, Any]:
    """PyTorch's version and threads; nothing without it."""
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
    arguments = parser.parse_args()
    figures = measure(problems.Sizes(), repeats=arguments.repeats)
    command = f'python benchmarks/model_step.py --repeats={arguments.repeats}'
    record.write(arguments.out, command, figures)


if __name__ == '__main__':
    main()
