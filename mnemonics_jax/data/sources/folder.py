"""A folder of image files: `train/<class>/*` and `validation/<class>/*`.

`data.dir` is its path, local or `gs://`. `validation` may also be called `val`
or `test`. Files end in .jpg, .jpeg, .png, .bmp or .gif; others are ignored with
a warning. The name of a class is that of its folder, or is given by a line
`<folder> <tab> <name>` in a file `labels.txt` beside `train`; labels follow the
sorted names of folders.

Images are converted to RGB and `data.image_size` pixels high and wide, the
central crop after resizing to `data.eval_resize` if that is given: see
`decode.decode`. Mean and std are ImageNet's constants, as usual for natural
images; computing them would require reading every file.
"""

import collections
import concurrent.futures
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from mnemonics_jax.data import decode
from mnemonics_jax.data.sources import (
    IMAGENET_STATISTICS,
    Source,
    checks,
    digest_of,
    encoded_splits,
)
from mnemonics_jax.data.sources.checks import positive_option

POLICIES = ('fail', 'skip')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif')

# Listing is limited by the disk or the network, not by cores.
_LISTING_THREADS = 32
_TEST_FOLDERS = ('validation', 'val', 'test')
_MAX_LISTED = 20
_MAX_IN_ERROR = 5


class Files(NamedTuple):
    """The image files of a split, sorted by class and name.

    Attributes:
        root: directory of the split, such as `<data.dir>/train`.
        classes: K folder names, sorted.
        names: n paths within the root, `<class>/<file>`.
        labels: int32[n].
    """

    root: epath.Path
    classes: tuple[str, ...]
    names: Sequence[str]
    labels: np.ndarray

    def load(self, position: int) -> bytes:
        """Reads a file."""
        return (self.root / self.names[position]).read_bytes()

    def digest(self, positions: np.ndarray) -> str:
        """Digest of names and, on a local disk, of sizes of files."""
        root = os.fspath(self.root)
        local = os.path.isdir(root)

        def describe(name: str) -> bytes:
            # In a bucket, a size would cost a request.
            size = os.path.getsize(f'{root}/{name}') if local else 0
            return os.fsencode(f'{name} {size}\n')

        return digest_of(describe(self.names[row]) for row in positions)

    def describe(self, position: int) -> str:
        """The path of a file."""
        return str(self.root / self.names[position])


def make(options: Any) -> Source:
    """Lists the files; `read` decodes them.

    Args:
        options: must have `dir` and `image_size`, may have `eval_resize` and
            `on_bad_image`: 'fail' (default) raises when reading a file that
            cannot be decoded, 'skip' decodes every file once here, and leaves
            out and logs those that cannot.

    Raises:
        ValueError: an option or the folder is invalid; `read` raises
            `errors.BadImageError`.
    """
    path, size, shorter, policy = _read_options(options)
    shape = (size, size, 3)
    root = epath.Path(path).expanduser()
    files = _list_splits(root, f'data.dir={path!r}')
    skipped: tuple[str, ...] = ()
    if policy == 'skip':
        for key, split in files.items():
            files[key], bad = _skip_bad(split, shape, shorter)
            skipped += bad
    classes = files['train'].classes
    mean, std = IMAGENET_STATISTICS
    return Source(
        num_classes=len(classes),
        image_shape=shape,
        mean=mean,
        std=std,
        class_names=_display_names(root, classes),
        labels={key: split.labels for key, split in files.items()},
        read=lambda split, positions: decode.decode_many(
            lambda row: files[split].load(positions[row]),
            lambda row: files[split].describe(positions[row]),
            len(positions),
            shape,
            resize=True,
            shorter=shorter,
        ),
        encoded=encoded_splits(files),
        skipped=skipped,
        digest=lambda split, positions: files[split].digest(positions),
    )


def _read_options(options: Any) -> tuple[str, int, int | None, str]:
    """Checks and returns `dir`, `image_size`, `eval_resize`, `on_bad_image`."""
    path = checks.text_option(options, 'dir', 'the path of an image folder')
    size = positive_option(options, 'image_size', 0)
    if not size:
        raise ValueError(
            'data.image_size=None: must be an integer >= 1 with '
            'data.source=folder'
        )
    shorter = checks.eval_resize_option(options, size)
    policy = checks.option(options, 'on_bad_image', POLICIES[0])
    if policy not in POLICIES:
        raise ValueError(
            f'data.on_bad_image={policy!r}: must be one of '
            f'{", ".join(POLICIES)}'
        )
    return path, size, shorter, policy


def _list_splits(root: epath.Path, field: str) -> dict[str, Files]:
    """Lists the files of both splits; checks that their classes are equal."""
    if not root.is_dir():
        raise ValueError(f'{field}: no such directory')
    try:
        test = _test_folder(root, field)
        files = {
            'train': _list_files(root / 'train'),
            'test': _list_files(root / test),
        }
    except OSError as e:
        raise ValueError(f'{field}: cannot be listed: {e}') from e
    in_train, in_test = (set(split.classes) for split in files.values())
    for name in sorted(in_train ^ in_test):
        has, lacks = ('train', test) if name in in_train else (test, 'train')
        raise ValueError(f'{field}: class {name!r} is in {has}, not in {lacks}')
    return files


def _test_folder(root: epath.Path, field: str) -> str:
    """Name of the test folder; raises ValueError if a folder is missing."""
    if not (root / 'train').is_dir():
        near = [root / name for name in _names_in(root)[:_MAX_LISTED]]
        if root.name in ('train', *_TEST_FOLDERS):
            near = [root.parent]
        for path in near:
            if (path / 'train').is_dir():
                raise ValueError(f'{field}: no folder train; {path} has one')
        raise ValueError(
            f'{field}: no folder train, but {_contents(root)}; must have '
            'train/<class>/<image> and validation/<class>/<image>'
        )
    for name in _TEST_FOLDERS:
        if (root / name).is_dir():
            return name
    raise ValueError(
        f'{field}: no folder {" or ".join(_TEST_FOLDERS)}, but '
        f'{_contents(root)}'
    )


def _names_in(folder: epath.Path) -> list[str]:
    """Sorted names of the entries of a folder, without hidden ones."""
    # Path objects of a million files would take ten seconds.
    local = os.path.isdir(folder)
    names = os.listdir(folder) if local else [p.name for p in folder.iterdir()]
    return sorted(name for name in names if not name.startswith('.'))


def _contents(folder: epath.Path) -> str:
    """The contents of a folder for a message, folders first."""
    entries = []
    for name in _names_in(folder):
        is_image = name.lower().endswith(SUFFIXES)
        is_folder = not is_image and (folder / name).is_dir()
        entries.append((not is_folder, f'{name}/' if is_folder else name))
    listed = ', '.join(name for _, name in sorted(entries)[:_MAX_IN_ERROR])
    if len(entries) > _MAX_IN_ERROR:
        listed += f', ... ({len(entries)} in all)'
    return listed or 'nothing'


def _list_files(root: epath.Path) -> Files:
    """Lists the files of a split."""
    with concurrent.futures.ThreadPoolExecutor(_LISTING_THREADS) as pool:
        names = _names_in(root)
        are_folders = pool.map(lambda name: (root / name).is_dir(), names)
        classes = [
            name
            for name, is_folder in zip(names, are_folders, strict=True)
            if is_folder
        ]
        if not classes:
            raise ValueError(f'{root}: no folder; must have one per class')
        listed = list(pool.map(lambda name: _list_class(root / name), classes))
    others = [path for _, ignored in listed for path in ignored]
    _warn('ignored, not image files by their names', others)
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
    )


def _list_class(folder: epath.Path) -> tuple[list[str], list[str]]:
    """Names of a class's image files, and paths of its other files."""
    names = _names_in(folder)
    files = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not files:
        raise ValueError(
            f'{folder}: no image, but {_contents(folder)}; files must end in '
            f'{", ".join(SUFFIXES)}'
        )
    others = set(names) - set(files)
    return files, [str(folder / name) for name in sorted(others)]


def _skip_bad(
    files: Files, shape: tuple[int, int, int], shorter: int | None
) -> tuple[Files, tuple[str, ...]]:
    """Decodes all files, and leaves out those that cannot be decoded."""
    num = len(files.names)
    bad = decode.find_bad(files.load, num, shape, shorter=shorter)
    skipped = [f'{files.describe(row)}: {why}' for row, why in bad.items()]
    _warn('skipped', skipped)
    kept = np.delete(np.arange(num), list(bad))
    counts = np.bincount(files.labels[kept], minlength=len(files.classes))
    if not counts.all():
        empty = files.classes[int(counts.argmin())]
        raise ValueError(f'{files.root / empty}: no image can be decoded')
    files = files._replace(
        names=[files.names[row] for row in kept.tolist()],
        labels=files.labels[kept],
    )
    return files, tuple(skipped)


def _display_names(
    root: epath.Path, classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Unique class names by label, from labels.txt if it exists."""
    path = root / 'labels.txt'
    if not path.exists():
        return classes
    names = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f'{path}: {e}') from e
    for number, line in enumerate(lines, start=1):
        folder, tab, name = line.partition('\t')
        if line.strip() and not (tab and name.strip()):
            raise ValueError(
                f'{path}: line {number}: must be <folder> <tab> <name>'
            )
        names[folder] = name.strip()
    chosen = [names.get(folder, folder) for folder in classes]
    counts = collections.Counter(chosen)
    # ImageNet has two classes named 'crane', the bird and the machine.
    return tuple(
        name if counts[name] == 1 else f'{name} ({folder})'
        for name, folder in zip(chosen, classes, strict=True)
    )


def _warn(what: str, paths: Sequence[str]) -> None:
    """Logs the number of files and the first of them."""
    if paths:
        more = ', ...' if len(paths) > _MAX_LISTED else ''
        listed = ', '.join(paths[:_MAX_LISTED])
        logging.warning('%d files %s: %s%s', len(paths), what, listed, more)
