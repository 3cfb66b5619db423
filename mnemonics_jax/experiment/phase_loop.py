"""The phase loop: runs the remaining phases of a run and reports results."""

import functools
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn

from mnemonics_jax import config as config_lib
from mnemonics_jax import report
from mnemonics_jax.core import lock, multihost, parallel, peers
from mnemonics_jax.core.rng import Stage, stage_key
from mnemonics_jax.core.workdir import SETUP, Workdir
from mnemonics_jax.data import encoded as encodings
from mnemonics_jax.data import errors
from mnemonics_jax.data.sources import Source
from mnemonics_jax.exemplars import memory, stored, strategies
from mnemonics_jax.experiment import (
    base_run,
    byte_budget,
    components,
    data_check,
    memory_check,
    objects,
    recording,
    repair,
    results,
    run_config,
    start_lines,
)
from mnemonics_jax.experiment.compile_ahead import CompileAhead, later
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.experiment.phase import run_phase
from mnemonics_jax.train import logs
from mnemonics_jax.train.checkpoint import Checkpointer, LoopPosition
from mnemonics_jax.train.loop import ResumableLoops, SavePolicy
from mnemonics_jax.train.metric_writer import Recorder
from mnemonics_jax.train.preemption import Interrupt
from mnemonics_jax.types import Backbone, Carry, ExemplarSet, Method


def prepare(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    placement: parallel.Placement | None = None,
    given: Collection[str] | None = None,
) -> components.Components:
    """Checks the configuration and builds the components of a run.

    Args:
        config: see `fields.default_config`; None fields are filled in.
        workdir: work directory, created if missing; may be gs://BUCKET/FOLDER.
        placement: placement; over all devices by default.
        given: see `config.resolve`.

    Raises:
        ValueError: JAX_PLATFORMS names a platform without a device, the config
            is invalid or differs from that of the run in the work directory,
            the data lack classes of that run, or a step of a new run does not
            fit the devices. Nothing is written then.
        OSError: the work directory cannot be written.
    """
    parallel.check_devices()

    def resolved() -> tuple[ml_collections.FrozenConfigDict, dict[str, str]]:
        found = config_lib.resolve(config, given)
        return found, run_config.in_words(found)

    def opened() -> tuple[Workdir, dict[str, str]]:
        place = Workdir(workdir, uploads=multihost.is_main())
        place.check_writable()
        return place, {}

    same = peers.in_all(resolved)
    with peers.in_all(opened) as place:
        run_config.repair(place)

        def built() -> tuple[components.Components, dict[str, str]]:
            parts = _build(same, place, placement)
            return parts, data_check.in_words(parts) | run_config.found(place)

        parts = peers.in_all(built)
        run_config.write(place, parts.config, parts.plan)
        # Fails here, before the run, if the work directory is not writable.
        place.sync([SETUP])
    return parts


def _build(
    config: ml_collections.FrozenConfigDict,
    place: Workdir,
    placement: parallel.Placement | None,
) -> components.Components:
    """See `prepare`; of this process alone."""
    begun = run_config.read(place)
    if begun is not None:
        config = run_config.follow(begun, config, place)
    else:
        base_run.check_found(config)
    if multihost.is_main():
        logs.check_installed(config.log.to)
    parts = components.build(config, placement, begun and begun.plan)
    if begun is None:
        base_run.check(parts)
        line = memory_check.check(
            parts, last_phase(parts), parallel.room_on_device()
        )
        if line and multihost.is_main():
            print(line, flush=True)
    return parts


def run(
    parts: components.Components, workdir: str | pathlib.Path
) -> dict[str, Any]:
    """Runs or resumes an experiment.

    Args:
        parts: components from `prepare`.
        workdir: the same work directory.

    Returns:
        The content of `results.json`.

    Raises:
        errors.BadDataError: images cannot be read, or have changed.
        lock.InUseError: another command writes to the work directory.
        lock.LostError: it was removed or renamed during the run.
    """
    settings, last = parts.config.checkpoint, last_phase(parts)
    place = Workdir(workdir, uploads=multihost.is_main())
    with (
        Interrupt() as interrupt,
        lock.hold(place.root) as held,
        place,  # Its last copies are made while the lock is held.
        open_checkpoints(parts, place, held) as checkpointer,
        CompileAhead(lambda: interrupt.signal) as ahead,
    ):
        policy = SavePolicy(settings.every_steps, settings.every_seconds)
        loops = ResumableLoops(checkpointer, interrupt, policy, ahead.turn)
        carry, phases = restore(parts, checkpointer)
        ahead.plan(functools.partial(later, parts, len(phases), last))
        repair.repair(parts, place, checkpointer, carry, phases)
        position = loops.resume(len(phases))
        changed = []
        if len(phases) <= last:
            begun = len(phases) + (position is not None)
            changed = data_check.check(parts, place, begun)
            resumed = resumption(len(phases), position)
            run_config.add_start(place, parts.config, resumed)
        setup = run_config.content(place)
        with recording.open_recorder(
            parts, place, phases, position, last
        ) as recorder:
            announce(parts, recorder, len(phases), position, changed)
            for index in range(len(phases), last + 1):
                loops.open_phase(index)
                bounds = parts.bounds[index]
                context = PhaseContext(parts, index, *bounds, recorder, loops)
                trained = None if index else base_run.load(parts)
                carry, outcome = run_phase(context, carry, trained)
                held.check()
                phases.append(results.describe(context, carry, outcome))
                results.save_arrays(context, carry, outcome, place.local)
                recording.log_phase(context, carry, phases)
                results.write(parts, phases, place.local)
                recorder.list_records()
                checkpointer.save(index, carry, phases, outcome.other, setup)
                # Frees the real images of this phase.
                del outcome
                recorder.say(report.phase_line(phases[-1]))
            checkpointer.wait()
            content = results.write(parts, phases, place.local)
            recorder.say(report.table(content))
            if multihost.is_main():
                made = parts.config.report and report.write(place.local)
                held.check()
                place.sync()
                if made:
                    recorder.say(f'report: {place.shown(made)}')
    return content


def run_experiment(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    placement: parallel.Placement | None = None,
    *,
    source: Source | None = None,
    method: Method | None = None,
    backbone: Backbone | nn.Module | None = None,
) -> dict[str, Any]:
    """Runs or resumes a configuration to its end (the paper's Algorithm 1).

    Writes the same files as the command line. A run with objects is resumed
    with equal ones: they are not saved. The commands need files in their place.

    Args:
        config: from `default_config`, with your fields set.
        workdir: work directory, created if missing; may be gs://BUCKET/FOLDER.
        placement: placement; over all devices by default.
        source: data in place of those that `data.source` names.
        method: method in place of `method.name`.
        backbone: in place of `backbone.name`: a linen trunk as in `BACKBONES`,
            or a model for the classes of the data with the head that
            `backbone.head` names.

    Returns:
        The content of `results.json`; accuracies and forgettings are fractions
        in [0, 1].

    Raises:
        ValueError: see `prepare`; nothing is written then.
        OSError: the work directory cannot be written.

    Example:
        >>> import tempfile
        >>> from mnemonics_jax import default_config, run_experiment
        >>> config = default_config()
        >>> config.update_from_flattened_dict({
        ...     'data.source': 'synthetic',
        ...     'data.num_classes': 4,
        ...     'data.image_size': 8,
        ...     'backbone.name': 'convnet_tiny',
        ...     'protocol.base_classes': 2,
        ...     'protocol.phases': 1,
        ...     'train.epochs': 2,
        ...     'train.milestones': (1,),
        ...     'exemplars.strategy': 'herding',
        ...     'finetune.epochs': 1,
        ... })
        >>> with tempfile.TemporaryDirectory() as workdir:
        ...     results = run_experiment(config, workdir)
        synthetic: 4 classes in 2 phases; ...
        >>> [phase['num_seen'] for phase in results['phases']]
        [2, 4]
        >>> sorted(results['average_incremental_accuracy'])
        ['cnn', 'finetuned', 'nme']
    """
    with objects.given(config, source, method, backbone) as named:
        return run(prepare(named, workdir, placement), workdir)


def open_checkpoints(
    parts: components.Components, place: Workdir, held: lock.Lock
) -> Checkpointer:
    """Checkpoints of a run, for as long as its lock is held.

    Those within the unfinished phase are removed where learning rates are not
    what they were, since it is begun anew; see `run_config.new_rates`.

    Raises:
        lock.InUseError: since `prepare` another run was begun here.
    """
    try:
        if (begun := run_config.read(place)) is not None:
            run_config.follow(begun, parts.config, place)
    except ValueError as e:
        raise lock.InUseError(str(e)) from e
    if begun is not None and run_config.new_rates(begun.config, parts.config):
        if multihost.is_main():
            steps = place.root / 'checkpoints' / 'steps'
            steps.rmtree(missing_ok=True)
        multihost.all_agree(True)  # The others wait.

    def before_save() -> None:
        held.check()
        place.sync()

    keep = parts.config.checkpoint.keep
    return Checkpointer(place.root, keep=keep, before_save=before_save)


def last_phase(parts: components.Components) -> int:
    """Index of the last phase to run."""
    last, stop = len(parts.bounds) - 1, parts.config.protocol.stop_after_phase
    return last if stop is None else min(stop, last)


def first_carry(parts: components.Components) -> Carry:
    """Initial weights and an empty memory."""
    config, source = parts.config, parts.source
    variables = jax.jit(parts.backbone.init)(
        stage_key(config.seed, 0, Stage.INIT)
    )
    slots = parts.slots(0)
    exemplars = jax.jit(memory.empty, static_argnums=range(4))(
        source.num_classes, slots, source.image_shape, parts.storage.dtype
    )
    encoded = None
    if parts.storage.compresses and strategies.keeps(config.exemplars.strategy):
        encoded = encodings.join([], source.num_classes, slots)
    variables, exemplars = parallel.replicate(
        parts.placement, (variables, exemplars)
    )
    return Carry(variables, exemplars, encoded)


def restore(
    parts: components.Components, checkpointer: Checkpointer
) -> tuple[Carry, list[dict[str, Any]]]:
    """Carry and results of the finished phases.

    Raises:
        errors.BadDataError: stored exemplars decode to other pixels than they
            did in the run so far, or a class has too few bytes for them.
    """
    first = first_carry(parts)
    carry, phases = checkpointer.restore_latest(first) or (first, [])
    if phases and carry.encoded is not None:
        decoded = encodings.decode(parts.storage, carry.encoded)
        if line := stored.other_pixels(*decoded, phases[-1]['exemplars']):
            raise errors.BadDataError(line)
        # Classes added after the start leave the others fewer bytes.
        last = parts.budget(len(parts.bounds) - 1)
        lost = np.flatnonzero(carry.encoded.lengths[:, 0] > last)
        if last and len(lost):
            name = parts.plan.classes[int(lost[0])]
            raise byte_budget.TooFewBytesError(name, last)
        images, mask = parallel.replicate(parts.placement, decoded)
        carry = carry.replace(exemplars=ExemplarSet(images, mask))
    return carry, phases


def resumption(
    num_done: int, position: LoopPosition | None
) -> dict[str, Any] | None:
    """Where a run resumes, for `config.json`; None for a new run.

    Args:
        num_done: number of finished phases.
        position: position in the next phase, None for its start.
    """
    if position is None:
        if not num_done:
            return None
        return {'phase': num_done, 'stage': None, 'step': None}
    stage, step = list(position.stages.items())[-1]
    return {'phase': num_done, 'stage': stage, 'step': step}


def announce(
    parts: components.Components,
    recorder: Recorder,
    num_done: int,
    position: LoopPosition | None,
    changed: Collection[str] = (),
) -> None:
    """Prints what will run, or that the run is already finished."""
    config, total = parts.config, len(parts.bounds)
    if num_done == total:
        recorder.say(f'already finished: all {total} phases are done')
        return
    if num_done > last_phase(parts):
        recorder.say(
            f'already finished: phases 0..{num_done - 1} of 0..{total - 1} are '
            f'done, protocol.stop_after_phase={last_phase(parts)}'
        )
        return
    for line in parts.source.notes:
        recorder.say(line)
    if parts.source.skipped:
        recorder.say(
            f'skipped {len(parts.source.skipped)} images that cannot be read; '
            'results.json lists them'
        )
    if position is not None:
        stage, done = list(position.stages.items())[-1]
        recorder.say(
            f'resuming in phase {num_done} of 0..{total - 1}, {stage}, after '
            f'step {done}'
        )
    elif num_done:
        recorder.say(f'resuming after phase {num_done - 1} of 0..{total - 1}')
    late = parts.num_late_classes()
    recorder.say(
        f'{config.data.source}: {parts.source.num_classes} classes in '
        f'{start_lines.phases_in_words(parts.bounds)}'
        f'{f" ({late} classes added after the start)" if late else ""}; '
        f'{config.method.name} on '
        f'{config.backbone.name} with {config.exemplars.strategy} exemplars; '
        f'data.feed={config.data.feed}; '
        f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    )
    if (fewer := start_lines.small_classes(parts)) is not None:
        recorder.say(fewer)
    for line in changed:
        recorder.say(line)
