"""Compiled programs, kept on disk so that the next start loads them."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

VARIABLE = 'MNEMONICS_JAX_CACHE'
OFF = ('', 'off')
# The same for runs side by side: they share most of their programs.
NAME = '.jax_cache'


def folder(
    workdir: str | os.PathLike[str], environment: Mapping[str, str]
) -> pathlib.Path | None:
    """Where a run keeps its programs; None for nowhere.

    That is the folder that `MNEMONICS_JAX_CACHE` names, if it is set, or else
    one beside the work directory. For a work directory in a bucket it is in the
    user's cache directory: a bucket answers about as slowly as small programs
    compile, and its rights may not reach beyond the work directory.

    Args:
        workdir: of the run; may be gs://BUCKET/FOLDER.
        environment: variables of the process.
    """
    given = environment.get(VARIABLE)
    if given is not None:
        return None if given in OFF else pathlib.Path(given).absolute()
    if '://' not in os.fspath(workdir):
        return pathlib.Path(workdir).absolute().parent / NAME
    caches = environment.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(caches) / 'mnemonics_jax' / NAME.lstrip('.')


def keep_programs(workdir: str | os.PathLike[str]) -> None:
    """Has JAX keep all programs of this process in `folder`.

    Call it before the first compilation. What JAX was told already, as by
    `JAX_COMPILATION_CACHE_DIR`, stays. The folder is made when there is
    something to keep. JAX does without, and warns, where that fails later.

    Args:
        workdir: of the run.

    Raises:
        ValueError: the folder that `MNEMONICS_JAX_CACHE` names cannot be
            written. The one by default is then done without.
    """
    # Attributes of it are made at run time.
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None:
        return
    path = folder(workdir, os.environ)
    if path is None:
        return
    if not _can_be_made(path):
        if VARIABLE in os.environ:
            raise ValueError(
                f'{VARIABLE}={os.environ[VARIABLE]}: allowed: a directory that '
                'can be written, or off'
            )
        return
    jax.config.update('jax_compilation_cache_dir', str(path))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        # JAX leaves out what took less than a second. A run has dozens of
        # those, and loading one takes milliseconds.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _can_be_made(path):
    """Whether there is, or could be, a folder that can be written."""
    while not os.path.lexists(path):
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
