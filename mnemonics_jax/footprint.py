"""Whether the largest step of a run fits the devices, before it is begun.

The steps are compiled for the shapes that the run will have. JAX keeps what it
compiled, so that nothing is compiled twice: the run only starts to compile
earlier.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mnemonics_jax import components, memory
from mnemonics_jax.blocks import Block
from mnemonics_jax.data.batches import num_batches
from mnemonics_jax.inner import Exemplars
from mnemonics_jax.learner import AdjustInputs, LearnInputs, make_learner
from mnemonics_jax.train import StepInputs
from mnemonics_jax.types import ExemplarSet, Phase, Variables

_GIB = 2**30

# What to say when a device has no room in the middle of a run.
EXHAUSTED = (
    'a step does not fit the memory of the device; allowed: a smaller '
    'exemplars.microbatch (the same command goes on with it), or, in a new '
    '--workdir, a smaller train.batch_size, finetune.batch_size or '
    'evaluate.batch_size'
)


class Program(NamedTuple):
    """A jitted function and what it will be called with.

    Attributes:
        name: of what it does.
        function: jitted.
        arguments: as `jax.ShapeDtypeStruct`, but for static ones.
        field: of the configuration by which it takes less memory.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    field: str


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
    analysis = compiled.memory_analysis()
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
    return f'{size / _GIB:.2g} GiB' if np.isfinite(size) else 'more'


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


def programs(parts: components.Components, last: int) -> list[Program]:
    """The largest program of each kind that a run up to phase `last` has."""
    found = [training(parts, last)]
    if parts.config.exemplars.strategy == 'mnemonics':
        found.append(learning(parts, last))
    if parts.config.exemplars.adjust and last > 0:
        found.append(adjusting(parts))
    return found


def training(parts: components.Components, last: int) -> Program:
    """Steps of the model: from phase 1 on with the one before, and a memory."""
    trainer = parts.trainers.later if last else parts.trainers.base
    variables = abstract_variables(parts)
    held = jax.eval_shape(
        lambda: memory.empty(
            parts.source.num_classes,
            parts.slots(0),
            parts.source.image_shape,
            parts.config.exemplars.storage,
        )
    )
    inputs = StepInputs(
        reference=variables,
        exemplars=held,
        phase=PHASE,
        head_rows=INDICES,
        lr=jax.ShapeDtypeStruct((), jnp.float32),
        key=abstract_key(),
    )
    block = abstract_block(
        parts,
        min(last, 1),
        (parts.per_dispatch.train, parts.config.train.batch_size),
        held,
    )
    state = jax.eval_shape(trainer.init, variables)
    state, inputs = replicated(parts, (state, inputs))
    return Program(
        'training',
        trainer.steps,
        (state, (block, inputs), parts.per_dispatch.train),
        'train.batch_size',
    )


def learning(parts: components.Components, last: int) -> Program:
    """Steps of learning, in the phase that has the most exemplars to learn."""
    sizes = [
        (high - low) * parts.slots(min(phase, 1))
        for phase, (low, high) in enumerate(parts.bounds[: last + 1])
    ]
    num, batch = (
        parts.per_dispatch.exemplars,
        parts.config.exemplars.query_batch,
    )
    phase = int(np.argmax(sizes))
    pixels = (sizes[phase], *parts.source.image_shape)
    state = jax.eval_shape(parts.learner.init, float_array(pixels))
    inputs = LearnInputs(
        abstract_list(sizes[phase]),
        abstract_variables(parts),
        PHASE,
        NUMBER,
        abstract_key(),
        None,
    )
    state, inputs = replicated(parts, (state, inputs))
    inputs = inputs._replace(block=abstract_block(parts, phase, (num, batch)))
    return Program(
        'learning exemplars',
        parts.learner.learn,
        (state, inputs, num),
        'exemplars.microbatch',
    )


def adjusting(parts: components.Components) -> Program:
    """Steps of adjusting, in phase 1, when the memory has the most slots."""
    half = -(-parts.slots(0) // 2)
    num = parts.source.num_classes * half
    pixels = (2, num, *parts.source.image_shape)
    states = jax.eval_shape(parts.learner.init, float_array(pixels))
    inputs = AdjustInputs(
        jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype),
            abstract_list(num),
        ),
        abstract_variables(parts),
        PHASE,
        NUMBER,
        abstract_key((2,)),
    )
    return Program(
        'adjusting exemplars',
        parts.learner.adjust,
        (*replicated(parts, (states, inputs)), parts.per_dispatch.exemplars),
        'exemplars.microbatch',
    )


NUMBER = jax.ShapeDtypeStruct((), jnp.int32)
INDICES = jax.ShapeDtypeStruct((2,), jnp.int32)
PHASE = Phase(NUMBER, NUMBER, NUMBER)


def float_array(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """An array of float32."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract_key(shape: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
    """PRNG keys."""
    return jax.ShapeDtypeStruct(shape, jax.random.key(0).dtype)


def abstract_variables(parts: components.Components) -> Variables:
    """A model."""
    return jax.eval_shape(parts.backbone.init, abstract_key())


def abstract_list(num: int) -> Exemplars:
    """A flat list of exemplars."""
    return Exemplars(
        jax.ShapeDtypeStruct((num,), jnp.int32),
        jax.ShapeDtypeStruct((num,), bool),
        INDICES,
    )


def abstract_block(
    parts: components.Components,
    phase: int,
    size: tuple[int, int],
    held: ExemplarSet | None = None,
) -> Block:
    """A block of batches, as `blocks.dispatches` places it.

    Args:
        parts: of a run.
        phase: index of the phase.
        size: batches in a dispatch, and examples in a batch.
        held: the memory, where exemplars are fed, too.
    """
    low, high = parts.bounds[phase]
    if held is not None and parts.method.keeps_data:
        low = 0
    most = parts.loader.most('train', low, high)
    kinds = {'label': jnp.int32, 'index': jnp.int32, 'weight': jnp.float32}
    shape, pool = parts.source.image_shape, None
    if held is not None:
        kinds['slot'] = jnp.int32
    if parts.config.data.feed == 'device':
        kinds['row'] = jnp.int32
        slots = 0 if held is None else held.mask.size
        size = num_batches(most + slots, size[1]), size[1]
        pool = replicated(
            parts, jax.ShapeDtypeStruct((most + 1, *shape), jnp.uint8)
        )
    columns = {
        name: jax.ShapeDtypeStruct(size, kind) for name, kind in kinds.items()
    }
    if pool is None:
        columns['image'] = jax.ShapeDtypeStruct((*size, *shape), jnp.uint8)
    return Block(
        placed(columns, parts.placement.block), pool, replicated(parts, NUMBER)
    )


def replicated(parts: components.Components, tree: Any) -> Any:
    """The same, as whole arrays on every device."""
    return placed(tree, parts.placement.replicated)


def placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Abstract arrays with a sharding."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
    )
