"""The work directory of a run: on disk, or in a bucket with a local mirror.

A run appends to or replaces a few files, and Orbax writes checkpoints. An
object in a bucket can only be written whole. So Orbax writes checkpoints to the
bucket, and all other files go to a temporary local directory, from where they
are copied to the bucket after a change.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from mnemonics_jax.core import manifest, schema
from mnemonics_jax.core.lock import LostError
from mnemonics_jax.core.regular import regular

SETUP, RESULTS, METRICS = 'config.json', 'results.json', 'metrics.jsonl'


def address(path: str | os.PathLike[str]) -> epath.Path | None:
    """The address of a work directory in a bucket; None for one on disk.

    Call it early in a process: see below.

    Raises:
        ValueError: the address is not one in Google Cloud Storage, or its
            client is not installed.
    """
    path = os.fspath(path)
    if '://' not in path:
        return None
    scheme, _, rest = path.partition('://')
    if scheme != 'gs' or not rest.partition('/')[0]:
        raise ValueError(f'{path}: must be a directory or gs://BUCKET/FOLDER')
    # Keeps epath from importing TensorFlow, which training does not need. epath
    # decides for the whole process at its first use, even for a local file.
    os.environ.setdefault('EPATH_USE_TF', 'false')
    try:
        import gcsfs  # noqa: F401
        import google.cloud.storage  # noqa: F401
    except ImportError as e:
        raise ValueError(
            f"{path}: {e}; to install it: pip install 'mnemonics-jax[gcs]'"
        ) from e
    # gcsfs logs the errors that it raises, with tracebacks.
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
    return epath.Path(path)


def exemplars_name(phase: int) -> str:
    """Name of the file with the exemplars after a phase."""
    return f'exemplars/phase_{phase}.npz'


def selected_name(phase: int) -> str:
    """Name of the file with a phase's new exemplars before learning."""
    return f'exemplars/selected_{phase}.npz'


def features_name(phase: int) -> str:
    """Name of the file with features by the model after a phase."""
    return f'features/phase_{phase}.npz'


def phase_files(phase: int) -> tuple[str, ...]:
    """Names of the files of a phase; some runs do not write all of them."""
    names = exemplars_name, selected_name, features_name
    return tuple(name(phase) for name in names)


class BucketError(OSError):
    """A bucket cannot be read or written."""


class Workdir:
    """A work directory, as a context manager.

    Attributes:
        local: directory to write to: the work directory itself, or a temporary
            one that mirrors the bucket.
        root: the work directory itself, absolute.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, uploads: bool = True
    ) -> None:
        """Reads and writes nothing yet.

        Args:
            path: a directory, or gs://BUCKET/FOLDER.
            uploads: whether this process copies files to the bucket, as exactly
                one does.

        Raises:
            ValueError: see `address`.
        """
        self._path = os.fspath(path)
        remote = address(path)
        if remote is None:
            self._temporary = None
            self.local = pathlib.Path(path)
            self.root = epath.Path(path).resolve()
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix='mnemonics_')
            self.local = pathlib.Path(self._temporary.name)
            self.root = remote
        self._uploads = uploads
        # State of each file at its last copy.
        self._copied: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> 'Workdir':
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Syncs and removes the mirror."""
        try:
            if error is None:
                self.sync()
            elif not isinstance(error, LostError):
                # The first error is the one to report, and checkpoints need
                # only the files that were copied before them.
                with contextlib.suppress(OSError):
                    self.sync()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def check_writable(self) -> None:
        """Checks that a directory on disk can be written or made.

        Raises:
            OSError: it cannot.
        """
        if self._temporary is not None:
            return
        path = self.local.absolute()
        while not path.exists() and path != path.parent:
            path = path.parent
        code = 0
        if not path.is_dir():
            code = errno.ENOTDIR
        elif not os.access(path, os.W_OK | os.X_OK):
            code = errno.EACCES
        if code:
            raise OSError(code, os.strerror(code), str(path))

    def shown(self, text: object) -> str:
        """Text with the paths of the mirror replaced by the bucket's."""
        if self._temporary is None:
            return str(text)
        return str(text).replace(str(self.local), self._path.rstrip('/'))

    def fetch(self, name: str) -> None:
        """Copies a file, if it exists, from the bucket to the mirror.

        Raises:
            BucketError: the bucket cannot be read.
        """
        if self._temporary is None:
            return
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with as_bucket_error():
            if (self.root / name).exists():
                (self.root / name).copy(target, overwrite=True)
                self._copied[name] = _state(target)

    def fetch_checked(self, names: Sequence[str]) -> None:
        """Copies files to the mirror with the manifest that belongs to them.

        Raises:
            BucketError: the bucket cannot be read.
        """
        if self._temporary is None:
            return
        self.fetch(manifest.NAME)
        before = None
        while (found := manifest.known(self.local)) != before:
            # Again if a run has written to the bucket meanwhile.
            before = found
            for name in (*names, manifest.NAME):
                self.fetch(name)

    def put(self, name: str) -> None:
        """Copies a file, changed or not, from the mirror to the bucket.

        Raises:
            BucketError: the bucket cannot be written.
        """
        if self._temporary is None or not self._uploads:
            return
        # Taken before the copy: the file may grow during it.
        state = _state(self.local / name)
        with as_bucket_error():
            epath.Path(self.local / name).copy(self.root / name, overwrite=True)
        self._copied[name] = state

    def sync(self, always: Sequence[str] = ()) -> None:
        """Copies the changed files of the mirror to the bucket.

        The manifest is copied last, and first without the changed files, so
        that no copy of it has an entry that a file differs from.

        Args:
            always: files to copy also if they have not changed.

        Raises:
            BucketError: the bucket cannot be written.
        """
        if self._temporary is None or not self._uploads:
            return
        names = [
            path.relative_to(self.local).as_posix()
            for path in sorted(self.local.rglob('*'))
            # Not of unfinished files, see `write_atomically`.
            if not path.is_dir() and '.tmp' not in path.suffixes
        ]
        changed = [
            name
            for name in names
            if name in always
            or self._copied.get(name) != _state(self.local / name)
        ]
        entries = manifest.known(self.local)
        left = {n: entry for n, entry in entries.items() if n not in changed}
        if left != entries:
            with as_bucket_error():
                (self.root / manifest.NAME).write_text(manifest.text(left))
        is_stale = left != entries or manifest.NAME in changed
        for name in changed:
            if name != manifest.NAME:
                self.put(name)
        if is_stale:
            self.put(manifest.NAME)


def _state(path: pathlib.Path) -> tuple[int, int]:
    """A value that changes when the file changes."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@contextlib.contextmanager
def as_bucket_error() -> Iterator[None]:
    """Turns the many error types of the storage into one-line BucketErrors."""
    try:
        yield
    except Exception as e:
        text = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise BucketError(text[:300]) from e


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`, without lines that are none.

    A kill may have cut off the last line.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            schema.check(record, schema.RECORD)
            records.append(record)
    return records


def read_arrays(
    path: pathlib.Path, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Arrays of an .npz file, which has a checksum of each.

    Args:
        path: the file.
        names: names of the arrays; by default all.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be read.
    """
    import numpy as np  # `--help` does without it.

    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with (
            regular(path, None).open('rb') as file,
            np.load(file) as stored,
        ):
            return {name: stored[name] for name in names or stored.files}
    except FileNotFoundError:
        raise
    except Exception as e:  # NumPy, zipfile and zlib raise many types.
        raise ValueError(f'{path}: {e}') from e


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replaces a file at once: readers see the old text or the new text."""
    draft = path.with_name(path.name + '.tmp')
    draft.write_text(text, encoding='utf-8')
    draft.replace(path)
