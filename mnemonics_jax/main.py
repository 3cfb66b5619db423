"""Command line: `python -m mnemonics_jax.main --config=FILE --workdir=DIR`.

`mnemonics-jax` is the same command. FILE is a path, or the name of one of the
package's configurations, such as digits or cifar100:phases=10. Every field of
the configuration is a flag: `--config.exemplars.per_class=5`. Rerun the command
to resume; after the end of the run it says so and exits with 0. With
`--print_config` it prints all fields of the configuration as flags instead.
"""

import contextlib
import sys
from collections.abc import Sequence

from mnemonics_jax.core import dependencies

with dependencies.explained():
    from absl import app, flags

    from mnemonics_jax import config
    from mnemonics_jax.config import command_line, parsing, tables
    from mnemonics_jax.core import (
        cli,
        plugins,
        streams,
        system_errors,
        workdir,
    )
    from mnemonics_jax.core.cli import fail

HELP = ('--help', '-help', '-?', '--helpshort', '--helpfull', '--helpxml')
START = (
    'for example: python -m mnemonics_jax.main --config=digits '
    '--workdir=runs/digits; --help lists configurations and fields'
)
_PARSER = parsing.Parser(flags.FLAGS)
flags.declare_key_flag('config')
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Directory to write to; may be gs://BUCKET/FOLDER.',
)
_PRINT = flags.DEFINE_bool(
    'print_config',
    False,
    'Checks the configuration, prints all fields as flags and stops.',
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
        with contextlib.suppress(SystemExit):  # With status 1.
            flags.FLAGS([argv[0], *asked])
        cli.check_output()
        sys.exit()
    if len(argv) == 1:
        fail(f'no arguments; {START}')
    try:
        rest = _PARSER.parse(argv)
    except ValueError as e:
        fail(e)
    if not flags.FLAGS['verbosity'].present:
        cli.quieten()
    if len(rest) > 1:
        fail(
            f'{rest[1]!r}: not a flag; flags start with --, those of fields '
            'with --config.'
        )
    if _PRINT.value:
        return rest
    if not _WORKDIR.value:
        fail(f'--workdir: must be a directory to write to; {START}')
    try:
        workdir.address(_WORKDIR.value)
    except ValueError as e:
        fail(f'--workdir={e}')
    return rest


def print_config() -> None:
    """Prints the checked configuration as flags, one a line.

    Raises:
        ValueError: see `config.resolve`.
    """
    found = config.resolve(_PARSER.config, _PARSER.given())
    print('\n'.join(command_line.as_flags(found)), flush=True)


def main(argv: Sequence[str]) -> None:
    """Runs the experiment that the flags describe."""
    del argv
    if _PRINT.value:
        cli.answer(print_config)
        return
    # Imported late, so that --help and wrong flags answer at once.
    from mnemonics_jax import experiment
    from mnemonics_jax.core import (
        compilation_cache,
        multihost,
        parallel,
        peers,
        precision,
        xla_flags,
    )
    from mnemonics_jax.train.preemption import EXIT_CODE, InterruptError

    # A user's mistakes show here, before any work; of what fails later only
    # `explain_late` and the caller know what a user can mend.
    place = str(_WORKDIR.value)
    try:
        xla_flags.check()  # Before there are threads, of which forks have none.
        compilation_cache.keep_programs(place)
        multihost.join(
            _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
        )
        parallel.check_devices()
    except ValueError as e:
        fail(e)
    # Of several processes, `prepare` compares the precision.
    precision.switch(getattr(_PARSER.config, 'precision', ''))
    parallel.avoid_cached_collectives()
    try:
        parts = experiment.prepare(_PARSER.config, place, given=_PARSER.given())
    except BaseException as e:
        peers.end_if_lost(e)
        if isinstance(e, ValueError):
            multihost.fail(e)
        cli.fail_in_plugin(e)
        if not isinstance(e, OSError) or system_errors.why_limited(e):
            raise
        why = e.strerror or e
        fail(f'--workdir={place}: must be a writable directory ({why})')
    try:
        experiment.run(parts, place)
    except InterruptError as e:
        if multihost.is_main():
            print(f'stopped by {e}; rerun the command to resume', flush=True)
        multihost.leave()
        sys.exit(EXIT_CODE)
    except BaseException as e:  # Orbax's storage raises many types.
        if (line := explain_late(e, place)) is None:
            raise
        fail(*line)
    multihost.leave()
    cli.check_output()


def explain_late(error: BaseException, place: str) -> system_errors.Line | None:
    """The line for an error in a run that a user can mend, or None.

    Other errors of the system are left to `dependencies.explained`.
    """
    from mnemonics_jax.core import peers
    from mnemonics_jax.core.lock import InUseError, LostError
    from mnemonics_jax.core.workdir import BucketError
    from mnemonics_jax.data.errors import BadDataError
    from mnemonics_jax.experiment import memory_check
    from mnemonics_jax.train.metric_writer import DivergedError

    peers.end_if_lost(error)
    text: str | None
    status = system_errors.MISTAKE
    if isinstance(error, BadDataError | InUseError):
        text = str(error)
    elif isinstance(error, DivergedError):
        text = explain_diverged(error, place)
    elif isinstance(error, BucketError):
        text = f'--workdir={place}: {error}; rerun the command to resume'
    elif isinstance(error, LostError):
        text = f'--workdir={place}: {error.strerror}'
    elif (reason := system_errors.why_full(error)) is not None:
        text = explain_full(reason, place)
    elif (reason := system_errors.why_limited(error)) is not None:
        text = f'{reason}; rerun the command to resume'
        status = system_errors.LIMIT
    elif memory_check.is_exhausted(error):
        text = memory_check.EXHAUSTED
    else:
        text = plugins.explain(error)
    return None if text is None else system_errors.Line(text, status)


def explain_full(reason: str, place: str) -> str:
    """The message for a full disk: what is saved and what to do."""
    return (
        f'--workdir={place}: {reason}; checkpoints: {saved(place)}; free some '
        'space and rerun the command to resume'
    )


def explain_diverged(error: Exception, place: str) -> str:
    """The message for a run that diverged: what is saved and what to do."""
    return (
        f'{error}; checkpoints: {saved(place)}; to begin this phase anew, '
        'rerun the command with a lower learning rate and '
        '--config.checkpoint.on_changed_lr=restart_phase'
    )


def saved(place: str) -> str:
    """The checkpoints of a work directory, in words."""
    from mnemonics_jax.train import checkpoint

    return ', '.join(checkpoint.whole(place)) or 'none yet'


def saves_alone() -> bool:
    """Whether this is the only process of a run and has begun to save."""
    if 'orbax.checkpoint' not in sys.modules:
        return False
    import jax

    return jax.process_count() == 1


def command() -> None:
    """The console command; its help is the docstring of this module."""
    sys.modules['__main__'].__doc__ = f'{__doc__}\n{tables.as_help()}'
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    streams.prepare()
    try:
        with dependencies.explained():
            app.run(main, flags_parser=parse)
    except SystemExit as e:
        if e.code == system_errors.LIMIT or (
            e.code == system_errors.MISTAKE and saves_alone()
        ):
            # Orbax's threads may wait for others that could not be started, or
            # that failed because the work directory is gone.
            streams.leave(e.code)
        if (peers := sys.modules.get('mnemonics_jax.core.peers')) and e.code:
            peers.note_status(e.code)
        raise


if __name__ == '__main__':
    command()
