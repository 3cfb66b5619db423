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
from typing import Any, NamedTuple

from etils import epath

from mnemonics_jax.core.regular import MOST_BYTES, regular
from mnemonics_jax.data.sources._files import is_image

# A larger member is no image, and a larger compressed tar is to be unpacked.
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


class _Member(NamedTuple):
    """A file in an archive.

    Attributes:
        read: gives its content; may be called in threads.
        size: its bytes.
    """

    read: Callable[[], bytes]
    size: int


_Members = dict[str, _Member]


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
        return self.is_dir() or self._path in self._archive.members

    def size_of(self, name: str) -> int:
        """The bytes of a file in a folder."""
        path = posixpath.join(self._path, name)
        return self._archive.members[path].size

    def top(self) -> 'Inside':
        """The archive as a folder."""
        return Inside(self._archive)

    def iterdir(self) -> Iterator['Inside']:
        """What a folder has."""
        return (self / name for name in self._archive.folders[self._path])

    def read_bytes(self) -> bytes:
        """The content of a file; raises OSError if it cannot be read."""
        try:
            return self._archive.members[self._path].read()
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
        members: path of a file -> the file.
        folders: path of a folder -> names in it, as keys.
    """

    def __init__(self, title: str, members: _Members) -> None:
        self.title = title
        self.members: _Members = {}
        self.folders: dict[str, dict[str, None]] = {'': {}}
        for given, member in members.items():
            path = posixpath.normpath(given).lstrip('/')
            if path.split('/')[0] in (_JUNK, '..'):
                continue
            self.members[path] = member
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
            file = stack.enter_context(regular(path, None).open('rb'))
            is_zip = zipfile.is_zipfile(file)
            members = _zip(file) if is_zip else _tar(file, field)
        except tarfile.ReadError as e:
            raise ValueError(
                f'{field}: must be a folder of images, or a zip or tar archive'
            ) from e
        except UNREADABLE as e:
            reason = getattr(e, 'strerror', None) or ' '.join(str(e).split())
            raise ValueError(f'{field}: cannot be read: {reason}') from e
        stack.pop_all()
    archive = _Archive(str(path), members)
    weakref.finalize(archive, file.close)
    root = Inside(archive)
    entries = list(root.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        return entries[0]
    return root


def _zip(file: Any) -> _Members:
    archive, lock = zipfile.ZipFile(file), threading.Lock()

    def read(member: zipfile.ZipInfo) -> bytes:
        _check_size(member.file_size)
        with lock:
            return archive.read(member)

    return {
        member.filename: _Member(
            functools.partial(read, member), member.file_size
        )
        for member in archive.infolist()
        if not member.is_dir()
    }


def _tar(file: Any, field: str) -> _Members:
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

    found: _Members = {}
    links: dict[str, str] = {}
    total = 0
    for member in archive:
        folder = posixpath.dirname(member.name) if member.issym() else ''
        if member.issym() or member.islnk():
            target = posixpath.join(folder, member.linkname)
            links[member.name] = posixpath.normpath(target)
        if not member.isreg():
            continue
        function = functools.partial(read, member)
        # Reading it later would unpack all before it.
        if packed and (is_image(member.name) or member.size < 2**24):
            total += member.size
            if total > _MOST_BYTES:
                raise ValueError(
                    f'{field}: more than {_MOST_BYTES >> 20} MB in a '
                    'compressed tar: must be unpacked (tar -xf), or a zip'
                )
            function = functools.partial(bytes, read(member))
        found[member.name] = _Member(function, member.size)
    return found | _linked(links, found)


def _linked(links: dict[str, str], found: _Members) -> _Members:
    """The files that links lead to; without a file, an image is unreadable."""
    files = {posixpath.normpath(name): file for name, file in found.items()}
    nowhere = _Member(_no_file, 0)
    return {
        name: files.get(target, nowhere)
        for name, target in links.items()
        if target in files or is_image(name)
    }


def _no_file() -> bytes:
    raise FileNotFoundError(2, 'No such file or directory')


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise OSError(f'{size} bytes are too many for an image')
