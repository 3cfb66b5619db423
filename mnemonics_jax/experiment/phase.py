"""One phase of class-incremental learning (the paper, Algorithm 1).

Each stage is a function of the phase context and the results of earlier stages;
`run_phase` calls them in order.
"""

from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core import parallel
from mnemonics_jax.exemplars import strategies
from mnemonics_jax.experiment import features
from mnemonics_jax.experiment.context import (
    Clock,
    PhaseContext,
    all_class_means,
    check_features,
    in_order,
)
from mnemonics_jax.experiment.exemplar_stages import renew_memory
from mnemonics_jax.experiment.model_stages import (
    finetune_model,
    start_model,
    train_model,
)
from mnemonics_jax.train import evaluation
from mnemonics_jax.train.metric_writer import DivergedError
from mnemonics_jax.types import Carry, ExemplarSet, Variables


class Outcome(NamedTuple):
    """Results of a phase besides the carry.

    Attributes:
        counts: counts of test images, by classifier.
        exemplars: drift, held-out losses and border ratios of exemplars.
        seconds: seconds by stage.
        selected: exemplars of the new classes before they were learned, rows
            [c, s, ...] in the storage dtype; None without exemplars.
        snapshot: features of test images and exemplars.
        other: the one of trained model and fine-tuned copy that the next phase
            does not start from; None without exemplars.
    """

    counts: dict[str, evaluation.Counts]
    exemplars: dict[str, Any]
    seconds: dict[str, float]
    selected: ExemplarSet | None
    snapshot: features.FeatureSnapshot
    other: Variables | None


def run_phase(
    context: PhaseContext, carry: Carry, trained: Variables | None = None
) -> tuple[Carry, Outcome]:
    """Runs a phase from the end of the previous one.

    Args:
        context: context of the phase.
        carry: carry of the previous phase; `experiment.first_carry` in phase 0.
        trained: trained model, from `base_run.load`; None to train it.

    Returns:
        The carry for the next phase, and this phase's outcome.
    """
    config, clock = context.parts.config, Clock()
    data = context.examples('train', context.num_old, context.num_seen)
    start = start_model(context, carry.variables, data)
    clock.lap('prepare')
    variables = trained or train_model(context, carry, start, data)
    clock.lap('train')
    exemplars, encoded = carry.exemplars, carry.encoded
    selected, finetuned = None, None
    report: dict[str, Any] = {'drift_grey_levels': 0.0}
    if strategies.keeps(config.exemplars.strategy):
        exemplars, encoded, selected, report = renew_memory(
            context, carry, variables, data, clock
        )
        finetuned = finetune_model(context, variables, exemplars)
        clock.lap('finetune')
    counts, snapshot = evaluate_models(
        context, variables, finetuned or variables, exemplars
    )
    if (border := features.border(snapshot)) is not None:
        report['border'] = border
    clock.lap('evaluate')
    following, other = variables, finetuned
    if config.finetune.carry and finetuned is not None:
        following, other = finetuned, variables
    following, exemplars, other = parallel.replicate(
        context.parts.placement, (following, exemplars, other)
    )
    return Carry(following, exemplars, encoded), Outcome(
        counts, report, clock.seconds, selected, snapshot, other
    )


def evaluate_models(
    context: PhaseContext,
    variables: Variables,
    finetuned: Variables,
    exemplars: ExemplarSet,
) -> tuple[dict[str, evaluation.Counts], features.FeatureSnapshot]:
    """Evaluates the classifiers on test images of the classes seen.

    Returns counts by classifier and a snapshot of features. Without exemplars
    the model's head is the only classifier. `evaluate.oracle` adds 'oracle',
    the nearest mean of *all* training images of the classes seen: an upper
    bound for NME that no learner may store.
    """
    parts, config = context.parts, context.parts.config
    batch_size = config.evaluate.batch_size
    data = context.examples('test', 0, context.num_seen)

    def counts_with(means):
        return evaluation.count_all(
            parts.evaluator,
            (variables, finetuned, means),
            in_order(data, batch_size),
            num_classes=parts.source.num_classes,
            num_seen=context.num_seen,
        )

    slots = evaluation.slot_features(
        parts.evaluator, variables, exemplars, batch_size
    )
    check_features(context, slots)
    counts, images = counts_with(
        parts.evaluator.exemplar_means(slots, exemplars.mask)
    )
    if not images.sound.all():
        raise DivergedError(
            f'phase {context.index}: features or scores of '
            f'{np.sum(~images.sound)} of {len(images.sound)} test images are '
            'not finite'
        )
    if not strategies.keeps(config.exemplars.strategy):
        counts = {'cnn': counts['cnn']}
    if config.evaluate.oracle:
        train_data = context.examples('train', 0, context.num_seen)
        means = all_class_means(context, variables, train_data)
        counts['oracle'] = counts_with(means)[0]['nme']
    mask = np.asarray(exemplars.mask)
    snapshot = features.make_snapshot(images, slots[0], mask, context.num_seen)
    return counts, snapshot
