"""Finds and prepares data sets of TensorFlow Datasets."""

import contextlib
import difflib
import importlib.util
import re
import types
from collections.abc import Iterator
from typing import Any

from etils import epath

from mnemonics_jax.core import system_errors
from mnemonics_jax.data import tf_import

_RETRIES = 4
# Markup that TensorFlow adds to error messages.
_NOISE = re.compile(r'\{\{.*?\}\}|\[Op:\w+\]( name:)?')


def library() -> types.ModuleType:
    """Imports TFDS, after TensorFlow with accelerators hidden from it.

    Raises:
        ValueError: one of them is not installed.
    """
    tf_import.require('data.source=tfds')
    tf_import.tensorflow()
    import tensorflow_datasets

    return tensorflow_datasets


def find_set(name: str, directory: str | None) -> Any:
    """The builder of a data set, which may not be prepared yet."""
    tfds = library()
    try:
        return tfds.builder(name, data_dir=directory)
    except Exception as e:  # No such set, config or version: many types.
        known = tfds.list_builders(with_community_datasets=False)
        stem = re.split('[/:]', name, maxsplit=1)[0]
        reason = one_line(e)
        if stem not in known:
            near = difflib.get_close_matches(stem.lower(), known, 6)
            nearest = ', '.join(near or ['none'])
            reason = f'TFDS has no such set; nearest: {nearest}'
        raise ValueError(f'data.name={name!r}: {reason}') from e


def prepare(builder: Any, name: str) -> None:
    """Downloads and prepares a data set with TFDS if it is not on disk."""
    if builder.data_path.exists():
        return
    has_array_record = importlib.util.find_spec('array_record') is not None
    downloads = _unfinished_downloads(builder)
    try:
        with _fewer_retries():
            builder.download_and_prepare(
                file_format='array_record' if has_array_record else None
            )
    except Exception as e:  # Network, disk, checksums, missing packages.
        # The words are TFDS's own: it compares sizes before it starts.
        if system_errors.why_full(e) or 'Not enough disk space' in str(e):
            for path in _unfinished_downloads(builder) - downloads:
                with contextlib.suppress(OSError):
                    path.rmtree()
            raise ValueError(
                f'data.name={name!r}: no space to prepare it in '
                f'{builder.data_dir}: {one_line(e)}'
            ) from e
        raise ValueError(
            f'data.name={name!r}: not in {builder.data_dir}, and TFDS cannot '
            f'prepare it: {one_line(e)}; on a machine with a network, '
            f'{command(name, builder.data_dir_root)} writes a folder to copy'
        ) from e


def _unfinished_downloads(builder: Any) -> set[epath.Path]:
    """Incomplete downloads and extractions, which TFDS leaves if it fails."""
    root = builder.data_dir_root / 'downloads'
    return {
        *(root / builder.name).glob('*.tmp.*'),
        *(root / 'extracted').glob('incomplete.*'),
    }


def command(name: str, directory: Any, **options: str) -> str:
    """A command that prepares a set; the `tfds` tool needs Apache Beam."""
    options = {'file_format': 'array_record', **options}
    arguments = ', '.join(f"{key}='{value}'" for key, value in options.items())
    return (
        '`python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{directory}')"
        f'.download_and_prepare({arguments})"`'
    )


@contextlib.contextmanager
def _fewer_retries() -> Iterator[None]:
    """Makes TFDS fail within seconds, not minutes, without a network."""
    from tensorflow_datasets.core.download import downloader

    default = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = _RETRIES
    try:
        yield
    finally:
        downloader.MAX_RETRIES = default


def one_line(error: Exception) -> str:
    """The message of an exception, on one line."""
    text = _NOISE.sub('', str(error))
    return ' '.join(text.split()) or type(error).__name__
