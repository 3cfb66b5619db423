"""Finding the sets of TensorFlow Datasets by name, and preparing them."""

import contextlib
import difflib
import importlib.util
import os
import re
import types
from collections.abc import Iterator
from typing import Any

from etils import epath

from mnemonics_jax.core import cli
from mnemonics_jax.data import tf_import

_RETRIES = 4
# What TensorFlow puts around the reason of an error.
_NOISE = re.compile(r'\{\{.*?\}\}|\[Op:\w+\]( name:)?')
# TFDS and what writes for it raise many types: the words tell. The last are of
# TFDS, which compares sizes before it begins.
_NO_SPACE = (*map(os.strerror, cli.FULL), 'Not enough disk space')


def library() -> types.ModuleType:
    """Imports TFDS, after TensorFlow with its devices hidden."""
    tf_import.tensorflow()
    import tensorflow_datasets

    return tensorflow_datasets


def find_set(name: str, directory: str | None) -> Any:
    """The set of a name, perhaps not prepared yet."""
    tfds = library()
    try:
        return tfds.builder(name, data_dir=directory)
    except Exception as e:  # No such set, config or version: many types.
        known = tfds.list_builders(with_community_datasets=False)
        stem = re.split('[/:]', name, maxsplit=1)[0]
        reason = one_line(e)
        if stem not in known:
            near = difflib.get_close_matches(stem.lower(), known, 6)
            reason = 'TFDS has no such set; nearest: ' + ', '.join(
                near or ['none']
            )
        raise ValueError(f'data.name={name!r}: {reason}') from e


def prepare(builder: Any, name: str) -> None:
    """Has TFDS download and prepare a set that is not there."""
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
        if any(words in str(e) for words in _NO_SPACE):
            for path in _unfinished_downloads(builder) - downloads:
                with contextlib.suppress(OSError):
                    path.rmtree()
            raise ValueError(
                f'data.name={name!r}: no space to prepare it in '
                f'{builder.data_dir}: {one_line(e)}'
            ) from e
        raise ValueError(
            f'data.name={name!r}: not in {builder.data_dir}, and TFDS cannot '
            f'prepare it: {one_line(e)}; where there is a network, '
            f'{command(name, builder.data_dir_root)} writes a folder to copy'
        ) from e


def _unfinished_downloads(builder: Any) -> set[epath.Path]:
    """What TFDS has begun to download or to extract, and leaves if it fails."""
    root = builder.data_dir_root / 'downloads'
    return {
        *(root / builder.name).glob('*.tmp.*'),
        *(root / 'extracted').glob('incomplete.*'),
    }


def command(name: str, directory: Any, **options: str) -> str:
    """The command that prepares a set; the one of TFDS needs Apache Beam."""
    options = {'file_format': 'array_record', **options}
    arguments = ', '.join(f"{key}='{value}'" for key, value in options.items())
    return (
        '`python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{directory}')"
        f'.download_and_prepare({arguments})"`'
    )


@contextlib.contextmanager
def _fewer_retries() -> Iterator[None]:
    """Lets TFDS see within seconds that there is no network, not minutes."""
    from tensorflow_datasets.core.download import downloader

    usual = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = _RETRIES
    try:
        yield
    finally:
        downloader.MAX_RETRIES = usual


def one_line(error: Exception) -> str:
    """What an exception says, on one line."""
    text = _NOISE.sub('', str(error))
    return ' '.join(text.split()) or type(error).__name__
