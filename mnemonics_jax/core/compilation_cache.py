"""The persistent compilation cache: the next start loads compiled programs.

Of several processes, JAX lets only process 0 write programs, and all read them.
So hosts without a shared disk need a cache in a bucket.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from mnemonics_jax.core import workdir as workdirs

VARIABLE = 'MNEMONICS_JAX_CACHE'
OFF = ('', 'off')
# Runs with the same parent directory share it, and most of their programs.
NAME = '.jax_cache'


def folder(
    workdir: str | os.PathLike[str], environment: Mapping[str, str]
) -> str | None:
    """The cache directory of a run; None for no cache.

    It is the directory that `MNEMONICS_JAX_CACHE` names, or else one beside the
    work directory. For a work directory in a bucket it is in the user's cache
    directory: reading from a bucket takes about as long as compiling a small
    program, and only the work directory may be writable there.

    Args:
        workdir: work directory of the run; may be gs://BUCKET/FOLDER.
        environment: environment variables of the process.

    Returns:
        An absolute path, or the address gs://BUCKET/FOLDER that the variable
        gives.
    """
    given = environment.get(VARIABLE)
    if given is not None:
        if given in OFF:
            return None
        return given if '://' in given else str(pathlib.Path(given).absolute())
    if '://' not in os.fspath(workdir):
        return str(pathlib.Path(workdir).absolute().parent / NAME)
    caches = environment.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return str(pathlib.Path(caches) / 'mnemonics_jax' / NAME.lstrip('.'))


def keep_programs(workdir: str | os.PathLike[str]) -> None:
    """Has JAX cache all programs of this process in `folder`.

    Call it before the first compilation. A directory that JAX was given
    already, for example by `JAX_COMPILATION_CACHE_DIR`, stays. The directory is
    created with the first program. JAX warns and compiles if that fails.

    Args:
        workdir: work directory of the run.

    Raises:
        ValueError: the directory that `MNEMONICS_JAX_CACHE` names cannot be
            written, or its bucket cannot be read, or JAX was given one whose
            name is not UTF-8. If the default one cannot be written, there is no
            cache.
    """
    # Its attributes are added at run time.
    config: Any = jax.config
    if (given := config.jax_compilation_cache_dir) is not None:
        if not _is_text(given):
            raise ValueError(
                f'JAX_COMPILATION_CACHE_DIR={given}: must be UTF-8'
            )
        return
    path = folder(workdir, os.environ)
    if path is None:
        return
    in_bucket = '://' in path
    if in_bucket:
        _check_bucket(path)
    elif not _can_be_made(pathlib.Path(path)):
        if VARIABLE in os.environ:
            raise ValueError(
                f'{VARIABLE}={os.environ[VARIABLE]}: must be a writable '
                'directory, gs://BUCKET/FOLDER, or off'
            )
        return
    jax.config.update('jax_compilation_cache_dir', path)
    if in_bucket:
        # XLA's own cache for GPUs can only be on disk. Programs that compile in
        # less than a second, which JAX skips by default, load no faster from a
        # bucket.
        jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
    elif 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        # A run has dozens of small programs, and loading one from a disk takes
        # milliseconds.
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _check_bucket(path: str) -> None:
    """Raises ValueError, in one line, if there is no bucket to read."""
    try:
        address = workdirs.address(path)
    except ValueError as e:
        raise ValueError(f'{VARIABLE}={e}') from e
    assert address is not None
    bucket = '/'.join(path.split('/', 3)[:3])
    try:
        with workdirs.as_bucket_error():
            # Of the folder it is not an error to be missing.
            found = type(address)(bucket).exists()
    except workdirs.BucketError as e:
        raise ValueError(f'{VARIABLE}={path}: cannot be read: {e}') from e
    if not found:
        raise ValueError(f'{VARIABLE}={path}: must be in a bucket that exists')


def _can_be_made(path: pathlib.Path) -> bool:
    """Whether a writable directory exists or can be created there."""
    if not _is_text(str(path)):  # XLA takes no other names.
        return False
    while not os.path.lexists(path):
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8; in others Python has lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
