"""One phase of class-incremental learning (the paper, Algorithm 1).

Each stage is a function of the phase, of what is known so far, and of nothing
else; `run_phase` is their order.
"""

from typing import Any

from mnemonics_jax import classifiers, parallel
from mnemonics_jax.exemplar_stages import renew_memory
from mnemonics_jax.model_stages import finetune_model, start_model, train_model
from mnemonics_jax.scene import Clock, Scene, all_class_means, in_order
from mnemonics_jax.types import Carry, ExemplarSet, Variables


def run_phase(scene: Scene, carry: Carry) -> tuple[Carry, dict[str, Any]]:
    """Runs a phase from the end of the one before it.

    Args:
        scene: the phase.
        carry: of the phase before; of `experiment.first_carry` in phase 0.

    Returns:
        What the next phase starts from, and this phase's outcome: 'counts',
        'exemplars' (drift and held-out losses) and 'seconds'.
    """
    config, clock = scene.parts.config, Clock()
    data = scene.examples('train', scene.num_old, scene.num_seen)
    start = start_model(scene, carry.variables, data)
    clock.lap('prepare')
    variables = train_model(scene, carry, start, data)
    clock.lap('train')
    held, report, finetuned = carry.exemplars, {'drift_grey_levels': 0.0}, None
    if config.exemplars.strategy != 'none':
        held, report = renew_memory(scene, carry, variables, data, clock)
        finetuned = finetune_model(scene, variables, held)
        clock.lap('finetune')
    counts = evaluate_models(scene, variables, finetuned or variables, held)
    clock.lap('evaluate')
    following = finetuned if config.finetune.carry else variables
    outcome = {'counts': counts, 'exemplars': report, 'seconds': clock.seconds}
    carry = Carry(following, held)
    return parallel.replicate(scene.parts.placement, carry), outcome


def evaluate_models(
    scene: Scene, variables: Variables, finetuned: Variables, held: ExemplarSet
) -> dict[str, classifiers.Counts]:
    """Counts of the classifiers on test images of classes seen.

    Without exemplars the network's own head is the only one. With
    `evaluate.oracle` there is also the nearest mean of *all* training images of
    the classes seen, which no learner may keep: a ceiling for NME.
    """
    parts, config = scene.parts, scene.parts.config
    batch_size = config.evaluate.batch_size
    data = scene.examples('test', 0, scene.num_seen)

    def counts_with(means):
        return classifiers.count_all(
            parts.evaluator,
            (variables, finetuned, means),
            in_order(data, batch_size),
            num_classes=parts.source.num_classes,
            num_seen=scene.num_seen,
        )

    counts = counts_with(
        classifiers.means_of(parts.evaluator, variables, held, batch_size)
    )
    if config.exemplars.strategy == 'none':
        counts = {'cnn': counts['cnn']}
    if config.evaluate.oracle:
        everything = scene.examples('train', 0, scene.num_seen)
        means = all_class_means(scene, variables, everything)
        counts['oracle'] = counts_with(means)['nme']
    return counts
