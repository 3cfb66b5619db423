"""The largest programs of a run and the shapes of their arguments.

Shapes, dtypes and placements equal those of the run (a test checks it), so that
JAX reuses what was compiled for them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnemonics_jax.bilevel import ExemplarState
from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import StackedBatches
from mnemonics_jax.data.batches import num_batches
from mnemonics_jax.data.device_batch import ImageRows, to_rows
from mnemonics_jax.exemplars import memory, objectives, strategies
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    FlatExemplars,
    OldExemplars,
)
from mnemonics_jax.experiment import components
from mnemonics_jax.experiment.step_counts import steps_of_run
from mnemonics_jax.train import StepInputs, Trainer
from mnemonics_jax.train.evaluation import CLASSIFIERS, Counts
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
        num_steps: steps in a call.
        num_images: images in a batch of a step, 0 if it reads none.
    """

    name: str
    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    field: str
    num_steps: int
    num_images: int


def programs(
    parts: components.Components, last: int, first: int = 0
) -> list[Program]:
    """The largest program of each kind in the phases `first` to `last`."""
    found, phases = [training(parts, last)], range(first, last + 1)
    strategy = parts.config.exemplars.strategy
    if strategies.learns(strategy):
        found.append(learning(parts, phases))
    if parts.config.exemplars.adjust and last > 0:
        found.append(adjusting(parts))
    if strategies.keeps(strategy):
        found.append(finetuning(parts, phases))
    if steps_of_run(parts, last).get('features'):
        found.append(features(parts, last))
    return [*found, evaluation(parts, last)]


def training(parts: components.Components, last: int) -> Program:
    """Training steps; from phase 1 on with a reference model and a memory."""
    low, high = parts.bounds[min(last, 1)]
    most = parts.loader.max_images(
        'train', 0 if parts.method.keeps_data else low, high
    )
    old = parts.bounds[last][0] * parts.slots(max(last - 1, 0))
    trainer = parts.trainers.later if last else parts.trainers.base
    return training_on(parts, 'training', trainer, 'train', (most, old))


def finetuning(parts: components.Components, phases: range) -> Program:
    """Steps of fine-tuning, which read exemplars alone."""
    most = max(parts.bounds[phase][1] * parts.slots(phase) for phase in phases)
    trainer = parts.trainers.finetune
    return training_on(parts, 'fine-tuning', trainer, 'finetune', (0, most))


def training_on(
    parts: components.Components,
    name: str,
    trainer: Trainer,
    section: str,
    images: tuple[int, int],
) -> Program:
    """Steps of a trainer.

    Args:
        parts: components of a run.
        name: name of the program.
        trainer: the functions.
        section: section of the configuration with the size of a batch.
        images: most real images, and most exemplars, of an epoch.
    """
    size = parts.config[section].batch_size
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
    num = in_dispatch(sum(images), size, parts.per_dispatch.train)
    stacked = abstract_batches(parts, images[0], (num, size), held)
    state = jax.eval_shape(trainer.init, variables)
    state, inputs = replicated(parts, (state, inputs))
    inputs = inputs._replace(key=some_key(parts))
    field = f'{section}.batch_size'
    arguments = state, (stacked, inputs), num
    return Program(name, trainer.steps, arguments, field, num, size)


def in_dispatch(in_epoch: int, size: int, num: int) -> int:
    """Steps in the largest dispatch, see `multistep.dispatches`."""
    return num if num_batches(in_epoch, size) >= num else 1


def learning(parts: components.Components, phases: range) -> Program:
    """Steps of learning, in the phase that learns the most exemplars."""
    ex = parts.config.exemplars
    sizes = {p: parts.rows(p) * parts.slots(min(p, 1)) for p in phases}
    reads = objectives.reads_old(ex.objective)
    # Of phases that learn equally many, one that reads old exemplars as well.
    phase = max(phases, key=lambda p: 2 * sizes[p] + (reads and p > 0))
    pixels = (sizes[phase], *parts.source.image_shape)
    state = abstract_state(parts, pixels)
    problem = abstract_problem(
        parts,
        abstract_list(sizes[phase]),
        abstract_old(parts) if reads and phase else None,
    )
    problem = replicated(parts, problem)._replace(
        kept=shared(parts, abstract_kept(parts, sizes[phase]))
    )
    most = parts.loader.max_images('train', *parts.bounds[phase])
    num = in_dispatch(most, ex.query_batch, parts.per_dispatch.exemplars)
    problem = problem._replace(
        key=some_key(parts),
        query=abstract_batches(parts, most, (num, ex.query_batch)),
    )
    return Program(
        'learning exemplars',
        parts.learner.learn,
        (state, problem, num),
        'exemplars.microbatch',
        num,
        ex.query_batch,
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
    states = abstract_state(parts, pixels, axis=1)
    problem = replicated(parts, abstract_problem(parts, both))
    steps = parts.per_dispatch.exemplars
    return Program(
        'adjusting exemplars',
        parts.learner.adjust,
        (states, problem._replace(key=some_key(parts, 2)), steps),
        'exemplars.microbatch',
        steps,
        0,
    )


def features(parts: components.Components, last: int) -> Program:
    """Features of a batch of training images, in the largest phase."""
    size, bounds = parts.config.evaluate.batch_size, parts.bounds
    most = max(
        parts.loader.max_images('train', *bounds[phase])
        for phase in range(min(last, 1) + 1)
    )
    if parts.config.evaluate.oracle:  # Of all classes seen.
        most = parts.loader.max_images('train', 0, bounds[last][1])
    variables = replicated(parts, abstract_variables(parts))
    return Program(
        'features',
        parts.evaluator.embed,
        (variables, abstract_batch(parts, most, size)),
        'evaluate.batch_size',
        1,
        size,
    )


def evaluation(parts: components.Components, last: int) -> Program:
    """Counts of a batch of test images by all classifiers, in phase `last`."""
    size, num = parts.config.evaluate.batch_size, parts.source.num_classes
    most = parts.loader.max_images('test', 0, parts.bounds[last][1])
    rows = len(CLASSIFIERS)
    counts = Counts(
        jax.ShapeDtypeStruct((rows, num, num), jnp.int32),
        jax.ShapeDtypeStruct((rows, num), jnp.int32),
    )
    variables = abstract_variables(parts)
    models = variables, variables, abstract_means(parts)
    counts, models = replicated(parts, (counts, models))
    return Program(
        'evaluation',
        parts.evaluator.count,
        (counts, models, abstract_batch(parts, most, size), NUMBER),
        'evaluate.batch_size',
        1,
        size,
    )


def abstract_state(
    parts: components.Components, pixels: tuple[int, ...], axis: int = 0
) -> ExemplarState:
    """The state of learning pixels of a shape, as `Learner.init` places it."""
    state = jax.eval_shape(parts.learner.init, float_array(parts, pixels))
    return shared(parts, state, axis)


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


def some_key(
    parts: components.Components, num: int | None = None
) -> jax.Array | jax.ShapeDtypeStruct:
    """A key or `num` keys: real ones, since JAX compares them with a run's.

    Devices that are only described hold none, and get shapes.
    """
    key = jax.random.key(0)
    if num is not None:
        key = jax.random.split(key, num)
    if parallel.described_platform():
        return replicated(parts, jax.ShapeDtypeStruct(key.shape, key.dtype))
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


def abstract_means(parts: components.Components) -> jax.ShapeDtypeStruct:
    """A mean of features for each class."""
    found = jax.eval_shape(
        lambda variables, image: parts.backbone.embed(variables, image)[0],
        abstract_variables(parts),
        float_array(parts, (1, *parts.source.image_shape)),
    )
    return float_array(parts, (parts.source.num_classes, *found.shape[1:]))


def abstract_old(parts: components.Components) -> OldExemplars:
    """The memory and its means."""
    return OldExemplars(abstract_memory(parts), abstract_means(parts))


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
    most: int,
    size: tuple[int, int],
    held: ExemplarSet | None = None,
) -> StackedBatches:
    """Stacked batches, as `multistep.dispatches` places them.

    Args:
        parts: components of a run.
        most: images of the largest phase.
        size: batches in a dispatch, and examples in a batch.
        held: the memory, where exemplars are fed, too.
    """
    if parts.config.data.feed == 'device':
        slots = 0 if held is None else held.mask.size
        size = num_batches(most + slots, size[1]), size[1]
    columns, pool = abstract_columns(parts, most, size)
    if held is not None:
        columns['slot'] = jax.ShapeDtypeStruct(size, jnp.int32)
    return StackedBatches(
        placed(columns, parts.placement.stacked),
        pool,
        replicated(parts, NUMBER),
    )


def abstract_batch(
    parts: components.Components, most: int, size: int
) -> dict[str, Any]:
    """A batch of `size` examples, as `parallel.shard_batch` places it."""
    columns, pool = abstract_columns(parts, most, (size,))
    batch: dict[str, Any] = placed(columns, parts.placement.batch)
    return batch if pool is None else {**batch, 'pool': pool}


def abstract_columns(
    parts: components.Components, most: int, size: tuple[int, ...]
) -> tuple[dict[str, jax.ShapeDtypeStruct], ImageRows | None]:
    """Columns of batches, and the images that they index; see `BatchFeed`."""
    shape, pool = parts.source.image_shape, None
    kinds = {'label': jnp.int32, 'index': jnp.int32, 'weight': jnp.float32}
    if parts.config.data.feed == 'device':
        kinds['row'] = jnp.int32
        images = jax.ShapeDtypeStruct((most + 1, *shape), jnp.uint8)
        pool = replicated(parts, jax.eval_shape(to_rows, images))
    columns = {
        name: jax.ShapeDtypeStruct(size, kind) for name, kind in kinds.items()
    }
    if pool is None:
        columns['image'] = jax.ShapeDtypeStruct((*size, *shape), jnp.uint8)
    return columns, pool


def replicated(parts: components.Components, tree: Any) -> Any:
    """The same tree, replicated on every device."""
    return placed(tree, parts.placement.replicated)


def shared(parts: components.Components, tree: Any, axis: int = 0) -> Any:
    """The same tree, placed as `Placement.sharing` says."""
    return jax.tree.map(
        lambda x: placed(x, parts.placement.sharing(x.shape, axis)), tree
    )


def placed(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Abstract arrays with a sharding."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
    )
