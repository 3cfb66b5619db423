"""Whether the largest step of a run fits the devices, before it is begun.

The steps are compiled for the shapes that the run will have. JAX keeps what it
compiled, so that nothing is compiled twice: the run only starts to compile
earlier.
"""

from typing import Any

import jax
import ml_collections
import numpy as np

from mnemonics_jax.exemplars.steps import make_learner
from mnemonics_jax.experiment import components
from mnemonics_jax.experiment.step_shapes import Program, programs

_GIB = 2**30

# What to say when a device has no room in the middle of a run.
EXHAUSTED = (
    'a step does not fit the memory of the device; allowed: a smaller '
    'exemplars.microbatch (the same command goes on with it), or, in a new '
    '--workdir, a smaller train.batch_size, finetune.batch_size or '
    'evaluate.batch_size'
)


def check(
    parts: components.Components, last: int, room: int | None
) -> str | None:
    """Compares what the largest step needs with what there is.

    Args:
        parts: of a run.
        last: index of its last phase.
        room: bytes of a device, see `room_on_device`; None if that is unknown,
            and then nothing is compiled.

    Returns:
        A line about the largest step; None if nothing is known.

    Raises:
        ValueError: it does not fit; one line with a setting that does.
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


def room_on_device() -> int | None:
    """Bytes that a program may use on the smallest of this process' devices.

    None on CPU: its memory is shared with all else, and can be swapped.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits = [s['bytes_limit'] for s in stats if 'bytes_limit' in s]
    return min(limits) if limits else None


def needed(program: Program) -> float:
    """Bytes on each device: arguments, results, and what lies between.

    Infinite if the compiler itself, as that for TPUs does, finds no room.
    """
    try:
        compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as e:
        if is_exhausted(e):
            return float('inf')
        raise
    analysis: Any = compiled.memory_analysis()
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def is_exhausted(error: BaseException) -> bool:
    """Whether something failed for want of memory on a device."""
    return 'RESOURCE_EXHAUSTED' in str(error)


def in_gib(size: float) -> str:
    """Bytes in words; what the compiler could not count, too."""
    return f'{size / _GIB:,.1f} GiB' if np.isfinite(size) else 'more'


def explain(
    parts: components.Components,
    last: int,
    program: Program,
    need: float,
    room: int,
) -> str:
    """What does not fit, and the largest setting among halves that does."""
    section, name = program.field.split('.')
    current, step = parts.config[section][name], parts.placement.num_devices
    size = current or max(parts.config.exemplars.query_batch, step)
    allowed = f'more than {step} devices, or a smaller backbone'
    while size > step:
        # In multiples of the number of devices, as `check_batches` wants.
        size = -(-size // (2 * step)) * step
        tried = named(with_setting(parts, program.field, size), last, program)
        if needed(tried) <= room:
            allowed = f'{size}'
            break
    return (
        f'{program.field}={current}: {program.name} needs {in_gib(need)} of '
        f'the {in_gib(room)} on each device; allowed: {allowed}'
    )


def with_setting(
    parts: components.Components, field: str, size: int
) -> components.Components:
    """The components as another value of one of `Program.field` has them."""
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
