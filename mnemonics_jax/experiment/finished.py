"""A phase that a run has finished, opened again without the data of the run.

`config.json` says what the model is, and a checkpoint what it has learned. Of
the ends of phases a run keeps the last two, or `checkpoint.keep`.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from mnemonics_jax.config.fields import default_config
from mnemonics_jax.core import parallel, plugins
from mnemonics_jax.core.workdir import Workdir
from mnemonics_jax.data.phase_plan import Plan, from_json
from mnemonics_jax.experiment import components, results, run_config
from mnemonics_jax.methods import make_method
from mnemonics_jax.train import checkpoint, evaluation
from mnemonics_jax.types import Backbone, ExemplarSet, Method, Variables


class FinishedPhase(NamedTuple):
    """A finished phase.

    Attributes:
        config: of the run.
        plan: of its K classes when the phase ended.
        phase: its index.
        num_seen: S, of the classes.
        backbone: the model.
        variables: its state at the end of the phase.
        finetuned: that of its fine-tuned copy; `variables` if there is none.
        exemplars: the memory.
        classifiers: those of `evaluation.CLASSIFIERS` that the phase was
            judged by and whose models are there.
        predictor: the one of them by which the run is judged.
    """

    config: config_dict.FrozenConfigDict
    plan: Plan
    phase: int
    num_seen: int
    backbone: Backbone
    variables: Variables
    finetuned: Variables
    exemplars: ExemplarSet
    classifiers: tuple[str, ...]
    predictor: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the S classes seen, in the order of the model's outputs."""
        return self.plan.classes[: self.num_seen]


def restore_phase(workdir: str | pathlib.Path, phase: int) -> FinishedPhase:
    """Opens a phase of a run, finished or not; nothing is written.

    Args:
        workdir: of the run, may be gs://BUCKET/FOLDER.
        phase: its index; -1 is the last one whose model is there, -2 the one
            before.

    Raises:
        ValueError: there is no run, or no model of the phase.
    """
    with Workdir(workdir, uploads=False) as place:
        place.fetch('config.json')
        begun = run_config.read(place)
        if begun is None:
            raise ValueError(
                f'{workdir}: no config.json in it; allowed: the work directory '
                'of a run'
            )
        index = find_phase(checkpoint.ends(place.root), phase, workdir)
        carry, other, phases = checkpoint.read_end(place.root, index)
    config = config_of(begun.config)
    # Classes may have come into being after the phase.
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
        classifiers=classifiers_of(phases[index], other, config),
        predictor=results.predictor(method_of(config), phases),
    )


def config_of(content: dict[str, Any]) -> config_dict.FrozenConfigDict:
    """The configuration of a run, from its JSON."""
    plugins.load_all(content.get('plugins', ''))
    fields = default_config()
    # A run keeps the settings of its own method alone.
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
    there: list[int], phase: int, workdir: str | pathlib.Path
) -> int:
    """The index of a phase among those whose models are there, ascending."""
    if not there:
        raise ValueError(
            f'{workdir}: no checkpoint of a finished phase; allowed: the work '
            'directory of a run with at least one finished phase'
        )
    if -len(there) <= phase < 0:
        return there[phase]
    if phase not in there:
        raise ValueError(
            f'--phase={phase}: its model is not in {workdir}; allowed: '
            f'{", ".join(map(str, there))} (checkpoint.keep says how many '
            'phases are kept), or -1 for the last of these'
        )
    return phase


def classifiers_of(
    result: dict[str, Any],
    other: Variables | None,
    config: config_dict.FrozenConfigDict,
) -> tuple[str, ...]:
    """The classifiers that a phase was judged by and whose models are there.

    Args:
        result: of the phase, from `results.json`.
        other: the model that checkpoints of early versions lack.
        config: of the run.
    """
    counted = result['confusion']
    found = [name for name in evaluation.CLASSIFIERS if name in counted]
    if other is None and len(found) > 1:
        carried = ['finetuned'] if config.finetune.carry else ['cnn', 'nme']
        found = [name for name in found if name in carried]
    return tuple(found)


def models_of(
    saved: FinishedPhase,
    evaluator: evaluation.Evaluator,
    placement: parallel.Placement,
) -> tuple[Variables, Variables, jax.Array]:
    """The model, its fine-tuned copy and the exemplar means, on the devices."""
    models = saved.variables, saved.finetuned, saved.exemplars
    variables, finetuned, exemplars = parallel.replicate(
        placement, jax.tree.map(np.asarray, models)
    )
    batch_size = saved.config.evaluate.batch_size
    means = evaluation.means_of(evaluator, variables, exemplars, batch_size)
    return variables, finetuned, means
