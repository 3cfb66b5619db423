"""The largest programs of a run and the shapes of their arguments.

Shapes, dtypes and placements equal those of the run (a test checks it), so that
JAX reuses what was compiled for them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import StackedBatches
from mnemonics_jax.data.batches import num_batches
from mnemonics_jax.data.device_batch import to_rows
from mnemonics_jax.exemplars import memory, objectives, strategies
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    FlatExemplars,
    OldExemplars,
)
from mnemonics_jax.experiment import components
from mnemonics_jax.train import StepInputs
from mnemonics_jax.types import ExemplarSet, Phase, Variables

NUMBER = jax.ShapeDtypeStruct((), jnp.int32)
INDICES = jax.ShapeDtypeStruct((2,), jnp.int32)
PHASE = Phase(NUMBER, NUMBER, NUMBER)


class Program(NamedTuple):
    """A jitted function and the shapes of its arguments.

    Attributes:
        name: name for messages.
        function: jitted function.
        arguments: `jax.ShapeDtypeStruct`s; real keys and static arguments.
        field: configuration field that reduces its memory.
    """

    name: str
    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    field: str


def programs(parts: components.Components, last: int) -> list[Program]:
    """The largest program of each kind in a run up to phase `last`."""
    found = [training(parts, last)]
    if strategies.learns(parts.config.exemplars.strategy):
        found.append(learning(parts, last))
    if parts.config.exemplars.adjust and last > 0:
        found.append(adjusting(parts))
    return found


def training(parts: components.Components, last: int) -> Program:
    """Training steps; from phase 1 on with a reference model and a memory."""
    trainer = parts.trainers.later if last else parts.trainers.base
    variables = abstract_variables(parts)
    held = abstract_memory(parts)
    inputs = StepInputs(
        reference=variables,
        exemplars=jax.eval_shape(to_rows, held.images),
        phase=PHASE,
        head_rows=INDICES,
        lr=float_array(parts, ()),
        key=None,
    )
    stacked = abstract_batches(
        parts,
        min(last, 1),
        (parts.per_dispatch.train, parts.config.train.batch_size),
        held,
    )
    state = jax.eval_shape(trainer.init, variables)
    state, inputs = replicated(parts, (state, inputs))
    inputs = inputs._replace(key=some_key(parts))
    return Program(
        'training',
        trainer.steps,
        (state, (stacked, inputs), parts.per_dispatch.train),
        'train.batch_size',
    )


def learning(parts: components.Components, last: int) -> Program:
    """Steps of learning, in the phase that learns the most exemplars."""
    ex, num = parts.config.exemplars, parts.per_dispatch.exemplars
    sizes = [
        parts.rows(phase) * parts.slots(min(phase, 1))
        for phase in range(last + 1)
    ]
    reads = objectives.reads_old(ex.objective)
    # Of phases that learn equally many, one that reads old exemplars as well.
    phase = int(
        np.argmax([2 * s + (reads and i > 0) for i, s in enumerate(sizes)])
    )
    pixels = (sizes[phase], *parts.source.image_shape)
    state, problem = replicated(
        parts,
        (
            jax.eval_shape(parts.learner.init, float_array(parts, pixels)),
            abstract_problem(
                parts,
                abstract_list(sizes[phase]),
                abstract_old(parts) if reads and phase else None,
            )._replace(kept=abstract_kept(parts, sizes[phase])),
        ),
    )
    problem = problem._replace(
        key=some_key(parts),
        query=abstract_batches(parts, phase, (num, ex.query_batch)),
    )
    return Program(
        'learning exemplars',
        parts.learner.learn,
        (state, problem, num),
        'exemplars.microbatch',
    )


def adjusting(parts: components.Components) -> Program:
    """Steps of adjusting, in phase 1, when the memory has the most slots."""
    half = -(-parts.slots(0) // 2)
    num = parts.source.num_classes * half
    pixels = (2, num, *parts.source.image_shape)
    both = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype),
        abstract_list(num),
    )
    states, problem = replicated(
        parts,
        (
            jax.eval_shape(parts.learner.init, float_array(parts, pixels)),
            abstract_problem(parts, both),
        ),
    )
    return Program(
        'adjusting exemplars',
        parts.learner.adjust,
        (
            states,
            problem._replace(key=some_key(parts, 2)),
            parts.per_dispatch.exemplars,
        ),
        'exemplars.microbatch',
    )


def abstract_problem(
    parts: components.Components,
    listed: FlatExemplars,
    old: OldExemplars | None = None,
) -> ExemplarProblem:
    """The problem of a stage, without its key and its query."""
    variables = abstract_variables(parts)
    return ExemplarProblem(variables, listed, PHASE, None, NUMBER, old=old)


def float_array(
    parts: components.Components, shape: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """An array of the dtype that the run computes in."""
    return jax.ShapeDtypeStruct(shape, abstract_variables(parts).dtype)


def some_key(parts: components.Components, num: int | None = None) -> jax.Array:
    """A real key or `num` keys: JAX compares them with those of a run."""
    key = jax.random.key(0)
    if num is not None:
        key = jax.random.split(key, num)
    return parallel.replicate_key(parts.placement, key)


def abstract_variables(parts: components.Components) -> Variables:
    """A model."""
    return jax.eval_shape(parts.backbone.init, jax.random.key(0))


def abstract_memory(parts: components.Components) -> ExemplarSet:
    """The memory of a run."""
    return jax.eval_shape(
        lambda: memory.empty(
            parts.source.num_classes,
            parts.slots(0),
            parts.source.image_shape,
            parts.storage.dtype,
        )
    )


def abstract_old(parts: components.Components) -> OldExemplars:
    """The memory and its means."""
    held = abstract_memory(parts)
    features = jax.eval_shape(
        lambda variables, image: parts.backbone.embed(variables, image)[0],
        abstract_variables(parts),
        float_array(parts, (1, *parts.source.image_shape)),
    )
    return OldExemplars(
        held, float_array(parts, (len(held.mask), *features.shape[1:]))
    )


def abstract_list(num: int) -> FlatExemplars:
    """A flat list of exemplars."""
    return FlatExemplars(
        jax.ShapeDtypeStruct((num,), jnp.int32),
        jax.ShapeDtypeStruct((num,), bool),
        INDICES,
    )


def abstract_kept(
    parts: components.Components, num: int
) -> jax.ShapeDtypeStruct | None:
    """Coefficients of `num` exemplars that may change, if a codec has any."""
    if parts.storage.kept is None:
        return None
    return jax.ShapeDtypeStruct((num, *parts.storage.kept_shape), bool)


def abstract_batches(
    parts: components.Components,
    phase: int,
    size: tuple[int, int],
    held: ExemplarSet | None = None,
) -> StackedBatches:
    """Stacked batches, as `multistep.dispatches` places them.

    Args:
        parts: components of a run.
        phase: index of the phase.
        size: batches in a dispatch, and examples in a batch.
        held: the memory, where exemplars are fed, too.
    """
    low, high = parts.bounds[phase]
    if held is not None and parts.method.keeps_data:
        low = 0
    most = parts.loader.max_images('train', low, high)
    kinds = {'label': jnp.int32, 'index': jnp.int32, 'weight': jnp.float32}
    shape, pool = parts.source.image_shape, None
    if held is not None:
        kinds['slot'] = jnp.int32
    if parts.config.data.feed == 'device':
        kinds['row'] = jnp.int32
        slots = 0 if held is None else held.mask.size
        size = num_batches(most + slots, size[1]), size[1]
        images = jax.ShapeDtypeStruct((most + 1, *shape), jnp.uint8)
        pool = replicated(parts, jax.eval_shape(to_rows, images))
    columns = {
        name: jax.ShapeDtypeStruct(size, kind) for name, kind in kinds.items()
    }
    if pool is None:
        columns['image'] = jax.ShapeDtypeStruct((*size, *shape), jnp.uint8)
    return StackedBatches(
        placed(columns, parts.placement.stacked),
        pool,
        replicated(parts, NUMBER),
    )


def replicated(parts: components.Components, tree: Any) -> Any:
    """The same tree, replicated on every device."""
    return placed(tree, parts.placement.replicated)


def placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Abstract arrays with a sharding."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
    )
