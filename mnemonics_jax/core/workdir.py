"""The directory of a run: on disk, or in a bucket with a mirror on disk.

A run writes a handful of files that grow or are replaced, and lets Orbax write
checkpoints. An object in a bucket can only be written whole. So checkpoints go
to the bucket itself, and everything else to a temporary local directory, whose
files are copied to the bucket when they have changed.
"""

import contextlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath


def address(path: str | os.PathLike[str]) -> epath.Path | None:
    """Where a work directory in a bucket lies; None of one on disk.

    Call it early in a process: see below.

    Raises:
        ValueError: it is the address of something else than a folder in Google
            Cloud Storage, or what is needed for that is not installed.
    """
    path = os.fspath(path)
    if '://' not in path:
        return None
    scheme, _, rest = path.partition('://')
    if scheme != 'gs' or not rest.partition('/')[0]:
        raise ValueError(f'{path}: allowed: a directory, or gs://BUCKET/FOLDER')
    # epath would take TensorFlow, which has no place in training. It decides
    # for the whole process when it is first used, be it for a local file.
    os.environ.setdefault('EPATH_USE_TF', 'false')
    try:
        import gcsfs  # noqa: F401
        import google.cloud.storage  # noqa: F401
    except ImportError as e:
        raise ValueError(
            f"{path}: {e}; to install it: pip install -e '.[gcs]'"
        ) from e
    # It logs, with tracebacks, what it raises too.
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
    return epath.Path(path)


def exemplars_name(phase: int) -> str:
    """The file of the exemplars after a phase, within a work directory."""
    return f'exemplars/phase_{phase}.npz'


def selected_name(phase: int) -> str:
    """The file of a phase's new exemplars before they were learned."""
    return f'exemplars/selected_{phase}.npz'


def features_name(phase: int) -> str:
    """The file of features by the model at the end of a phase."""
    return f'features/phase_{phase}.npz'


def phase_files(phase: int) -> tuple[str, ...]:
    """The files that a phase leaves; some runs have not all of them."""
    names = exemplars_name, selected_name, features_name
    return tuple(name(phase) for name in names)


class BucketError(OSError):
    """A bucket cannot be read or written."""


class Workdir:
    """A work directory, while it is entered.

    Attributes:
        local: the directory to write to: the work directory itself, or an empty
            temporary one that mirrors it.
        root: the work directory itself, absolute.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, uploads: bool = True
    ) -> None:
        """Nothing is read or written yet.

        Args:
            path: a directory, or gs://BUCKET/FOLDER.
            uploads: False in all processes but one: nothing is copied to the
                bucket.

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
        # What the copies in the bucket were made of.
        self._copied: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> 'Workdir':
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Syncs, and removes the mirror."""
        try:
            if error is None:
                self.sync()
            else:
                # What ended the run is to be told, and a checkpoint needs only
                # what was copied before it.
                with contextlib.suppress(OSError):
                    self.sync()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def shown(self, text: object) -> str:
        """A text with paths of the mirror replaced by those of the bucket."""
        if self._temporary is None:
            return str(text)
        return str(text).replace(str(self.local), self._path.rstrip('/'))

    def fetch(self, name: str) -> None:
        """Copies a file, if it is there, from the bucket to the mirror.

        Raises:
            BucketError: the bucket cannot be read.
        """
        if self._temporary is None:
            return
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with _as_bucket_error():
            if (self.root / name).exists():
                (self.root / name).copy(target)
                self._copied[name] = _state(target)

    def put(self, name: str) -> None:
        """Copies a file, changed or not, from the mirror to the bucket.

        Raises:
            BucketError: the bucket cannot be written.
        """
        if self._temporary is None or not self._uploads:
            return
        # Read before the file is: it may grow meanwhile.
        state = _state(self.local / name)
        with _as_bucket_error():
            epath.Path(self.local / name).copy(self.root / name, overwrite=True)
        self._copied[name] = state

    def sync(self) -> None:
        """Copies what has changed in the mirror to the bucket.

        Raises:
            BucketError: the bucket cannot be written.
        """
        if self._temporary is None:
            return
        for path in sorted(self.local.rglob('*')):
            name = path.relative_to(self.local).as_posix()
            # Files are drafted under such names.
            is_draft = '.tmp' in path.suffixes
            if (
                path.is_dir()
                or is_draft
                or self._copied.get(name) == (_state(path))
            ):
                continue
            self.put(name)


def _state(path: pathlib.Path) -> tuple[int, int]:
    """Changes when the file does."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@contextlib.contextmanager
def _as_bucket_error() -> Iterator[None]:
    """Storage raises many types; as one, with all that it says in a line."""
    try:
        yield
    except Exception as e:
        text = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise BucketError(text[:300]) from e


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`; a last line torn by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a file so that readers see the old one or the new one, whole."""
    draft = path.with_name(path.name + '.tmp')
    draft.write_text(text)
    draft.replace(path)
