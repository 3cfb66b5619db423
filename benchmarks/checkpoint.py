"""Measures the cost of saving in the middle of a stage.

    python benchmarks/checkpoint.py \
        --out=benchmarks/results/checkpoint_cpu.json

Trains ResNet-32 on batches of 128 with the loop of runs, saving every ten
steps. A save blocks the loop and slows the next step by writing in the
background, so its cost is the time of the two steps around it minus that of two
other steps. It is reported relative to the default `checkpoint.every_seconds`,
10 and 100 steps.
"""

import argparse
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pipeline
import record

from mnemonics_jax import config, experiment
from mnemonics_jax.core import multistep
from mnemonics_jax.core.multistep import Dispatch, Loop
from mnemonics_jax.experiment import components
from mnemonics_jax.train.checkpoint import Checkpointer, LoopPosition
from mnemonics_jax.train.loop import ResumableLoops, SavePolicy
from mnemonics_jax.train.metric_writer import Recorder

EVERY, STEPS = 10, 80


class Timed(Checkpointer):
    """A checkpointer that measures how long saves block the loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See `Checkpointer`."""
        super().__init__(*arguments, **options)
        self.seconds: list[float] = []

    def save_within(
        self, position: LoopPosition, states: dict[str, Any]
    ) -> None:
        """Saves after earlier steps are done, so that they are not measured."""
        jax.block_until_ready(states)
        start = time.perf_counter()
        super().save_within(position, states)
        self.seconds.append(time.perf_counter() - start)


def make_round() -> tuple[Callable[[int], Loop], Callable[[], Any]]:
    """Functions that make a loop of n steps, and an initial state."""
    parts = components.build(
        pipeline.settings(
            data__source='synthetic',
            data__num_classes=100,
            data__train_per_class=20,
            data__image_size=32,
        )
    )
    carry = experiment.first_carry(parts)
    feed = parts.loader.examples('train', 0, 50).feed(pipeline.BATCH)
    batch = next(feed.epoch(np.arange(pipeline.BATCH)))
    slots = np.full(pipeline.BATCH, -1, np.int32)
    stacked = multistep.single(parts.placement, {**batch, 'slot': slots})
    inputs, trainer = pipeline.step_inputs(parts, carry), parts.trainers.base

    def loop(num_steps: int) -> Loop:
        def dispatches(first: int) -> Iterator[Dispatch]:
            one = Dispatch(1, pipeline.BATCH, (stacked, inputs))
            return itertools.repeat(one, num_steps - first)

        return Loop(
            name='train',
            num_steps=num_steps,
            dispatches=dispatches,
            step=lambda number, state, dispatch: trainer.steps(
                state, dispatch.inputs, 1
            ),
            mark=lambda number: (
                {'step': number} if number + 1 == num_steps else None
            ),
        )

    return loop, lambda: trainer.init(carry.variables)


def time_steps(
    loop: Loop, state: Any, every: int, scratch: pathlib.Path
) -> tuple[list[float], list[float]]:
    """Seconds between step starts, including saves; seconds of each save."""
    starts = []

    def step(number: int, state: Any, dispatch: Dispatch) -> Any:
        jax.block_until_ready(state)
        starts.append(time.perf_counter())
        return jax.block_until_ready(loop.step(number, state, dispatch))

    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        Timed(folder, keep=2) as checkpointer,
        Recorder(pathlib.Path(folder), first_phase=0) as recorder,
    ):
        loops = ResumableLoops(checkpointer, policy=SavePolicy(every, 0))
        loops.open_phase(0)
        loops.run(loop._replace(step=step), state, recorder)
        checkpointer.wait()
    return np.diff(starts).tolist(), checkpointer.seconds


def measure(scratch: pathlib.Path) -> dict[str, Any]:
    """All figures."""
    make_loop, make_state = make_round()
    time_steps(make_loop(3), make_state(), 1, scratch)  # Warms up.
    seconds, waits = time_steps(make_loop(STEPS), make_state(), EVERY, scratch)
    # The first save is after step EVERY - 1, counted from 0.
    saves = range(EVERY - 1, STEPS - 2, EVERY)
    beside = [seconds[i] + seconds[i + 1] for i in saves]
    plain = [x for i, x in enumerate(seconds) if (i + 1) % EVERY > 1]
    step, wait = statistics.median(plain), statistics.median(waits)
    # A cost below the wait is noise.
    cost = max(wait, statistics.median(beside) - 2 * step)
    default = config.default_config().checkpoint.every_seconds
    return {
        'state_bytes': sum(x.nbytes for x in jax.tree.leaves(make_state())),
        'saves': len(waits),
        'seconds_a_step': step,
        'seconds_the_loop_waits_for_a_save': wait,
        'the_longest_of_them': max(waits),
        'seconds_a_save_costs_in_all': cost,
        'overhead_percent': {
            'every 10 steps': 100 * cost / (10 * step),
            'every 100 steps': 100 * cost / (100 * step),
            f'every {default:g} seconds (default)': 100 * cost / default,
        },
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(pathlib.Path(scratch))
    sizes = {
        'backbone': 'resnet32',
        'batch_size': pipeline.BATCH,
        'steps': STEPS,
        'saved_every': EVERY,
    }
    command = 'python benchmarks/checkpoint.py'
    record.write(arguments.out, command, {**sizes, **figures})


if __name__ == '__main__':
    main()
