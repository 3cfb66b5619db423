"""Restores a finished phase of a run without its data.

`config.json` defines the model, a checkpoint has its variables. A run keeps the
checkpoints of its last `checkpoint.keep` phases.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from mnemonics_jax.config.fields import default_config, with_settings
from mnemonics_jax.core import manifest, parallel, plugins, precision
from mnemonics_jax.core.text import flatten
from mnemonics_jax.core.workdir import Workdir
from mnemonics_jax.data import encoded as encodings
from mnemonics_jax.data.phase_plan import Plan, from_json
from mnemonics_jax.exemplars import stored
from mnemonics_jax.experiment import components, results, run_config
from mnemonics_jax.methods import make_method
from mnemonics_jax.train import checkpoint, evaluation
from mnemonics_jax.types import (
    Backbone,
    EncodedImages,
    ExemplarSet,
    Method,
    Variables,
)


class FinishedPhase(NamedTuple):
    """A finished phase.

    Attributes:
        config: configuration of the run.
        plan: plan of the run's K classes at the end of the phase.
        phase: phase index.
        num_seen: S, number of classes seen.
        backbone: the model.
        variables: variables of the model at the end of the phase.
        finetuned: variables of its fine-tuned copy; `variables` if none.
        exemplars: the memory.
        encoded: what is stored of it; None where its arrays are.
        classifiers: the evaluated `evaluation.CLASSIFIERS` whose models are
            saved.
        predictor: the classifier reported for the run.
        warning: what the user should know of it, such as that another decoder
            gives exemplars other pixels; None for nothing.
    """

    config: config_dict.FrozenConfigDict
    plan: Plan
    phase: int
    num_seen: int
    backbone: Backbone
    variables: Variables
    finetuned: Variables
    exemplars: ExemplarSet
    encoded: EncodedImages | None
    classifiers: tuple[str, ...]
    predictor: str
    warning: str | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the S classes seen, in output order."""
        return self.plan.classes[: self.num_seen]


def restore_phase(
    workdir: str | pathlib.Path, phase: int, *, switch_precision: bool = False
) -> FinishedPhase:
    """Restores a finished phase of a run without writing anything.

    Args:
        workdir: work directory of the run, may be gs://BUCKET/FOLDER.
        phase: phase index; -1 is the last saved phase, -2 the one before.
        switch_precision: whether to turn JAX's float64 on or off, as the run
            needs it.

    Raises:
        ValueError: there is no run, the phase has no checkpoint, or JAX has no
            float64 and the run needs it.
    """
    with Workdir(workdir, uploads=False) as place:
        begun = run_config.read(place)
        if begun is None:
            raise ValueError(
                f'{workdir}: no config.json, must be the work directory of a '
                'run'
            )
        warnings = manifest.unchecked(place.local)
        index = find_phase(checkpoint.ends(place.root), phase, workdir)
        config = config_of(begun.config)
        if switch_precision:
            precision.switch(config.precision)
        precision.check(config.precision)
        carry, other, phases = checkpoint.read_end(place.root, index)
    if carry.encoded is not None:
        codec = components.make_storage(config, begun.plan.image_shape)
        images, mask = encodings.decode(codec, carry.encoded)
        recorded = phases[index]['exemplars']
        if line := stored.other_pixels(images, mask, recorded):
            warnings.append(line)
        held = ExemplarSet(jnp.asarray(images), jnp.asarray(mask))
        carry = carry.replace(exemplars=held)
    # Classes may have been added after the phase.
    plan = begun.plan._replace(
        classes=begun.plan.classes[: len(carry.exemplars.mask)]
    )
    models = carry.variables, other or carry.variables
    variables, finetuned = models[::-1] if config.finetune.carry else models
    return FinishedPhase(
        config=config,
        plan=plan,
        phase=index,
        num_seen=phases[index]['num_seen'],
        backbone=build_model(config, plan),
        variables=variables,
        finetuned=finetuned,
        exemplars=carry.exemplars,
        encoded=carry.encoded,
        classifiers=classifiers_of(phases[index], other, config),
        predictor=results.predictor(method_of(config), phases),
        warning='; '.join(warnings) or None,
    )


def config_of(content: dict[str, Any]) -> config_dict.FrozenConfigDict:
    """The configuration of a run, from its JSON.

    Raises:
        ValueError: one of its fields breaks its rule.
    """
    plugins.load_all(content.get('plugins', ''))
    known = with_settings([content['method']['name']])
    for name, value in flatten(content).items():
        rule = known[name].rule if name in known else None
        # Names may be those of objects that a caller gave to the run.
        if rule and rule.names is None and not rule.holds(value):
            raise ValueError(
                f'config.json: {name}={value!r}: must be {rule.words}'
            )
    fields = default_config()
    # `config.json` has the settings of its own method only.
    with fields.unlocked():
        fields.update(content)
    return config_dict.FrozenConfigDict(fields)


def method_of(config: config_dict.FrozenConfigDict) -> Method:
    """The method of a run."""
    return make_method(config.method.name, config.method)


def build_model(config: config_dict.FrozenConfigDict, plan: Plan) -> Backbone:
    """The model of a run."""
    return components.build_backbone(config, plan, method_of(config))


def rebuild(config: dict[str, Any], plan: dict[str, Any]) -> Backbone:
    """The model of a run, from the JSON of an export."""
    return build_model(config_of(config), from_json(plan))


def find_phase(
    saved: list[int], phase: int, workdir: str | pathlib.Path
) -> int:
    """The index of a phase, which may be negative, among the saved ones."""
    if not saved:
        raise ValueError(
            f'{workdir}: no checkpoint of a finished phase, must be the work '
            'directory of a run with at least one finished phase'
        )
    if -len(saved) <= phase < 0:
        return saved[phase]
    if phase not in saved:
        raise ValueError(
            f'--phase={phase}: must be one of {", ".join(map(str, saved))}, '
            f'the phases saved in {workdir} (see checkpoint.keep), or -1 for '
            'the last one'
        )
    return phase


def classifiers_of(
    result: dict[str, Any],
    other: Variables | None,
    config: config_dict.FrozenConfigDict,
) -> tuple[str, ...]:
    """The evaluated classifiers of a phase whose models are saved.

    Args:
        result: entry of the phase in `results.json`.
        other: the other evaluated model; checkpoints of early versions lack it.
        config: configuration of the run.
    """
    evaluated = result['confusion']
    found = [name for name in evaluation.CLASSIFIERS if name in evaluated]
    if other is None and len(found) > 1:
        carried = ['finetuned'] if config.finetune.carry else ['cnn', 'nme']
        found = [name for name in found if name in carried]
    return tuple(found)


def choose_classifier(phase: FinishedPhase, name: str | None) -> str:
    """The classifier of this name, by default the method's own.

    Raises:
        ValueError: the phase has no such classifier.
    """
    name = name or phase.predictor
    if name not in phase.classifiers:
        raise ValueError(
            f'--classifier={name}: must be one of phase {phase.phase}: '
            f'{", ".join(phase.classifiers)}'
        )
    return name


def models_of(
    finished: FinishedPhase,
    evaluator: evaluation.Evaluator,
    placement: parallel.Placement,
) -> tuple[Variables, Variables, jax.Array]:
    """The model, its fine-tuned copy and the exemplar means, on the devices."""
    models = finished.variables, finished.finetuned, finished.exemplars
    variables, finetuned, exemplars = parallel.replicate(
        placement, jax.tree.map(np.asarray, models)
    )
    batch_size = finished.config.evaluate.batch_size
    means = evaluation.means_of(evaluator, variables, exemplars, batch_size)
    return variables, finetuned, means
