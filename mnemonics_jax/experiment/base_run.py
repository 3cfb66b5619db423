"""Phase 0 from another run, shared by runs that differ only in later phases."""

import pathlib

import jax
import ml_collections
import numpy as np

from mnemonics_jax import config as config_lib
from mnemonics_jax.core import parallel
from mnemonics_jax.core.workdir import Workdir
from mnemonics_jax.data import record
from mnemonics_jax.experiment import (
    components,
    data_check,
    finished,
    run_config,
)
from mnemonics_jax.types import Variables

# Fields in which the runs may differ, since training in phase 0 does not read
# them.
LATER = (
    'checkpoint',
    'evaluate',
    'exemplars',
    'finetune',
    'log',
    'report',
    'data.dir',
    'data.feed',
    'data.labels',
    'data.memory_mb',
    'data.on_changed',
    'data.read_ahead_mb',
    'protocol.phase_sizes',
    'protocol.phases',
    'protocol.remainder',
    'protocol.stop_after_phase',
    'train.base_run',
)


def check_found(config: ml_collections.FrozenConfigDict) -> None:
    """Raises ValueError if `train.base_run` is no run; needs no data."""
    folder = config.train.base_run
    if folder is None:
        return
    with Workdir(folder, uploads=False) as place:
        if run_config.read(place) is None:
            raise ValueError(
                f'train.base_run={folder}: no config.json, must be the work '
                'directory of a run'
            )


def check(parts: components.Components) -> None:
    """Raises ValueError, in one line, if `load` would fail or mislead."""
    if parts.config.train.base_run is not None:
        _open(parts)


def load(parts: components.Components) -> Variables | None:
    """The trained model of phase 0 from `train.base_run`; None if not set.

    Training would give the same bits on the devices and with the versions of
    the base run.

    Args:
        parts: components of this run.

    Raises:
        ValueError: the base run has no model of phase 0, or differs in classes
            or in fields that phase 0 depends on.
    """
    if parts.config.train.base_run is None:
        return None
    found = jax.tree.map(np.asarray, _open(parts).variables)
    return parallel.replicate(parts.placement, found)


def _open(parts: components.Components) -> finished.FinishedPhase:
    folder = parts.config.train.base_run
    try:
        _compare(parts, folder)
        found = finished.restore_phase(folder, 0)
    except ValueError as e:
        raise ValueError(f'train.base_run: {e}') from e
    if found.plan.classes != parts.plan.classes:
        raise ValueError(
            f'train.base_run={folder}: must be a run on the same classes in '
            'the same order'
        )
    return found


def _compare(parts: components.Components, folder: str | pathlib.Path) -> None:
    with Workdir(folder, uploads=False) as place:
        begun, data = run_config.read(place), run_config.read_data(place)
        later = [k for k in run_config.phases_of_new_rates(place) if k]
    if begun is None:
        return  # `finished.restore_phase` raises.
    if later:
        raise ValueError(
            f'{folder}: must be a run whose phase 0 had the learning rates of '
            f'its config.json, but they are those from phase {later[0]} on'
        )
    ignored = run_config.may_differ(LATER, recorded=bool(data))
    fields = run_config.differences(
        config_lib.to_json(parts.config), begun.config, ignored=ignored
    )
    if fields:
        raise ValueError(
            f'{folder}: must be a run that differs only in '
            f'{", ".join(LATER[:-1])}, but has {"; ".join(fields)}'
        )
    if data is None:
        return
    base = parts.plan.classes[: parts.bounds[0][1]]
    changed = record.changes(data, record.describe(parts.source), base)
    if changed:
        raise ValueError(
            f'{folder}: must be a run on the same images, but here are '
            f'{data_check.listed(changed)}'
        )
