"""Command line: `python -m mnemonics_jax.main --config=FILE --workdir=DIR`.

`mnemonics-jax` is the same command. FILE is a path, or the name of one of the
package's configurations, such as digits or cifar100:phases=10. Every field of
the configuration is a flag: `--config.exemplars.per_class=5`. Rerun the command
to resume; after the end of the run it says so and exits with 0.
"""

import re
import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mnemonics_jax.config import arguments, tables
from mnemonics_jax.core import cli, workdir
from mnemonics_jax.core.cli import fail
from mnemonics_jax.core.rules import one_of

DEFAULT_CONFIG = 'digits'
HELP = ('--help', '-help', '-?', '--helpshort', '--helpfull')
_CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,
    'File with a get_config() function, or the name of one in the package; '
    f'default {DEFAULT_CONFIG}.',
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Directory to write to; may be gs://BUCKET/FOLDER.',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT of process 0, in a run of several processes. Not needed on '
    'Cloud TPU, under SLURM and with Open MPI.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'Number of processes, with --coordinator.'
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Index of this process from 0, with --coordinator.'
)


def parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; a mistake is reported in one line."""
    # Help exits here, without a configuration, which would load jax.
    if asked := [word for word in argv if word in HELP]:
        flags.FLAGS([argv[0], *asked])
    try:
        given, argv = with_config(argv)
    except ValueError as e:
        fail(e)
    try:
        rest = flags.FLAGS(argv)
        _CONFIG.value  # noqa: B018, runs the file
        prefer_sizes()
    except (AttributeError, KeyError) as e:
        fail(explain_field(argv) or explain_key(given, e) or e)
    except flags.Error as e:
        fail(explain_file(e) or explain_type(e) or e)
    except (OSError, SyntaxError, TypeError, ValueError) as e:
        fail(e)
    if not flags.FLAGS['verbosity'].present:
        cli.quieten()
    if len(rest) > 1:
        fail(f'{rest[1]!r}: not a flag; flags start with --')
    if not _WORKDIR.value:
        fail('--workdir: must be a directory to write to')
    try:
        workdir.address(_WORKDIR.value)
    except ValueError as e:
        fail(f'--workdir={e}')
    return rest


def with_config(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of `--config`, and the command with the file's path instead.

    The flag is added if it is missing: a default value would be loaded, and
    might fail, on import.

    Raises:
        ValueError: there is no such configuration.
    """
    flag, found = '--config', [*argv]
    for i, argument in enumerate(argv[1:], start=1):
        name, equals, value = argument.partition('=')
        if name in (flag, '-config'):
            given = value if equals else ''.join(argv[i + 1 : i + 2])
            found[i : i + 1 if equals else i + 2] = [
                f'{flag}={arguments.locate(given)}'
            ]
            return given, found
    found.insert(1, f'{flag}={arguments.locate(DEFAULT_CONFIG)}')
    return DEFAULT_CONFIG, found


def prefer_sizes() -> None:
    """Has the flag of `phase_sizes` replace the file's number of phases."""
    given = config_flags.get_override_values(flags.FLAGS['config'])
    if 'protocol.phase_sizes' in given:
        for name in ('base_classes', 'phases', 'remainder'):
            if f'protocol.{name}' not in given:
                _CONFIG.value.protocol[name] = None


def explain_type(error: flags.Error) -> str | None:
    """What a field must be, if a flag has a value of another type."""
    from mnemonics_jax.config.fields import FIELDS

    found = re.match(r'flag (--config\.([\w.]+)=.*?): ', str(error))
    if found is None or found[2] not in FIELDS:
        return None
    return f'{found[1]}: must be {FIELDS[found[2]].rule.must_be()}'


def explain_file(error: flags.Error) -> str | None:
    """The message for an error inside the configuration file, or None."""
    flag, wrapped, _ = str(error).partition(': Error whilst parsing config')
    if not wrapped:
        return None
    # absl's error wraps that of ml_collections, which has the traceback in its
    # text and wraps the error that the file raised.
    raised = error.__context__
    return f'{flag}: {raised and raised.__context__}'


def explain_key(given: str, error: Exception) -> str | None:
    """The message for an unknown field in a configuration file, or None."""
    unknown = re.search(r'Key "(\w+)" does not exist', str(error))
    if not unknown:
        return None
    near = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f'; nearest: {near[1]}' if near else ''
    return f'--config={given}: no field {unknown[1]!r}{hint}'


def explain_field(argv: Sequence[str]) -> str | None:
    """The message for the first `--config.a.b` that is no field, or None."""
    from mnemonics_jax.config import default_config

    for argument in argv:
        if not argument.startswith('--config.'):
            continue
        node, path = default_config(), argument.partition('=')[0].split('.')
        for name in path[1:]:
            fields = list(node) if isinstance(node, ConfigDict) else []
            if name not in fields:
                if not fields:
                    return f'{argument}: {".".join(path[1:-1])} has no fields'
                return (
                    f'{argument}: no field {name!r}; must be '
                    f'{one_of(fields).words}'
                )
            node = node[name]
    return None


def main(argv: Sequence[str]) -> None:
    """Runs the experiment that the flags describe."""
    del argv
    # Imported late, so that --help and wrong flags answer at once.
    from mnemonics_jax import experiment
    from mnemonics_jax.core import (
        compilation_cache,
        multihost,
        parallel,
        precision,
    )
    from mnemonics_jax.core.workdir import BucketError
    from mnemonics_jax.data.errors import BadDataError
    from mnemonics_jax.experiment import memory_check
    from mnemonics_jax.train.metric_writer import DivergedError
    from mnemonics_jax.train.preemption import EXIT_CODE, InterruptError

    # A user's mistakes show here, before any work; what fails later is a defect
    # and keeps its traceback.
    place = str(_WORKDIR.value)
    precision.allow(getattr(_CONFIG.value, 'precision', ''))
    try:
        compilation_cache.keep_programs(place)
        multihost.join(
            _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
        )
    except ValueError as e:
        fail(e)
    parallel.avoid_cached_collectives()
    try:
        parts = experiment.prepare(_CONFIG.value, place)
    except ValueError as e:
        fail(e)
    except OSError as e:
        fail(
            f'--workdir={place}: must be a writable directory '
            f'({e.strerror or e})'
        )
    try:
        experiment.run(parts, place)
    except (BadDataError, DivergedError) as e:
        fail(e)
    except BucketError as e:
        fail(f'--workdir={place}: {e}; rerun the command to resume')
    except InterruptError as e:
        if multihost.is_main():
            print(f'stopped by {e}; rerun the command to resume', flush=True)
        multihost.leave()
        sys.exit(EXIT_CODE)
    except Exception as e:  # Orbax's storage raises many types.
        if memory_check.is_exhausted(e):
            fail(memory_check.EXHAUSTED)
        reason = cli.why_full(e)
        if reason is None:
            raise
        fail(explain_full(reason, place))
    multihost.leave()


def explain_full(reason: str, place: str) -> str:
    """The message for a full disk: what is saved and what to do."""
    from mnemonics_jax.train import checkpoint

    kept = ', '.join(checkpoint.whole(place)) or 'none yet'
    return (
        f'--workdir={place}: {reason}; checkpoints: {kept}; free some space '
        'and rerun the command to resume'
    )


def command() -> None:
    """The console command; its help is the docstring of this module."""
    sys.modules['__main__'].__doc__ = f'{__doc__}\n{tables.as_help()}'
    for flag in flags.FLAGS.get_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=parse)


if __name__ == '__main__':
    command()
