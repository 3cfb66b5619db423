"""The components of a run that all phases share, built from a config.

The jitted functions are made once, so that all phases share compilations, and
config errors are found before the run starts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax

from mnemonics_jax import train
from mnemonics_jax.backbones import (
    logit_correction,
    make_backbone,
    make_trunk,
    weight_transfer,
)
from mnemonics_jax.bilevel import outer
from mnemonics_jax.core import parallel
from mnemonics_jax.data import class_order, sources, storage
from mnemonics_jax.data.loader import Loader
from mnemonics_jax.data.phase_plan import Plan, apply
from mnemonics_jax.exemplars import memory, strategies
from mnemonics_jax.exemplars.inner_problem import LearnerSettings
from mnemonics_jax.exemplars.steps import Learner, make_learner
from mnemonics_jax.experiment import byte_budget
from mnemonics_jax.experiment.data import (
    PerDispatch,
    augmentation,
    build_source,
    check_batches,
    check_feed,
    choose_feed,
    crops_on_host,
    make_loader,
    most_images,
    per_dispatch,
    plan_phases,
    query_augmentation,
)
from mnemonics_jax.methods import finetune, make_method
from mnemonics_jax.train.evaluation import Evaluator, make_evaluator
from mnemonics_jax.types import Backbone, HeldOut, Method, Params, Phase


class Trainers(NamedTuple):
    """The kinds of training in a run.

    Attributes:
        base: training in phase 0, without a reference model.
        later: training in the other phases.
        finetune: balanced fine-tuning on exemplars.
    """

    base: train.Trainer
    later: train.Trainer
    finetune: train.Trainer


class Components(NamedTuple):
    """The components of a run.

    Attributes:
        config: resolved configuration, including protocol and `data.feed`.
        source: source of the images.
        loader: loader of the source's examples, by class.
        order: int64[K], original label of the class at each position.
        plan: classes and phases.
        backbone: the model.
        storage: how exemplars are stored.
        method: the class-incremental method.
        placement: placement of arrays on devices.
        trainers: functions that train models.
        learner: functions that learn exemplars.
        evaluator: functions that evaluate models.
        end_phase: the method's `end_phase`, jitted; None if it has none.
        per_dispatch: steps per dispatch.
    """

    config: ml_collections.FrozenConfigDict
    source: sources.Source
    loader: Loader
    order: np.ndarray
    plan: Plan
    backbone: Backbone
    storage: storage.Storage
    method: Method
    placement: parallel.Placement
    trainers: Trainers
    learner: Learner
    evaluator: Evaluator
    end_phase: Callable[[Params, HeldOut, Phase], Params] | None
    per_dispatch: PerDispatch

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(num_old, num_seen) of each phase."""
        return self.plan.bounds

    def num_late_classes(self) -> int:
        """Number of classes added after the start of the run."""
        protocol = self.config.protocol
        planned = protocol.phases + bool(protocol.base_classes)
        return len(self.plan.classes) - self.bounds[planned - 1][1]

    def rows(self, phase: int) -> int:
        """Most classes of a phase like this one; those after 0 are alike."""
        alike = self.bounds[1:] if phase else self.bounds[:1]
        return max(high - low for low, high in alike)

    def slots(self, phase: int) -> int:
        """Exemplar slots per class at the end of a phase.

        A class with fewer images leaves some empty. A strategy that keeps
        nothing has one slot, which stays empty.
        """
        ex = self.config.exemplars
        if not strategies.keeps(ex.strategy):
            return 1
        if budget := self.budget(phase):
            wanted = int(budget / self.plan.slot_bytes)
            return min(wanted, self.plan.largest_class)
        return memory.capacity(
            per_class=ex.per_class,
            total=ex.total,
            num_seen=self.bounds[phase][1],
            num_available=self.plan.largest_class,
        )

    def budget(self, phase: int) -> int:
        """Bytes of a class at the end of a phase; 0 if images are counted."""
        ex = self.config.exemplars
        total = max(0, ex.bytes_total - len(self.storage.header))
        return memory.share(
            per_class=ex.bytes_per_class,
            total=total,
            num_seen=self.bounds[phase][1],
        )

    def held_out_per_class(self, phase: int) -> int:
        """Most examples of a class held out of training in a phase >= 1."""
        share = self.method.holdout
        return max(1, round(share * self.slots(phase - 1))) if share else 0

    def class_sizes(self) -> np.ndarray:
        """Training images of each class, int64[K], by original label."""
        return np.bincount(
            self.source.labels['train'], minlength=self.source.num_classes
        )


def build(
    config: ml_collections.FrozenConfigDict,
    placement: parallel.Placement | None = None,
    begun: Plan | None = None,
    source: sources.Source | None = None,
) -> Components:
    """Builds all components.

    Args:
        config: resolved, see `config.resolve`.
        placement: placement; over all devices by default.
        begun: the plan of the run if it was started before.
        source: images in place of those that `data.source` names.

    Raises:
        ValueError: the config does not fit the data, the devices or what is
            installed.
    """
    placement = placement or parallel.make_placement()
    # What needs no data first: reading them may take long.
    check_batches(config, placement)
    check_feed(config)
    make_trunk(
        config.backbone.name,
        final_relu=config.backbone.final_relu,
        norm_group=config.backbone.norm_group,
    )
    if config.protocol.class_order_file is not None:
        class_order.read_names(config.protocol.class_order_file)
    source = build_source(config, source)
    config, plan = plan_phases(config, source, begun)
    source, order = apply(plan, source)
    method = make_method(config.method.name, config.method)
    all_seen = method.keeps_data or config.evaluate.oracle
    most = most_images(source, order, plan.bounds, all_seen=all_seen)
    config = choose_feed(config, source, placement, most)
    backbone = build_backbone(config, plan, method)
    stored = make_storage(config, plan.image_shape)
    if byte_budget.given(config.exemplars) and not plan.slot_bytes:
        plan = plan._replace(slot_bytes=byte_budget.slot_bytes(stored, source))
    components = Components(
        config=config,
        source=source,
        loader=make_loader(config, source, order, plan.bounds, placement),
        order=order,
        plan=plan,
        backbone=backbone,
        storage=stored,
        method=method,
        placement=placement,
        trainers=make_trainers(config, source, backbone, method, placement),
        learner=make_learner(
            backbone, learner_settings(config, source), placement
        ),
        evaluator=make_evaluator(backbone, placement, mirror=config.data.flip),
        end_phase=method.end_phase and jax.jit(method.end_phase),
        per_dispatch=per_dispatch(config, source, placement),
    )
    check_memory(components)
    return components


def make_storage(
    config: ml_collections.FrozenConfigDict, image_shape: tuple[int, int, int]
) -> storage.Storage:
    """How the exemplars of a run are stored.

    Raises:
        ValueError: the codec cannot store images of this shape.
    """
    ex = config.exemplars
    return storage.make(
        ex.storage, tuple(image_shape), ex.quality, ex.subsampling
    )


def build_backbone(
    config: ml_collections.FrozenConfigDict, plan: Plan, method: Method
) -> Backbone:
    """The model of a run, wrapped for its method and weight transfer."""
    backbone = make_backbone(
        config.backbone.name,
        num_classes=len(plan.classes),
        image_shape=plan.image_shape,
        mean=plan.mean,
        std=plan.std,
        head=config.backbone.head,
        final_relu=config.backbone.final_relu,
        norm_group=config.backbone.norm_group,
        precision=config.precision,
    )
    if method.corrects_logits:
        backbone = logit_correction.wrap(backbone)
    if config.weight_transfer:
        backbone = weight_transfer.wrap(backbone)
    return backbone


def make_trainers(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source,
    backbone: Backbone,
    method: Method,
    placement: parallel.Placement,
) -> Trainers:
    """The three kinds of training of a run."""
    settings = train.StepSettings(
        momentum=config.train.momentum,
        weight_decay=config.train.weight_decay,
        augmentation=augmentation(config.data),
        augment_real=not crops_on_host(config, source),
        update_stats=True,
    )
    # A few images per class are too few to estimate BatchNorm statistics.
    on_exemplars = settings._replace(
        momentum=config.finetune.momentum,
        weight_decay=0.0,
        update_stats=False,
        scope=config.finetune.scope,
    )
    finetuning = finetune.make(None)
    if method.finetune_loss is not None:
        finetuning = finetuning._replace(loss=method.finetune_loss)

    def trainer(method, settings, with_reference):
        return train.make_trainer(
            backbone,
            method,
            settings,
            placement,
            with_reference=with_reference,
        )

    return Trainers(
        base=trainer(method, settings, False),
        later=trainer(method, settings, method.uses_reference),
        finetune=trainer(finetuning, on_exemplars, False),
    )


def learner_settings(
    config: ml_collections.FrozenConfigDict, source: sources.Source
) -> LearnerSettings:
    """The constants of the exemplar problem, rates in units of pixels."""
    ex = config.exemplars

    def transform(lr):
        is_adam = ex.outer_optimizer == 'adam'
        tx = optax.adam(lr, b2=0.99) if is_adam else optax.sgd(lr)
        return outer.in_units(tx, np.asarray(source.std))

    return LearnerSettings(
        inner_steps=ex.inner_steps,
        inner_lr=ex.inner_lr,
        inner_batch=ex.inner_batch,
        inner_scope=ex.inner_scope,
        inner_start=ex.inner_start,
        outer_tx=transform(ex.outer_lr),
        adjust_tx=transform(ex.adjust_lr),
        query_batch=ex.query_batch,
        query_augmentation=query_augmentation(config, source),
        microbatch=ex.microbatch,
        objective=ex.objective,
        hypergradient=ex.hypergradient,
        hypergradient_terms=ex.hypergradient_terms,
        means_weight=ex.means_weight,
        inner_augment=ex.inner_augment,
        augmentation=augmentation(config.data),
        mirror=config.data.flip,
        shown=make_storage(config, source.image_shape).shown,
    )


def check_memory(components: Components) -> None:
    """Raises ValueError if the memory does not fit the data."""
    ex = components.config.exemplars
    if not strategies.keeps(ex.strategy):
        return
    last = len(components.bounds) - 1
    if components.slots(last) < 1 and components.plan.slot_bytes:
        name = 'bytes_per_class' if ex.bytes_per_class else 'bytes_total'
        raise ValueError(
            f'exemplars.{name}={ex[name]}: at the end a class has '
            f'{components.budget(last)} bytes, must have at least '
            f'{math.ceil(components.plan.slot_bytes)}, about those of an image'
        )
    if components.slots(last) < 1:
        raise ValueError(
            f'exemplars.total={ex.total}: must be at least '
            f'{components.source.num_classes}, one for each class'
        )
    share = components.method.holdout
    if share and last > 0 and components.slots(last - 1) < 2:
        raise ValueError(
            f'method.name={components.config.method.name}: holds out exemplars '
            'and must have at least 2 per class in every phase'
        )
    if ex.adjust and last > 0 and components.slots(last - 1) < 2:
        if components.plan.slot_bytes:
            raise ValueError(
                'exemplars.adjust=True: must be false, or a class must have '
                'the bytes of two images in every phase: it splits each class '
                'into halves'
            )
        raise ValueError(
            f'exemplars.total={ex.total}: must be at least '
            f'{2 * components.bounds[last - 1][1]} with exemplars.adjust=True, '
            'which splits each class into halves'
        )
