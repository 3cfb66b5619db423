"""A CSV with the columns `file` and `label`, and `split` if there is one."""

import collections
import csv
import io
import posixpath
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from mnemonics_jax.core.regular import regular
from mnemonics_jax.data.sources import _archive, _files, _splits, checks
from mnemonics_jax.data.sources._files import Files, Folder


class _Row(NamedTuple):
    """A row: its line, the path within the folder, the class, the split."""

    line: int
    file: str
    label: str
    split: str


def read(root: Folder, given: str) -> dict[str, Files]:
    """Lists the files that a CSV names.

    Args:
        root: folder or archive of the files.
        given: path of the CSV, in the root, beside it or anywhere.

    Returns:
        Name of a split, '' without that column -> its files. All have the same
        classes, sorted.

    Raises:
        ValueError: it cannot be read, or names a file that is not there.
    """
    field = f'data.labels={given!r}'
    rows = _rows(_text(root, given, field), field)
    base = _base(root, given, rows[0].file)
    there, others = _listed(base, rows), _without_row(root, base, rows)
    missing = [row for row in rows if row.file not in there]
    if missing:
        raise ValueError(
            f'{field}: line {missing[0].line}: no file {missing[0].file!r} in '
            f'{base} ({len(missing)} of {len(rows)} are missing)'
        )
    images = [row for row in rows if _files.is_image(row.file)]
    classes = tuple(sorted({row.label for row in images}))
    if not images:
        raise ValueError(f'{field}: no image: must have rows of image files')
    numbers = {name: label for label, name in enumerate(classes)}
    by_split = collections.defaultdict(list)
    for row in sorted(images, key=lambda row: (row.label, row.file)):
        by_split[row.split].append(row)
    left_out = [row.file for row in rows if not _files.is_image(row.file)]
    found = {}
    for split, chosen in by_split.items():
        found[split] = Files(
            root=base,
            classes=classes,
            names=[row.file for row in chosen],
            labels=np.array([numbers[row.label] for row in chosen], np.int32),
            left_out=tuple(str(base / name) for name in left_out),
            unlabelled=tuple(others),
        )
        left_out, others = [], []
    return found


def _text(root: Folder, given: str, field: str) -> str:
    """The content of the CSV, from the first place where it is."""
    beside = epath.Path(getattr(root, 'outside', root)).parent
    places = (checks.located(given, field), root / given, beside / given)
    for place in places:
        try:
            if place.exists() and not place.is_dir():
                return regular(place).read_bytes().decode('utf-8-sig')
        except (OSError, UnicodeDecodeError) as e:
            raise ValueError(f'{field}: {place}: {e}') from e
    raise ValueError(
        f'{field}: no such file: must be a path, or a file in {root} or beside'
    )


def _rows(text: str, field: str) -> list[_Row]:
    """The rows, checked."""
    reader = csv.reader(io.StringIO(text, newline=''))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not {'file', 'label'} <= set(header):
            raise ValueError(
                f'{field}: line 1: must have the columns file and label; has '
                f'{", ".join(header) or "nothing"}'
            )
        rows, seen = [], set()
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            row = _row(header, values, reader.line_num, field)
            if row.file in seen:
                raise ValueError(
                    f'{field}: line {row.line}: {row.file!r} is repeated'
                )
            seen.add(row.file)
            rows.append(row)
    except csv.Error as e:
        raise ValueError(f'{field}: line {reader.line_num}: {e}') from e
    if not rows:
        raise ValueError(f'{field}: no row: must have one for each image')
    return rows


def _row(
    header: Sequence[str], values: Sequence[str], line: int, field: str
) -> _Row:
    """One row, checked."""
    cells = dict(zip(header, (value.strip() for value in values), strict=False))
    file, label = cells.get('file'), cells.get('label')
    if not file or not label:
        raise ValueError(f'{field}: line {line}: must have a file and a label')
    split = cells.get('split', '')
    if 'split' in header and _splits.kind_of(split) is None:
        known = ', '.join((*_splits.TRAIN, *_splits.TEST))
        raise ValueError(
            f'{field}: line {line}: split {split!r}: must be one of {known}'
        )
    return _Row(line, posixpath.normpath(file), label, split)


def _base(root: Folder, given: str, first: str) -> Folder:
    """The folder that paths start from: that in which the first file is.

    It is the root, or else the folder of the CSV if that is inside, the only
    folder in the root, or the archive of which the root is the only folder.
    """
    places = [root]
    outside = given.startswith(('/', '~')) or '://' in given
    if not outside and '..' not in given.split('/'):
        places.append(root / posixpath.dirname(given))
    folders = _files.folders_in(root)
    if len(folders) == 1:
        places.append(root / folders[0])
    if isinstance(root, _archive.Inside):
        places.append(root.top())
    return next((p for p in places if (p / first).exists()), root)


def _listed(base: Folder, rows: Sequence[_Row]) -> set[str]:
    """Files in the folders that rows name, as rows name them."""
    there = set()
    for parent in {posixpath.dirname(row.file) for row in rows}:
        folder = base / parent if parent else base
        if folder.is_dir():
            names = _files.names_in(folder)
            there |= {posixpath.join(parent, name) for name in names}
    return there


def _without_row(root: Folder, base: Folder, rows: Sequence[_Row]) -> list[str]:
    """Paths of the images that no row names, sorted."""
    if isinstance(root, _archive.Inside):
        root = root.top()
    named = {posixpath.join(str(base), row.file) for row in rows}
    return sorted(set(_files.images_under(root)) - named)
