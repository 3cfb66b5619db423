"""Training steps and exemplar steps, ours and in PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems import BOUND, HAS_TORCH, Problem, draw, make_network
from timing import Pair, Work, jit_of_a_run, jitted_work

from mnemonics_jax import bilevel, methods, train
from mnemonics_jax.config import default_config
from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import StackedBatches
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.device_batch import to_rows
from mnemonics_jax.exemplars import inner_problem
from mnemonics_jax.types import Phase

if HAS_TORCH:
    import torch_peers

LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


def train_steps(
    problem: Problem,
    *,
    num_steps: int,
    loss: str = 'cross_entropy',
    compiled: bool = False,
    bound: float = BOUND,
) -> Pair:
    """Training steps; ours are one dispatch of a scan.

    Args:
        problem: the network.
        num_steps: steps per run.
        loss: 'cross_entropy', or 'lucir' with half of the classes old.
        compiled: whether the peer uses `torch.compile`.
        bound: bound of the relative error of the updates.
    """
    images, labels = draw(problem, num_steps, problem.sizes.batch)
    num_old = problem.sizes.num_classes // 2 if loss == 'lucir' else 0
    ours = _train_steps(problem, images, labels, num_old)
    start = jax.device_get(problem.variables.params)
    bounds = {'losses': BOUND, 'updates': bound}
    if not HAS_TORCH:
        return Pair(_with_updates(ours, start), None, bounds)
    peer = torch_peers.train_steps(
        make_network(problem),
        images,
        labels,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        lucir=_margin(problem, num_old) if num_old else None,
        compiled=compiled,
    )
    return Pair(_with_updates(ours, start), _with_updates(peer, start), bounds)


def _margin(problem: Problem, num_old: int) -> Any:
    """Inputs of the peer's LUCIR loss, with our default settings."""
    settings = default_config().method.lucir
    ratio = num_old / (problem.sizes.num_classes - num_old)
    return torch_peers.Margin(
        make_network(problem, problem.reference),
        num_old,
        settings.lambda_base * ratio**0.5,
        settings.margin,
        settings.top_k,
    )


def _with_updates(work: Work, start: Any) -> Work:
    """Adds 'updates', which are small relative to 'params'."""

    def result():
        found = work.result()
        moved = jax.tree.map(np.subtract, found['params'], dict(start))
        return {**found, 'updates': moved}

    return Work(work.run, result)


def _train_steps(problem, images, labels, num_old) -> Work:
    """Our work, with the trainer of runs."""
    trainer = train.make_trainer(
        problem.backbone,
        methods.make_method(
            'lucir' if num_old else 'finetune', default_config().method
        ),
        train.StepSettings(MOMENTUM, WEIGHT_DECAY, Augmentation(), True, True),
        _placement(problem),
        with_reference=num_old > 0,
    )

    num_steps = len(labels)
    batches = _batches(images, labels)
    placement = _placement(problem)
    batches = jax.device_put(batches, placement.stacked)
    stacked = StackedBatches(batches, None, jnp.zeros((), jnp.int32))
    inputs = jax.device_put(
        _step_inputs(problem, num_old), placement.replicated
    )
    held = {'state': trainer.init(problem.variables)}

    def run():
        # Restarts the step count, so that every run has the same batches.
        state = held['state'].replace(step=jnp.zeros((), jnp.int32))
        held['state'], metrics = jax.block_until_ready(
            trainer.steps(state, (stacked, inputs), num_steps)
        )
        held['losses'] = metrics['loss']

    def result():
        params = jax.device_get(held['state'].variables.params)
        return {'losses': np.asarray(held['losses']), 'params': params}

    return Work(run, result)


def _batches(images, labels) -> dict[str, np.ndarray]:
    """Batches of real images in the form of the trainer."""
    index = np.broadcast_to(np.arange(labels.shape[1]), labels.shape)
    return {
        'image': images,
        'label': labels,
        'index': index.astype(np.int32),
        'slot': np.full(labels.shape, -1, np.int32),
        'weight': np.ones(labels.shape, np.float32),
    }


def _step_inputs(problem, num_old) -> train.StepInputs:
    """Inputs of a step besides its batch; the memory is empty."""
    size, count = problem.sizes.image_size, problem.sizes.num_classes
    return train.StepInputs(
        reference=problem.reference,
        exemplars=to_rows(np.zeros((count, size, size, 3), np.float32)),
        phase=Phase(*np.int32([num_old > 0, num_old, count])),
        head_rows=np.int32([0, count]),
        lr=np.float32(LR),
        key=jax.random.key(0),
    )


def exemplar_step(
    problem: Problem,
    *,
    scope: str,
    inner_steps: int,
    num: int,
    batch: int,
    query: int,
    inner_lr: float = 0.01,
    bound: float = BOUND,
) -> Pair:
    """The pixel gradient of the query loss through the inner steps.

    Args:
        problem: the network.
        scope: 'all' or 'head', see `inner_problem.LearnerSettings`.
        inner_steps: T.
        num: number of exemplars.
        batch: exemplars per inner step.
        query: number of query images.
        inner_lr: learning rate of the inner steps.
        bound: bound of the relative error of the gradient.
    """
    pixels, labels = draw(problem, num)
    images, targets = draw(problem, query, seed=1)
    indices = _minibatches(num, inner_steps, batch)
    ours = jitted_work(
        *_exemplar_step(
            problem, scope, inner_lr, indices, (pixels, labels, images, targets)
        )
    )
    bounds = {'loss': BOUND, 'grads': bound}
    if not HAS_TORCH:
        return Pair(ours, None, bounds)
    peer = torch_peers.exemplar_step(
        make_network(problem),
        pixels,
        labels,
        indices,
        (images, targets),
        inner_lr=inner_lr,
        scope=scope,
    )
    return Pair(ours, peer, bounds)


def temporary_bytes(
    problem: Problem, *, inner_steps: int, num: int, query: int
) -> int:
    """Peak temporary bytes of our exemplar step, from the compiler.

    The inner steps train all parameters on all `num` exemplars.
    """
    arrays = (*draw(problem, num), *draw(problem, query, seed=1))
    indices = _minibatches(num, inner_steps, num)
    gradient, arguments = _exemplar_step(problem, 'all', 0.01, indices, arrays)
    compiled = gradient.lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def _minibatches(num: int, inner_steps: int, batch: int) -> np.ndarray:
    """Indices int32[T, b] of the exemplars in each inner step."""
    random = np.random.default_rng(2)
    indices = [random.permutation(num)[:batch] for _ in range(inner_steps)]
    return np.stack(indices).astype(np.int32)


def _exemplar_step(problem, scope, inner_lr, indices, arrays) -> Any:
    """Ours, jitted, and its arguments.

    `(variables, pixels, exemplars, query) -> results` on (pixels, labels, query
    images, query labels).
    """
    sgd = optax.sgd(inner_lr)
    settings = inner_problem.LearnerSettings(
        inner_steps=len(indices),
        inner_lr=inner_lr,
        inner_batch=indices.shape[1],
        inner_scope=scope,
        inner_start='current',
        outer_tx=sgd,
        adjust_tx=sgd,
        query_batch=0,
        query_augmentation=Augmentation(),
    )
    context = inner_problem.LearnerContext(
        problem.backbone, settings, inner_problem.layout_of(_placement(problem))
    )
    phase = Phase(*np.int32([0, 0, problem.sizes.num_classes]))

    @jit_of_a_run
    def gradient(variables, pixels, exemplars, query):
        made = inner_problem.inner_problem(
            context,
            inner_problem.ExemplarProblem(
                variables, exemplars, phase, jax.random.key(0), np.int32(1)
            ),
        )
        # Uses the peer's minibatches instead of random ones.
        grads, metrics = bilevel.pixel_gradient(
            made.problem, made.params, pixels, exemplars.labels, indices, query
        )
        return {'loss': metrics['outer_loss'], 'grads': grads}

    pixels, labels, images, targets = arrays
    exemplars = inner_problem.FlatExemplars(
        labels,
        np.ones(len(labels), bool),
        np.int32([0, problem.sizes.num_classes]),
    )
    query = bilevel.Query(images, targets, np.ones(len(targets), np.float32))
    return gradient, jax.device_put(
        (problem.variables, pixels, exemplars, query)
    )


def _placement(problem: Problem) -> parallel.Placement:
    return parallel.make_placement(jax.devices()[: problem.sizes.num_devices])
