"""One phase of class-incremental learning (the paper, Algorithm 1).

Each stage is a function of the phase, of what is known so far, and of nothing
else; `run_phase` is their order.
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
    in_order,
)
from mnemonics_jax.experiment.exemplar_stages import renew_memory
from mnemonics_jax.experiment.model_stages import (
    finetune_model,
    start_model,
    train_model,
)
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Carry, ExemplarSet, Variables


class Outcome(NamedTuple):
    """What a phase leaves beside what the next one starts from.

    Attributes:
        counts: by classifier.
        exemplars: drift, held-out losses, distance to the border.
        seconds: by stage.
        selected: the new classes' exemplars before they were learned, rows
            [c, s, ...] as they would be stored; None without exemplars.
        space: of features.
        other: of the trained model and its fine-tuned copy the one that the
            next phase does not start from; None without exemplars.
    """

    counts: dict[str, evaluation.Counts]
    exemplars: dict[str, Any]
    seconds: dict[str, float]
    selected: ExemplarSet | None
    space: features.FeatureSnapshot
    other: Variables | None


def run_phase(
    context: PhaseContext, carry: Carry, trained: Variables | None = None
) -> tuple[Carry, Outcome]:
    """Runs a phase from the end of the one before it.

    Args:
        context: the phase.
        carry: of the phase before; of `experiment.first_carry` in phase 0.
        trained: the model that training would give, where it is known.

    Returns:
        What the next phase starts from, and this phase's outcome.
    """
    config, clock = context.parts.config, Clock()
    data = context.examples('train', context.num_old, context.num_seen)
    start = start_model(context, carry.variables, data)
    clock.lap('prepare')
    variables = trained or train_model(context, carry, start, data)
    clock.lap('train')
    held, selected, finetuned = carry.exemplars, None, None
    report: dict[str, Any] = {'drift_grey_levels': 0.0}
    if strategies.keeps(config.exemplars.strategy):
        held, selected, report = renew_memory(
            context, carry, variables, data, clock
        )
        finetuned = finetune_model(context, variables, held)
        clock.lap('finetune')
    counts, space = evaluate_models(
        context, variables, finetuned or variables, held
    )
    if (border := features.border(space)) is not None:
        report['border'] = border
    clock.lap('evaluate')
    following, other = variables, finetuned
    if config.finetune.carry and finetuned is not None:
        following, other = finetuned, variables
    carry, other = parallel.replicate(
        context.parts.placement, (Carry(following, held), other)
    )
    return carry, Outcome(counts, report, clock.seconds, selected, space, other)


def evaluate_models(
    context: PhaseContext,
    variables: Variables,
    finetuned: Variables,
    held: ExemplarSet,
) -> tuple[dict[str, evaluation.Counts], features.FeatureSnapshot]:
    """Counts of the classifiers on test images of classes seen.

    Also returns where these images and the exemplars lie for the model.

    Without exemplars the network's own head is the only one. With
    `evaluate.oracle` there is also the nearest mean of *all* training images of
    the classes seen, which no learner may keep: a ceiling for NME.
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
        parts.evaluator, variables, held, batch_size
    )
    counts, images = counts_with(
        parts.evaluator.exemplar_means(slots, held.mask)
    )
    if not strategies.keeps(config.exemplars.strategy):
        counts = {'cnn': counts['cnn']}
    if config.evaluate.oracle:
        everything = context.examples('train', 0, context.num_seen)
        means = all_class_means(context, variables, everything)
        counts['oracle'] = counts_with(means)[0]['nme']
    mask = np.asarray(held.mask)
    space = features.make_space(images, slots[0], mask, context.num_seen)
    return counts, space
