"""The recorder of a run, and what is logged at the end of a phase."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_jax import config as config_lib
from mnemonics_jax.core import multihost
from mnemonics_jax.core.workdir import METRICS, Workdir, read_records
from mnemonics_jax.experiment import (
    components,
    results,
    run_config,
    step_counts,
)
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.train import logs
from mnemonics_jax.train.checkpoint import LoopPosition
from mnemonics_jax.train.metric_writer import Recorder
from mnemonics_jax.train.run_time import RunTime
from mnemonics_jax.types import Carry


def open_recorder(
    parts: components.Components,
    place: Workdir,
    phases: Sequence[dict[str, Any]],
    position: LoopPosition | None,
    last: int,
) -> Recorder:
    """Opens records and log, at the place where a run begins or resumes.

    Args:
        parts: components of the run.
        place: its work directory.
        phases: results of the finished phases.
        position: position in the next phase, None for its start.
        last: last phase to run; if it is finished, nothing is logged.
    """
    local, open_log = place.local, None
    if len(phases) <= last and multihost.is_main():
        place.fetch(logs.NAME)
        written = [r['global_step'] for r in read_records(local / METRICS)]
        history = logs.read_history(
            local,
            parts.config.log.to,
            1 + max(written, default=-1),
            len(phases),
            anew='new_rates' in run_config.content(place)['starts'][-1],
        )
        config = config_lib.to_json(parts.config)
        open_log = functools.partial(
            logs.Guarded, local, parts.config.log.to, history, config
        )
    recorder = Recorder(
        local,
        first_phase=len(phases),
        num_records=position and position.records,
        quiet=not multihost.is_main(),
        run_time=RunTime(step_counts.steps_of_loops(parts, last)),
        open_log=open_log,
    )
    if recorder.log is not None:
        for end in range(recorder.log.history.phases, len(phases)):
            log_results(recorder, phases[: end + 1], parts.bounds[0][1])
    return recorder


def log_phase(
    context: PhaseContext, carry: Carry, phases: Sequence[dict[str, Any]]
) -> None:
    """Logs the results of a phase and an image of the exemplars.

    Args:
        context: context of the phase.
        carry: carry at its end.
        phases: results of the phases up to this one.
    """
    recorder = context.recorder
    log_results(recorder, phases, context.parts.bounds[0][1])
    seen = slice(context.num_seen)
    mask = np.asarray(carry.exemplars.mask)[seen]
    if recorder.log is None or not mask.any():
        return
    # Imported late: Matplotlib takes time.
    from mnemonics_jax.report.figures.images import as_png, pixel_grid

    grid = pixel_grid(np.asarray(carry.exemplars.images)[seen], mask)
    recorder.log.image(context.index, 'exemplars', as_png(grid), grid.shape)


def log_results(
    recorder: Recorder, phases: Sequence[dict[str, Any]], base_classes: int
) -> None:
    """Logs the results of the last of some phases, by classifier.

    Args:
        recorder: recorder of the run.
        phases: results of the phases up to this one.
        base_classes: number of classes of phase 0.
    """
    if recorder.log is None:
        return
    last, run = phases[-1], results.summarize(phases, base_classes)
    by_phase = {
        'test': last['accuracy'],
        'test_old_classes': last.get('old_accuracy', {}),
        'test_new_classes': last.get('new_accuracy', {}),
        'average_incremental_accuracy': run['average_incremental_accuracy'],
        'forgetting': run['forgetting'],
        'memory': {
            'bytes': float(last['exemplars']['bytes']),
            'exemplars': float(last['exemplars']['count']),
        },
    }
    by_classes = {'test_by_classes': last['accuracy']}
    recorder.log.scalars(last['phase'], joined(by_phase), 'phase')
    recorder.log.scalars(last['num_seen'], joined(by_classes), 'classes_seen')


def joined(groups: dict[str, dict[str, float]]) -> dict[str, float]:
    """Values by 'group/name', without those of classes that have no images."""
    return {
        f'{group}/{name}': value
        for group, values in groups.items()
        for name, value in values.items()
        if math.isfinite(value)
    }
