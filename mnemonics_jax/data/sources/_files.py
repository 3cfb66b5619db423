"""The image files of a split, by class, and what was left out of them."""

import collections
import concurrent.futures
import itertools
import os
import pathlib
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.core.regular import regular
from mnemonics_jax.data.errors import BadImageError
from mnemonics_jax.data.pillow import SUFFIXES, reason
from mnemonics_jax.data.sources import digest_of_files

# Listing is limited by the disk or the network, not by cores.
THREADS = 32
_MAX_IN_ERROR = 5

# A folder: an `epath.Path`, or an `_archive.Inside` with the same methods.
Folder = Any


class Files(NamedTuple):
    """The image files of a split, sorted by class and name.

    Attributes:
        root: directory of the split, such as `<data.dir>/train`.
        classes: K names, sorted.
        names: n paths within the root, such as `<class>/<file>`.
        labels: int32[n].
        left_out: paths of what else lies there, with / after a folder.
        misplaced: paths of images that lie in the folder of no class.
        unlabelled: paths of images that a CSV does not name.
    """

    root: Folder
    classes: tuple[str, ...]
    names: Sequence[str]
    labels: np.ndarray
    left_out: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()

    def load(self, position: int) -> bytes:
        """Reads a file."""
        return regular(self.root / self.names[position]).read_bytes()

    def describe(self, position: int) -> str:
        """The path of a file, as it can be printed."""
        return printable(str(self.root / self.names[position]))

    def digest(self, positions: np.ndarray) -> str:
        """Digest of names and, but for those in a bucket, sizes of files.

        Raises:
            BadImageError: a file is not there.
        """
        names = [self.names[row] for row in positions]
        if not isinstance(self.root, os.PathLike):
            return digest_of_files(names, map(self.root.size_of, names))
        if not os.path.isdir(self.root):
            # In a bucket, a size would cost a request.
            return digest_of_files(names, None)

        def size_of(name: str) -> int:
            path = f'{self.root}/{name}'
            try:
                return os.path.getsize(path)
            except OSError as e:
                raise BadImageError(
                    f'{path}: cannot be read: {reason(e)}'
                ) from e

        return digest_of_files(names, map(size_of, names))

    def without_unread(self) -> 'Files':
        """The same, for a part beside one that names what is not read."""
        return self._replace(left_out=(), misplaced=(), unlabelled=())

    def take(self, rows: np.ndarray) -> 'Files':
        """The files at some positions, int64[m]."""
        return self._replace(
            names=[self.names[row] for row in rows.tolist()],
            labels=self.labels[rows],
        )


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return name.lower().endswith(SUFFIXES)


def is_class(folder: Folder) -> bool:
    """Whether a folder has images and no folder."""
    names = names_in(folder)
    others = [name for name in names if not is_image(name)]
    return len(others) < len(names) and not any(
        (folder / name).is_dir() for name in others
    )


def kinds(left_out: Iterable[str]) -> dict[str, int]:
    """How many files there are of each kind, the most frequent first.

    Args:
        left_out: paths, with / after a folder.

    Returns:
        Suffix such as '.heic', or 'folder' or 'no suffix' -> number.
    """

    def kind(path: str) -> str:
        if path.endswith('/'):
            return 'folder'
        return pathlib.PurePath(path).suffix.lower() or 'no suffix'

    return dict(collections.Counter(map(kind, left_out)).most_common())


def printable(name: str) -> str:
    """A name in which bytes that are not UTF-8 are escaped."""
    return name.encode('utf-8', 'backslashreplace').decode()


def names_in(folder: Folder) -> list[str]:
    """Sorted names of the entries of a folder, without hidden ones."""
    # Path objects of a million files would take ten seconds.
    local = isinstance(folder, os.PathLike) and os.path.isdir(folder)
    names = os.listdir(folder) if local else [p.name for p in folder.iterdir()]
    return sorted(name for name in names if not name.startswith('.'))


def folders_in(folder: Folder) -> list[str]:
    """Those of `names_in` that are folders."""
    names = names_in(folder)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: (folder / name).is_dir(), names)
        return [name for name, yes in zip(names, found, strict=True) if yes]


def images_under(folder: Folder) -> list[str]:
    """Paths of all images in a folder and its folders, but for linked ones."""
    found = []
    try:
        names = names_in(folder)
    except PermissionError:  # Such as lost+found of a disk.
        return []
    for name in names:
        path = posixpath.join(str(folder), name)
        if is_image(name):
            found.append(printable(path))
        # A link may lead back to a folder above.
        elif not os.path.islink(path) and (folder / name).is_dir():
            found += images_under(folder / name)
    return found


def unread(
    folder: Folder, names: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What lies in a folder and is not read: see `Files`.

    Args:
        folder: any folder.
        names: the entries of it that are not read.

    Returns:
        `left_out` and `misplaced`.
    """
    others, images = [], []
    for name in names:
        path = printable(str(folder / name))
        if is_image(name):
            images.append(path)
        elif not (folder / name).is_dir():
            others.append(path)
        elif inside := images_under(folder / name):
            images += inside
        else:
            others.append(f'{path}/')
    return tuple(others), tuple(images)


def contents(folder: Folder) -> str:
    """The contents of a folder for a message, folders first."""
    entries = []
    for name in names_in(folder):
        is_folder = not is_image(name) and (folder / name).is_dir()
        shown = printable(name)
        entries.append((not is_folder, f'{shown}/' if is_folder else shown))
    listed = ', '.join(name for _, name in sorted(entries)[:_MAX_IN_ERROR])
    if len(entries) > _MAX_IN_ERROR:
        listed += f', ... ({len(entries)} in all)'
    return listed or 'nothing'


def list_classes(root: Folder, known: Iterable[str] = ()) -> Files:
    """Lists the files in the folders of a split, one for each class.

    Args:
        root: folder of the split.
        known: names of files in it that are read otherwise.

    Raises:
        ValueError: there is no folder, or one has no image.
    """
    classes = folders_in(root)
    if not classes:
        raise ValueError(f'{root}: no folder; must have one per class')
    for name in classes:
        if printable(name) != name:
            raise ValueError(
                f'{root}: class {printable(name)}: must have a name in UTF-8'
            )
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        listed = list(pool.map(lambda name: _list_class(root / name), classes))
    beside = set(names_in(root)) - {*classes, *known}
    found = [others for _, others in listed]
    found.append(unread(root, sorted(beside)))
    left_out, misplaced = (
        tuple(itertools.chain(*part)) for part in zip(*found, strict=True)
    )
    return Files(
        root=root,
        classes=tuple(classes),
        names=[
            f'{name}/{file}'
            for name, (files, _) in zip(classes, listed, strict=True)
            for file in files
        ],
        labels=np.repeat(
            np.arange(len(classes), dtype=np.int32),
            [len(files) for files, _ in listed],
        ),
        left_out=left_out,
        misplaced=misplaced,
    )


def _list_class(
    folder: Folder,
) -> tuple[list[str], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names of a class's image files, and what else it has: see `unread`."""
    names = names_in(folder)
    files = [name for name in names if is_image(name)]
    if not files:
        raise ValueError(
            f'{folder}: no image, but {contents(folder)}; files must end in '
            f'{", ".join(SUFFIXES)}'
        )
    return files, unread(folder, (n for n in names if not is_image(n)))
