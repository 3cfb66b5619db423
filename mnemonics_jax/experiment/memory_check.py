"""Checks before a run that its largest step fits into device memory.

The steps are compiled for the shapes of the run. JAX caches them, so that
nothing is compiled twice.
"""

from typing import Any

import jax
import ml_collections
import numpy as np

from mnemonics_jax.exemplars.steps import make_learner
from mnemonics_jax.experiment import components
from mnemonics_jax.experiment.step_shapes import Program, programs

_GIB = 2**30

# Message when a device runs out of memory in the middle of a run.
EXHAUSTED = (
    'a step does not fit into device memory: rerun the command with a smaller '
    'exemplars.microbatch or data.feed=tfdata to resume, or start in a new '
    '--workdir with a '
    'smaller train.batch_size, finetune.batch_size or evaluate.batch_size'
)


def check(
    parts: components.Components, last: int, room: int | None
) -> str | None:
    """Compares the memory of the largest step with that of a device.

    Args:
        parts: components of a run.
        last: index of its last phase.
        room: bytes of a device, see `parallel.room_on_device`; None if unknown,
            then nothing is compiled.

    Returns:
        A line about the largest step; None if `room` is None.

    Raises:
        ValueError: the step does not fit; the message has a setting that does.
    """
    if room is None:
        return None
    found = [(needed(program), program) for program in programs(parts, last)]
    most, largest = max(found, key=lambda pair: pair[0])
    for need, program in found:
        if need > room:
            raise ValueError(explain(parts, last, program, need, room))
    return (
        f'largest step: {largest.name}, {in_gib(most)} of {in_gib(room)} on '
        'each device'
    )


def needed(program: Program) -> float:
    """Bytes on each device for arguments, results and temporaries.

    Infinite if compilation fails for lack of memory, as on TPUs.
    """
    try:
        compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as e:
        if is_exhausted(e):
            return float('inf')
        raise
    return bytes_of(compiled.memory_analysis())


def bytes_of(analysis: Any) -> int:
    """Bytes on each device, from `Compiled.memory_analysis`."""
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def is_exhausted(error: BaseException) -> bool:
    """Whether an error means that a device ran out of memory."""
    return 'RESOURCE_EXHAUSTED' in str(error)


def in_gib(size: float) -> str:
    """Bytes as GiB; 'more' for infinity."""
    return f'{size / _GIB:,.1f} GiB' if np.isfinite(size) else 'more'


def explain(
    parts: components.Components,
    last: int,
    program: Program,
    need: float,
    room: int,
) -> str:
    """Message on a step that does not fit: halves the setting until it does."""
    section, name = program.field.split('.')
    current, step = parts.config[section][name], parts.placement.num_devices
    size = current or max(parts.config.exemplars.query_batch, step)
    text = (
        f'{program.field}={current}: {program.name} needs {in_gib(need)} of '
        f'the {in_gib(room)} on each device'
    )
    while size > step:
        # A multiple of the number of devices, see `check_batches`.
        size = -(-size // (2 * step)) * step
        tried = named(with_setting(parts, program.field, size), last, program)
        if needed(tried) <= room:
            return f'{text}, must be at most {size}'
    return (
        f'{text}, and no smaller value fits: must be run on more than {step} '
        'devices or with a smaller backbone'
    )


def with_setting(
    parts: components.Components, field: str, size: int
) -> components.Components:
    """The components with another value of `Program.field`."""
    config = ml_collections.ConfigDict(parts.config.to_dict())
    config.update_from_flattened_dict({field: size})
    config = ml_collections.FrozenConfigDict(config)
    settings = components.learner_settings(config, parts.source)
    learner = make_learner(parts.backbone, settings, parts.placement)
    return parts._replace(config=config, learner=learner)


def named(parts: components.Components, last: int, program: Program) -> Program:
    """The program of the same name."""
    found = {other.name: other for other in programs(parts, last)}
    return found[program.name]
