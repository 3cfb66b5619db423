"""One phase of class-incremental learning, stage by stage.

Each stage is a function of the components, of what is known so far, and of
nothing else; `run_phase` is their order (the paper, Algorithm 1).
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax import evaluate, exemplars, memory, parallel, train
from mnemonics_jax.backbones import heads
from mnemonics_jax.components import Components
from mnemonics_jax.data import pipeline, sources
from mnemonics_jax.progress import Recorder
from mnemonics_jax.randomness import Stage, stage_key
from mnemonics_jax.types import Carry, ExemplarSet, Phase, Variables

Batches = Iterator[dict[str, np.ndarray]]


class Scene(NamedTuple):
    """A phase as its stages see it.

    Attributes:
        parts: the components.
        index: of the phase.
        num_old: classes of earlier phases.
        num_seen: those and this phase's.
        recorder: of progress.
    """

    parts: Components
    index: int
    num_old: int
    num_seen: int
    recorder: Recorder

    @property
    def traced(self) -> Phase:
        """The phase as steps take it."""
        return Phase(*np.int32([self.index, self.num_old, self.num_seen]))

    def key(self, stage: Stage, epoch: int = 0) -> jax.Array:
        """The key of an epoch of a stage, on all devices."""
        seed = self.parts.config.seed
        key = stage_key(seed, self.index, stage, epoch)
        return jax.device_put(key, self.parts.placement.replicated)

    def order(self, stage: Stage, epoch: int, size: int) -> np.ndarray:
        """The order of an epoch of a stage over `size` examples."""
        return pipeline.epoch_order(
            size,
            seed=self.parts.config.seed,
            phase=self.index,
            stage=int(stage),
            epoch=epoch,
        )

    def examples(self, split: str, low: int, high: int) -> sources.Examples:
        """Images of the classes low..high-1."""
        parts = self.parts
        return sources.phase_examples(
            parts.source, split, parts.order, low, high
        )


imprint = jax.jit(heads.imprint)
put_rows = jax.jit(memory.put_rows)
shrink = jax.jit(memory.shrink)


def in_order(examples: sources.Examples, batch_size: int) -> Batches:
    """Batches of examples as they lie, each once."""
    feed = pipeline.Feed(examples.images, examples.labels, batch_size)
    return feed.epoch(np.arange(len(examples.labels)))


def start_model(
    scene: Scene, variables: Variables, data: sources.Examples
) -> Variables:
    """The model that training starts from: new head rows imprinted."""
    parts = scene.parts
    if scene.index == 0 or not parts.config.method.imprint:
        return variables
    batches = in_order(data, parts.config.evaluate.batch_size)
    features = evaluate.features_of(parts.evaluator, variables, batches)
    # In NumPy: the number of images differs from phase to phase.
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, 1e-6)
    means = np.zeros((parts.source.num_classes, features.shape[1]), np.float32)
    for k in range(scene.num_old, scene.num_seen):
        means[k] = unit[data.labels == k].mean(axis=0)
    head = imprint(
        variables.params['head'],
        means,
        np.int32(scene.num_old),
        np.int32(scene.num_seen),
    )
    return variables.replace(params={**variables.params, 'head': head})


def train_model(
    scene: Scene, carry: Carry, start: Variables, data: sources.Examples
) -> Variables:
    """Model-level training on the new data and the memory (the paper, Eq. 5).

    Args:
        scene: of the phase.
        carry: of the previous phase: the reference model and the memory.
        start: see `start_model`.
        data: training images of the new classes.
    """
    config, trainers = scene.parts.config, scene.parts.trainers
    frozen = scene.num_old if config.method.freeze_old_rows else 0
    return run_epochs(
        scene,
        Stage.TRAIN,
        data,
        start,
        Training(
            trainer=trainers.later if scene.index else trainers.base,
            section=config.train,
            carry=carry,
            head_rows=(frozen, scene.num_seen),
        ),
    )


def finetune_model(
    scene: Scene, variables: Variables, exemplars_held: ExemplarSet
) -> Variables:
    """A copy of the model, fine-tuned on the balanced memory alone."""
    config, trainers = scene.parts.config, scene.parts.trainers
    shape = (0, *scene.parts.source.image_shape)
    nothing = sources.Examples(np.zeros(shape, np.uint8), np.zeros(0, np.int32))
    return run_epochs(
        scene,
        Stage.FINETUNE,
        nothing,
        variables,
        Training(
            trainer=trainers.finetune,
            section=config.finetune,
            carry=Carry(variables, exemplars_held),
            head_rows=(0, scene.num_seen),
        ),
    )


class Training(NamedTuple):
    """What `run_epochs` trains with.

    Attributes:
        trainer: the functions.
        section: of the config: epochs, batch_size, lr and its schedule.
        carry: the reference model and the memory.
        head_rows: low and high of the head rows that are trained.
    """

    trainer: train.Trainer
    section: Any
    carry: Carry
    head_rows: tuple[int, int]


def run_epochs(
    scene: Scene,
    stage: Stage,
    data: sources.Examples,
    start: Variables,
    training: Training,
) -> Variables:
    """Trains for all epochs of a stage on `data` and the carry's memory."""
    placement, section = scene.parts.placement, training.section
    slots, slot_labels = train.valid_slots(training.carry.exemplars)
    num_real = len(data.labels)
    feed = pipeline.Feed(
        data.images,
        np.concatenate([data.labels, slot_labels]),
        section.batch_size,
    )
    size = num_real + len(slots)
    num_steps = pipeline.num_batches(size, section.batch_size)
    state = training.trainer.init(start)
    total = section.epochs * num_steps
    name = stage.name.lower()
    with scene.recorder.stage(scene.index, name, total) as progress:
        for epoch in range(section.epochs):
            lr = train.scheduled_rate(section, epoch)
            inputs = train.StepInputs(
                reference=training.carry.variables,
                exemplars=training.carry.exemplars,
                phase=scene.traced,
                head_rows=np.int32(training.head_rows),
                lr=np.float32(lr),
                key=scene.key(stage, epoch),
            )
            batches = feed.epoch(scene.order(stage, epoch, size))
            for batch in train.with_slots(batches, num_real, slots):
                images = int(batch['weight'].sum())
                batch = parallel.shard_batch(placement, batch)
                state, metrics = training.trainer.step(state, batch, inputs)
                progress.step(metrics, images)
            progress.flush(epoch=epoch, lr=lr)
    return state.variables


def choose_exemplars(
    scene: Scene, variables: Variables, data: sources.Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Real images of the new classes to keep, or to start learning from.

    Returns:
        Images f32[c, s, H, W, C] in [0, 1] in rank order, and bool[c, s].
    """
    parts, ex = scene.parts, scene.parts.config.exemplars
    rule = ex.init if ex.strategy == 'mnemonics' else ex.strategy
    features = None
    if rule == 'herding':
        batches = in_order(data, parts.config.evaluate.batch_size)
        features = evaluate.features_of(parts.evaluator, variables, batches)
    chosen = exemplars.select(
        rule,
        data.labels,
        features,
        classes=(scene.num_old, scene.num_seen),
        # As many as the next phases at most keep, so that shapes are shared.
        num=parts.slots(min(scene.index, 1)),
        max_class_size=int(parts.class_sizes().max()),
        seed=(parts.config.seed, scene.index, int(Stage.SELECT)),
    )
    mask = chosen >= 0
    mask &= np.arange(mask.shape[1]) < parts.slots(scene.index)
    images = data.images[np.where(mask, chosen, 0)].astype(np.float32) / 255
    return np.where(mask[..., None, None, None], images, 0), mask


def setting(scene: Scene, variables: Variables, stage: Stage, steps: int):
    """Where exemplars are learned in this phase, see `exemplars.Setting`."""
    return exemplars.Setting(
        learner=scene.parts.learner,
        placement=scene.parts.placement,
        variables=variables,
        num_seen=scene.num_seen,
        num_steps=steps,
        key=scene.key(stage),
    )


def num_outer_steps(scene: Scene, size: int) -> int:
    """Outer steps of a stage whose judging data has `size` images."""
    ex = scene.parts.config.exemplars
    per_epoch = pipeline.num_batches(size, ex.query_batch)
    return ex.outer_steps or ex.outer_epochs * per_epoch


def learn_exemplars(
    scene: Scene,
    variables: Variables,
    images: np.ndarray,
    mask: np.ndarray,
    data: sources.Examples,
) -> tuple[jax.Array, dict[str, float]]:
    """Learns the new exemplars' pixels (the paper, Eq. 7 to 9).

    Returns:
        The pixels, and how far they moved and what that did to the loss on
        test images of the new classes, which learning never saw.
    """
    classes = (scene.num_old, scene.num_seen)
    size, batch = len(data.labels), scene.parts.config.exemplars.query_batch
    where = setting(scene, variables, Stage.LEARN, num_outer_steps(scene, size))
    listed = exemplars.as_exemplars(where, mask, classes, scene.num_old)
    feed = pipeline.Feed(data.images, data.labels, batch)
    batches = itertools.chain.from_iterable(
        feed.epoch(scene.order(Stage.LEARN, epoch, size))
        for epoch in itertools.count()
    )
    with scene.recorder.stage(
        scene.index, 'learn', where.num_steps
    ) as progress:
        learned = exemplars.learn(where, images, listed, batches, progress)
    gauge = where._replace(key=scene.key(Stage.GAUGE))
    held_out = scene.examples('test', *classes)
    before, after = (
        exemplars.held_out_loss(
            gauge, pixels, listed, lambda: in_order(held_out, batch)
        )
        for pixels in (images, learned.images)
    )
    return learned.images, {
        'drift_grey_levels': learned.drift,
        'held_out_loss_before': before,
        'held_out_loss_after': after,
    }


def adjust_exemplars(
    scene: Scene, variables: Variables, held: ExemplarSet
) -> tuple[ExemplarSet, float]:
    """Adjusts the old exemplars (the paper, Eq. 10); also returns their drift.

    An epoch, where the preset counts in those, is one pass over half a memory.
    """
    half = -(-int(np.asarray(held.mask).sum()) // 2)
    where = setting(
        scene, variables, Stage.ADJUST, num_outer_steps(scene, half)
    )
    with scene.recorder.stage(
        scene.index, 'adjust', 2 * where.num_steps
    ) as progress:
        return exemplars.adjust(where, held, scene.num_old, progress)


def evaluate_models(
    scene: Scene, variables: Variables, finetuned: Variables, held: ExemplarSet
) -> dict[str, np.ndarray]:
    """Confusion counts of the classifiers on test images of classes seen."""
    evaluator, config = scene.parts.evaluator, scene.parts.config
    batch_size = config.evaluate.batch_size
    means = evaluate.means_of(evaluator, variables, held, batch_size)
    data = scene.examples('test', 0, scene.num_seen)
    return evaluate.confusion_counts(
        evaluator,
        (variables, finetuned, means),
        in_order(data, batch_size),
        num_classes=scene.parts.source.num_classes,
        num_seen=scene.num_seen,
    )


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        """Starts now."""
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Gives the time since the last lap to `name`."""
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now
        self.seconds['total'] = now - self._start


def run_phase(scene: Scene, carry: Carry) -> tuple[Carry, dict[str, Any]]:
    """Runs a phase from the end of the one before it.

    Args:
        scene: the phase.
        carry: of the phase before; of `experiment.first_carry` in phase 0.

    Returns:
        What the next phase starts from, and this phase's outcome: 'confusion',
        'exemplars' (drift and held-out losses) and 'seconds'.
    """
    config, clock = scene.parts.config, Clock()
    data = scene.examples('train', scene.num_old, scene.num_seen)
    start = start_model(scene, carry.variables, data)
    clock.lap('prepare')
    variables = train_model(scene, carry, start, data)
    clock.lap('train')
    images, mask = choose_exemplars(scene, variables, data)
    clock.lap('select')
    report = {'drift_grey_levels': 0.0}
    if config.exemplars.strategy == 'mnemonics':
        images, report = learn_exemplars(scene, variables, images, mask, data)
        clock.lap('learn')
    held = carry.exemplars
    if config.exemplars.adjust and scene.num_old:
        held, drift = adjust_exemplars(scene, variables, held)
        report['adjust_drift_grey_levels'] = drift
        clock.lap('adjust')
    held = shrink(held, np.int32(scene.parts.slots(scene.index)))
    held = put_rows(held, images, mask, np.int32(scene.num_old))
    finetuned = finetune_model(scene, variables, held)
    clock.lap('finetune')
    confusion = evaluate_models(scene, variables, finetuned, held)
    clock.lap('evaluate')
    following = finetuned if config.finetune.carry else variables
    outcome = {
        'confusion': confusion,
        'exemplars': report,
        'seconds': clock.seconds,
    }
    carry = Carry(following, held)
    return parallel.replicate(scene.parts.placement, carry), outcome
