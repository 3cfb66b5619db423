"""`config.json`: what a work directory was begun with, and who may go on."""

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
from mnemonics_jax.core import multihost
from mnemonics_jax.core.workdir import Workdir, write_atomically
from mnemonics_jax.data.phase_plan import Plan, from_json
from mnemonics_jax.experiment import data

# Fields that a resumed run may have otherwise: they change no number, or only
# the order of sums.
MAY_CHANGE = (
    'checkpoint',
    'exemplars.microbatch',
    'protocol.stop_after_phase',
    'report',
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


class RunConfig(NamedTuple):
    """The run that a work directory holds.

    Attributes:
        config: as JSON has it.
        plan: of its classes and phases.
    """

    config: dict[str, Any]
    plan: Plan


def read(place: Workdir) -> RunConfig | None:
    """What a work directory holds; None if nothing.

    Raises:
        ValueError: the file is damaged.
    """
    if not (place.local / 'config.json').exists():
        return None
    content = _content(place)
    return RunConfig(content['config'], from_json(content['plan']))


def follow(
    run_config: RunConfig,
    config: ml_collections.FrozenConfigDict,
    place: Workdir,
) -> ml_collections.FrozenConfigDict:
    """The configuration to go on with, where its phases are left open.

    Raises:
        ValueError: it is another than the one that the work directory was begun
            with; the fields are named.
    """
    protocol = run_config.config['protocol']
    config = data.fill_protocol(
        config, protocol['base_classes'], protocol['phases']
    )
    fields = differences(
        config_lib.to_json(config), run_config.config, ignored=MAY_CHANGE
    )
    if fields:
        raise ValueError(
            f'--workdir={place.shown(place.local)}: holds a run of another '
            f'configuration ({"; ".join(fields)}); allowed: the same '
            'configuration, or another directory'
        )
    return config


def differences(
    ours: Any, theirs: Any, prefix: str = '', *, ignored: Sequence[str] = ()
) -> list[str]:
    """Fields in which two JSON configurations differ, as 'a.b: 1, 2'.

    Args:
        ours: one.
        theirs: the other.
        prefix: of the fields' names.
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
    """Writes `config.json`, or its plan anew if that has grown."""
    if not multihost.is_main():
        return
    place.local.mkdir(parents=True, exist_ok=True)
    path = place.local / 'config.json'
    if not path.exists():
        content = {
            'config': config_lib.to_json(config),
            'versions': versions(),
            'commit': commit(),
            'started': now(),
        }
    elif from_json((content := _content(place))['plan']) == plan:
        return
    content['plan'] = plan._asdict()
    _write(place, content)


def add_start(place: Workdir, resumed: dict[str, Any] | None) -> None:
    """Adds a start of the command to `config.json`.

    Args:
        place: the work directory; its `config.json` is there.
        resumed: 'phase', 'stage' and 'step' that the run goes on at; None where
            it begins.
    """
    if not multihost.is_main():
        return
    content = _content(place)
    start = {
        'time': now(),
        'resumed': resumed,
        # As it was typed; the interpreter's path says nothing of the run.
        'command': shlex.join(['python', *sys.orig_argv[1:]]),
    }
    starts = [*content.get('starts', ()), start]
    _write(place, {**content, 'starts': starts})


def now() -> str:
    """The time as text, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def versions() -> dict[str, str]:
    """Versions of what computes, and the device that it computes on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    found['python'] = platform.python_version()
    found['device'] = jax.devices()[0].device_kind
    found['num_devices'] = str(jax.device_count())
    return found


def commit() -> str | None:
    """The commit of the checkout that the package lies in, if any."""
    top = pathlib.Path(__file__).parent.parent.parent
    # An installed package may lie in a checkout of something else.
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


def _write(place: Workdir, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + '\n'
    write_atomically(place.local / 'config.json', text)


def _content(place: Workdir) -> dict[str, Any]:
    """The file, with the entries that later runs need."""
    path = place.local / 'config.json'
    try:
        content = json.loads(path.read_text())
        missing = not {'config', 'plan'} <= set(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        missing = True
    if missing:
        raise ValueError(
            f'{place.shown(path)}: no configuration of a run; allowed: another '
            '--workdir'
        )
    return content
