"""The persistent compilation cache: the next start loads compiled programs."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

VARIABLE = 'MNEMONICS_JAX_CACHE'
OFF = ('', 'off')
# Runs with the same parent directory share it, and most of their programs.
NAME = '.jax_cache'


def folder(
    workdir: str | os.PathLike[str], environment: Mapping[str, str]
) -> pathlib.Path | None:
    """The cache directory of a run; None for no cache.

    It is the directory that `MNEMONICS_JAX_CACHE` names, or else one beside the
    work directory. For a work directory in a bucket it is in the user's cache
    directory: reading from a bucket takes about as long as compiling a small
    program, and only the work directory may be writable there.

    Args:
        workdir: work directory of the run; may be gs://BUCKET/FOLDER.
        environment: environment variables of the process.
    """
    given = environment.get(VARIABLE)
    if given is not None:
        return None if given in OFF else pathlib.Path(given).absolute()
    if '://' not in os.fspath(workdir):
        return pathlib.Path(workdir).absolute().parent / NAME
    caches = environment.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(caches) / 'mnemonics_jax' / NAME.lstrip('.')


def keep_programs(workdir: str | os.PathLike[str]) -> None:
    """Has JAX cache all programs of this process in `folder`.

    Call it before the first compilation. A directory that JAX was given
    already, for example by `JAX_COMPILATION_CACHE_DIR`, stays. The directory is
    created with the first program. JAX warns and compiles if that fails.

    Args:
        workdir: work directory of the run.

    Raises:
        ValueError: the directory that `MNEMONICS_JAX_CACHE` names cannot be
            written. If the default one cannot, there is no cache.
    """
    # Its attributes are added at run time.
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None:
        return
    path = folder(workdir, os.environ)
    if path is None:
        return
    if not _can_be_made(path):
        if VARIABLE in os.environ:
            raise ValueError(
                f'{VARIABLE}={os.environ[VARIABLE]}: must be a writable '
                'directory, or off'
            )
        return
    jax.config.update('jax_compilation_cache_dir', str(path))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        # By default JAX skips programs that compile in less than a second. A
        # run has dozens of those, and loading one takes milliseconds.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _can_be_made(path):
    """Whether a writable directory exists or can be created there."""
    while not os.path.lexists(path):
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
