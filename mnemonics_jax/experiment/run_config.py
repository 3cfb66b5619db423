"""`config.json`: configuration and plan of the run in a work directory."""

import copy
import datetime
import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from mnemonics_jax import config as config_lib
from mnemonics_jax.config.fields import FIELDS
from mnemonics_jax.config.presets import ByMethod, Presets
from mnemonics_jax.core import manifest, multihost, schema
from mnemonics_jax.core.text import flatten
from mnemonics_jax.core.workdir import SETUP, Workdir, write_atomically
from mnemonics_jax.data.phase_plan import Plan, from_json
from mnemonics_jax.data.record import Record
from mnemonics_jax.experiment import data
from mnemonics_jax.train import checkpoint

# Fields that may differ when a run is resumed: they change no results, or only
# the order of sums. What the images are is checked by `data_check`.
MAY_CHANGE = (
    'checkpoint',
    'data.dir',
    'data.feed',
    'data.labels',
    'data.memory_mb',
    'data.on_changed',
    'data.read_ahead_mb',
    'exemplars.microbatch',
    'log',
    'protocol.stop_after_phase',
    'report',
    'steps_per_dispatch',
)
# Fields that may differ too where `checkpoint.on_changed_lr` says so: later
# phases are then trained otherwise than those before.
RATES = (
    'exemplars.adjust_lr',
    'exemplars.inner_lr',
    'exemplars.outer_lr',
    'finetune.lr',
    'train.lr',
)
RESTART = 'restart_phase'
# Without a record of its images, these say which they were.
_PLACES = ('data.dir', 'data.labels')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


class RunConfig(NamedTuple):
    """Configuration and plan of the run in a work directory.

    Attributes:
        config: configuration as JSON.
        plan: classes and phases.
    """

    config: dict[str, Any]
    plan: Plan


def read(place: Workdir) -> RunConfig | None:
    """Reads `config.json`, from the bucket if it is there; None if it is not.

    Raises:
        ValueError: the file is damaged, or missing from a run.
    """
    place.fetch_checked([SETUP])
    if (why := damage(place)) is not None:
        raise _refused(place, why)
    if not (place.local / SETUP).exists():
        return None
    found = content(place)
    return RunConfig(found['config'], from_json(found['plan']))


def damage(place: Workdir) -> str | None:
    """What is wrong with `config.json`; None if nothing is, or for no run.

    Raises:
        OSError: it cannot be read.
    """
    found = manifest.damage(place.local, SETUP)
    if found is not None:
        return found
    if not (place.local / SETUP).exists():
        return 'is missing' if checkpoint.whole(place.root) else None
    try:
        schema.load(place.local / SETUP, schema.check_setup)
    except ValueError as e:
        return str(e)
    return None


def repair(place: Workdir) -> None:
    """Writes a damaged `config.json` again from the last checkpoint.

    Process 0 does, and the others wait. Without a checkpoint that has it `read`
    raises.
    """
    if multihost.is_main():
        try:
            place.fetch_checked([SETUP])
            why = damage(place)
            found = None if why is None else checkpoint.read_setup(place.root)
            if found is not None:
                print(f'{SETUP} {why}; written again', flush=True)
                _write(place, found)
                place.sync()
        except OSError:  # What cannot be read, or written.
            pass
        finally:
            multihost.all_agree(True)
    else:
        multihost.all_agree(True)


def follow(
    run_config: RunConfig,
    config: ml_collections.FrozenConfigDict,
    place: Workdir,
) -> ml_collections.FrozenConfigDict:
    """Checks a configuration against the started run and fills its protocol.

    Raises:
        ValueError: it differs from that of the started run; the message names
            the fields.
    """
    protocol = run_config.config['protocol']
    config = data.fill_protocol(
        config, protocol['base_classes'], protocol['phases']
    )
    ignored = may_differ(MAY_CHANGE, recorded=read_data(place) is not None)
    if config.data.feed == 'auto':  # Decided when the run began.
        begun = ml_collections.ConfigDict(run_config.config)
        config = data.with_feed(config, begun.data.feed)
    if config.checkpoint.on_changed_lr == RESTART:
        ignored += RATES
    fields = differences(
        config_lib.to_json(config),
        completed(run_config.config),
        ignored=ignored,
    )
    if fields:
        rates = all(field.partition(':')[0] in RATES for field in fields)
        hint = (
            f', or --config.checkpoint.on_changed_lr={RESTART} to begin the '
            'unfinished phase anew'
        )
        raise ValueError(
            f'--workdir={place.shown(place.local)}: must be the work directory '
            f'of the same configuration, or a new one ({"; ".join(fields)})'
            f'{hint if rates else ""}'
        )
    return config


def new_rates(
    before: dict[str, Any], config: ml_collections.FrozenConfigDict
) -> dict[str, list[float]]:
    """Learning rates that differ from those so far: field -> [before, now].

    Args:
        before: configuration of the last start, as JSON.
        config: configuration of this start.
    """
    old, new = flatten(before), flatten(config_lib.to_json(config))
    return {
        name: [old[name], new[name]]
        for name in RATES
        if name in old and old[name] != new[name]
    }


def phases_of_new_rates(place: Workdir) -> list[int]:
    """The phases that were begun with other learning rates, ascending."""
    if not (place.local / 'config.json').exists():
        return []
    starts = content(place).get('starts', ())
    return [s['resumed']['phase'] for s in starts if s.get('new_rates')]


def completed(content: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the fields that came after its start.

    They have the defaults by which nothing changes; those that a preset or a
    method fills in have none, and are left out.
    """
    filled = copy.deepcopy(content)
    for name, field in FIELDS.items():
        *sections, last = name.split('.')
        node: Any = filled
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        has_default = not isinstance(field.default, Presets | ByMethod)
        if has_default and isinstance(node, dict):
            default = field.default
            is_tuple = isinstance(default, tuple)
            node.setdefault(last, list(default) if is_tuple else default)
    return filled


def may_differ(fields: Sequence[str], *, recorded: bool) -> list[str]:
    """Those fields that may differ from an earlier run's.

    Args:
        fields: fields that may, where that run has recorded what its images
            are.
        recorded: whether it has.
    """
    return [name for name in fields if recorded or name not in _PLACES]


def differences(
    ours: Any, theirs: Any, prefix: str = '', *, ignored: Sequence[str] = ()
) -> list[str]:
    """Fields in which two JSON configurations differ, with both values.

    Args:
        ours: configuration, called 'here' in the result.
        theirs: configuration, called 'there'.
        prefix: prefix of the field names.
        ignored: fields and sections that are not compared.
    """
    if prefix in ignored:
        return []
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        if ours == theirs:
            return []
        return [f'{prefix}: {ours!r} here, {theirs!r} there']
    found = []
    for name in sorted({*ours, *theirs}):
        path = f'{prefix}.{name}' if prefix else name
        found += differences(
            ours.get(name), theirs.get(name), path, ignored=ignored
        )
    return found


def write(
    place: Workdir, config: ml_collections.FrozenConfigDict, plan: Plan
) -> None:
    """Writes `config.json`, or updates its plan if that has grown."""
    if not multihost.is_main():
        return
    place.local.mkdir(parents=True, exist_ok=True)
    if not (place.local / SETUP).exists():
        found = {
            'config': config_lib.to_json(config),
            'versions': versions(),
            'commit': commit(),
            'started': now(),
        }
    elif from_json((found := content(place))['plan']) == plan:
        return
    found['plan'] = plan._asdict()
    _write(place, found)


def found(place: Workdir) -> dict[str, str]:
    """In words, whether the work directory has a run; for `peers.in_all`.

    It is the same directory in all processes if this is equal in them.
    """
    path = place.local / SETUP
    start = content(place).get('started', '') if path.exists() else ''
    run = f'of a run begun {start}' if path.exists() else 'missing'
    return {f'{SETUP} in the work directory': run}


def read_data(place: Workdir) -> Record | None:
    """The record of the data; None if there is none."""
    if not (place.local / SETUP).exists():
        return None
    return content(place).get('images')


def write_data(place: Workdir, record: Record) -> None:
    """Writes the record of the data to `config.json`."""
    if multihost.is_main() and record != read_data(place):
        _write(place, {**content(place), 'images': record})


def add_start(
    place: Workdir,
    config: ml_collections.FrozenConfigDict,
    resumed: dict[str, Any] | None,
) -> None:
    """Adds a start of the command to `config.json`.

    Args:
        place: work directory with a `config.json`.
        config: configuration of this start, from `follow`: it says where the
            data are now.
        resumed: 'phase', 'stage' and 'step' at which the run resumes; None for
            a new run.
    """
    if not multihost.is_main():
        return
    found = content(place)
    rates = new_rates(found['config'], config)
    if rates and resumed is None:  # The phase that is begun anew is the first.
        resumed = {'phase': 0, 'stage': None, 'step': None}
    start = {
        'time': now(),
        'resumed': resumed,
        **({'new_rates': rates} if rates else {}),
        # As typed, but without the path of the interpreter.
        'command': shlex.join(['python', *sys.orig_argv[1:]]),
    }
    found['config'] = config_lib.to_json(config)
    found['starts'] = [*found.get('starts', ()), start]
    _write(place, found)


def now() -> str:
    """The current UTC time in ISO format, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def in_words(config: ml_collections.FrozenConfigDict) -> dict[str, str]:
    """What must be equal in all processes of a run, by name.

    Not where the data are: each machine may have its own copy.
    """
    found = {
        field: json.dumps(value)
        for field, value in flatten(config_lib.to_json(config)).items()
        if field not in _PLACES
    }
    return {**found, **versions()}


def versions() -> dict[str, str]:
    """Versions of packages and Python, and the devices."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    found['python'] = platform.python_version()
    found['device'] = jax.devices()[0].device_kind
    found['num_devices'] = str(jax.device_count())
    return found


def commit() -> str | None:
    """The git commit of the package's checkout, if any."""
    top = pathlib.Path(__file__).parent.parent.parent
    # An installed package may be inside a checkout of something else.
    if not (top / '.git').exists():
        return None
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--abbrev=40'],
            cwd=top,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def content(place: Workdir) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
        ValueError: it is none of a run.
    """
    try:
        return schema.load(place.local / SETUP, schema.check_setup)
    except ValueError as e:
        raise _refused(place, str(e)) from e


def _write(place: Workdir, found: dict[str, Any]) -> None:
    text = json.dumps(found, indent=2) + '\n'
    with manifest.writing(place.local, [SETUP]):
        write_atomically(place.local / SETUP, text)


def _refused(place: Workdir, why: str) -> ValueError:
    return ValueError(
        f'{place.shown(place.local / SETUP)}: no configuration of a run: '
        f'{why}; the command of the run writes it again if a checkpoint has '
        'it, else --workdir must be another directory'
    )
