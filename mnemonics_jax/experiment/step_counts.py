"""How many steps of each program a run takes."""

from collections.abc import Mapping

import numpy as np

from mnemonics_jax.data.batches import num_batches
from mnemonics_jax.exemplars import strategies
from mnemonics_jax.experiment.components import Components

# Programs of the resumable loops, by name of the loop and in their order.
PROGRAMS = {
    'train': 'training',
    'learn': 'learning exemplars',
    'adjust': 'adjusting exemplars',
    'finetune': 'fine-tuning',
}


def steps_of_run(parts: Components, last: int) -> dict[str, int]:
    """Steps of a run up to phase `last`, by `step_shapes.Program.name`.

    Examples that a method holds out of training count as trained on.
    """
    counts = dict.fromkeys(
        (
            'training',
            'learning exemplars',
            'adjusting exemplars',
            'fine-tuning',
            'features',
            'evaluation',
        ),
        0,
    )
    for phase in range(last + 1):
        for name, steps in steps_of_phase(parts, phase).items():
            counts[name] += steps
    return {name: steps for name, steps in counts.items() if steps}


def steps_of_loops(parts: Components, last: int) -> list[Mapping[str, int]]:
    """Steps of each phase up to `last`, by name of the loop and in order."""
    counts = [steps_of_phase(parts, phase) for phase in range(last + 1)]
    return [
        {loop: n[name] for loop, name in PROGRAMS.items() if n.get(name)}
        for n in counts
    ]


def steps_of_phase(parts: Components, phase: int) -> dict[str, int]:
    """Steps of a phase by program."""
    config, ex = parts.config, parts.config.exemplars
    low, high = parts.bounds[phase]
    sizes = parts.class_sizes()[parts.order]
    new, seen = int(sizes[low:high].sum()), int(sizes[:high].sum())
    keeps = strategies.keeps(ex.strategy)

    def held(num_classes: int, slots: int) -> int:
        return int(np.minimum(sizes[:num_classes], slots).sum()) * keeps

    old = held(low, parts.slots(phase - 1)) if phase else 0
    trained = seen if parts.method.keeps_data else new + old
    found = {
        'training': config.train.epochs
        * num_batches(trained, config.train.batch_size),
        'evaluation': (1 + config.evaluate.oracle)
        * num_batches(tests_seen(parts, high), config.evaluate.batch_size),
    }
    selects = ex.init if strategies.learns(ex.strategy) else ex.strategy
    passes = (keeps and selects != 'random') + bool(
        phase and config.method.imprint
    )
    size = config.evaluate.batch_size
    found['features'] = passes * num_batches(new, size)
    if config.evaluate.oracle:
        found['features'] += num_batches(seen, size)
    if not keeps:
        return found
    if strategies.learns(ex.strategy):
        found['learning exemplars'] = ex.outer_steps or (
            ex.outer_epochs * num_batches(new, ex.query_batch)
        )
    if ex.adjust and phase:
        steps = ex.adjust_steps or (
            ex.outer_epochs * num_batches(-(-old // 2), ex.query_batch)
        )
        found['adjusting exemplars'] = 2 * steps  # One for each half.
    found['fine-tuning'] = config.finetune.epochs * num_batches(
        held(high, parts.slots(phase)), config.finetune.batch_size
    )
    return found


def tests_seen(parts: Components, num_seen: int) -> int:
    """Number of test images of the first `num_seen` classes."""
    sizes = np.bincount(
        parts.source.labels['test'], minlength=parts.source.num_classes
    )
    return int(sizes[parts.order][:num_seen].sum())
