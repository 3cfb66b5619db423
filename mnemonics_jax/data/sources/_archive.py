"""Zip and tar archives as folders, read where they lie."""

import contextlib
import functools
import posixpath
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from mnemonics_jax.data.sources._files import is_image

# A larger member is no image, and a larger compressed tar is to be unpacked.
_MOST_BYTES_OF_A_FILE = 2**28
_MOST_BYTES = 2**31
UNREADABLE = (
    OSError,
    EOFError,
    NotImplementedError,  # A compression that Python lacks.
    RuntimeError,  # A password.
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
_JUNK = '__MACOSX'


class Inside:
    """A file or folder in an archive, with the methods of a path.

    Attributes:
        name: its last part.
        outside: path of the archive.
    """

    def __init__(self, archive: '_Archive', path: str = '') -> None:
        self._archive, self._path = archive, path
        self.name = posixpath.basename(path)
        self.outside = archive.title

    def __truediv__(self, name: str) -> 'Inside':
        return Inside(self._archive, posixpath.join(self._path, name))

    def __str__(self) -> str:
        return posixpath.join(self._archive.title, self._path)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._path in self._archive.folders

    def exists(self) -> bool:
        """Whether it is there."""
        return self.is_dir() or self._path in self._archive.read

    def iterdir(self) -> Iterator['Inside']:
        """What a folder has."""
        return (self / name for name in self._archive.folders[self._path])

    def read_bytes(self) -> bytes:
        """The content of a file; raises OSError if it cannot be read."""
        try:
            return self._archive.read[self._path]()
        except KeyError as e:
            raise FileNotFoundError(2, 'No such file or directory') from e
        except UNREADABLE as e:
            raise OSError(' '.join(str(e).split())) from e

    def read_text(self) -> str:
        """The text of a file, in UTF-8."""
        return self.read_bytes().decode()


class _Archive:
    """What an archive has.

    Attributes:
        title: its path.
        read: path of a file -> function that gives its content; in threads.
        folders: path of a folder -> names in it, as keys.
    """

    def __init__(
        self, title: str, read: dict[str, Callable[[], bytes]]
    ) -> None:
        self.title = title
        self.read: dict[str, Callable[[], bytes]] = {}
        self.folders: dict[str, dict[str, None]] = {'': {}}
        for given, function in read.items():
            path = posixpath.normpath(given).lstrip('/')
            if path.split('/')[0] in (_JUNK, '..'):
                continue
            self.read[path] = function
            while path:
                parent, name = posixpath.split(path)
                self.folders.setdefault(parent, {})[name] = None
                path = parent


def open_archive(path: epath.Path, field: str) -> Inside:
    """Opens an archive; a compressed tar is read into memory.

    Returns:
        Its root, or the only folder in that.

    Raises:
        ValueError: it is no archive, damaged, or a compressed tar of more than
            2 GB of images.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open('rb'))
            read = _zip(file) if zipfile.is_zipfile(file) else _tar(file, field)
        except tarfile.ReadError as e:
            raise ValueError(
                f'{field}: must be a folder of images, or a zip or tar archive'
            ) from e
        except UNREADABLE as e:
            reason = getattr(e, 'strerror', None) or ' '.join(str(e).split())
            raise ValueError(f'{field}: cannot be read: {reason}') from e
        stack.pop_all()
    archive = _Archive(str(path), read)
    weakref.finalize(archive, file.close)
    root = Inside(archive)
    entries = list(root.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        return entries[0]
    return root


def _zip(file: Any) -> dict[str, Callable[[], bytes]]:
    archive, lock = zipfile.ZipFile(file), threading.Lock()

    def read(member: zipfile.ZipInfo) -> bytes:
        _check_size(member.file_size)
        with lock:
            return archive.read(member)

    return {
        member.filename: functools.partial(read, member)
        for member in archive.infolist()
        if not member.is_dir()
    }


def _tar(file: Any, field: str) -> dict[str, Callable[[], bytes]]:
    file.seek(0)
    packed = file.read(6)[:2] in (b'\x1f\x8b', b'BZ', b'\xfd7')
    file.seek(0)
    # Closed with the file: it is read as long as the run goes.
    archive = tarfile.open(fileobj=file, mode='r:*')  # noqa: SIM115
    lock = threading.Lock()

    def read(member: tarfile.TarInfo) -> bytes:
        _check_size(member.size)
        with lock:
            content = archive.extractfile(member)
            return content.read() if content else b''

    found: dict[str, Callable[[], bytes]] = {}
    total = 0
    for member in archive:
        if not member.isreg():
            continue
        found[member.name] = functools.partial(read, member)
        # Reading it later would unpack all before it.
        if packed and (is_image(member.name) or member.size < 2**24):
            total += member.size
            if total > _MOST_BYTES:
                raise ValueError(
                    f'{field}: more than {_MOST_BYTES >> 20} MB in a '
                    'compressed tar: must be unpacked (tar -xf), or a zip'
                )
            content = read(member)
            found[member.name] = functools.partial(bytes, content)
    return found


def _check_size(size: int) -> None:
    if size > _MOST_BYTES_OF_A_FILE:
        raise OSError(f'{size} bytes are too many for an image')
