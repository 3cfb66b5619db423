"""A folder of image files: `train/<class>/*` and `validation/<class>/*`.

`data.dir` is its path, local or `gs://`, or that of a zip or tar archive of it.
The names of the splits are those of `_splits`, in any case. A folder without a
split has `<class>/*`, or `train/<class>/*` alone; then `data.test_fraction` of
each class is held out. With `data.labels` files lie anywhere, and a CSV says
which class each has: see `_labels_file`.

Files of the formats of `data.pillow` are read; what else there is, and images
that are in the folder of no class or have no row, is left out and counted in
`Source.notes` and `Source.about`. The name of a class is that of
its folder, or is given by a line `<folder> <tab> <name>` in a file `labels.txt`
beside `train`; labels follow the sorted names of folders.

Images are converted to RGB and `data.image_size` pixels high and wide, the
central crop after resizing to `data.eval_resize` if that is given: see
`decode.decode`. Mean and std are ImageNet's constants, as usual for natural
images; computing them would require reading every file.
"""

import collections
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from mnemonics_jax.core.regular import regular
from mnemonics_jax.core.text import counted
from mnemonics_jax.data import decode
from mnemonics_jax.data.sources import (
    IMAGENET_STATISTICS,
    Source,
    _archive,
    _files,
    _labels_file,
    _splits,
    checks,
    encoded_splits,
)
from mnemonics_jax.data.sources._files import Files, Folder
from mnemonics_jax.data.sources.checks import positive_option

POLICIES = ('fail', 'skip')

_MAX_LISTED = 20
_MAX_IN_NOTE = 3
_NAMES = 'labels.txt'


class _Options(NamedTuple):
    """The options, checked; see `make`."""

    path: str
    size: int
    shorter: int | None
    policy: str
    labels: str | None
    fraction: float | None
    seed: int


def make(options: Any) -> Source:
    """Lists the files; `read` decodes them.

    Args:
        options: must have `dir` and `image_size`, may have `eval_resize` and
            `on_bad_image`: 'fail' (default) raises when reading a file that
            cannot be decoded, 'skip' decodes every file once here, and leaves
            out and logs those that cannot. `labels` is the path of a CSV,
            `test_fraction` in (0, 1) is the part to hold out with
            `subset_seed`.

    Raises:
        ValueError: an option or the folder is invalid; `read` raises
            `errors.BadImageError`.
    """
    given = _read_options(options)
    size, shorter = given.size, given.shorter
    field = f'data.dir={given.path!r}'
    root = _open(checks.located(given.path, field), field)
    files, about, notes = _divide(root, given, field)
    left, lines = _left_out(files, root, field)
    about, notes = {**about, **left}, (*notes, *lines)
    shape = (size, size, 3)
    skipped: tuple[str, ...] = ()
    if given.policy == 'skip':
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
        about=about,
        notes=notes,
        digest=lambda split, positions: files[split].digest(positions),
    )


def _read_options(options: Any) -> _Options:
    """Checks the options."""
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
    fraction = checks.option(options, 'test_fraction')
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(
            f'data.test_fraction={fraction!r}: must be a number > 0 and < 1'
        )
    labels = checks.option(options, 'labels')
    seed = checks.option(options, 'subset_seed', 1993)
    return _Options(path, size, shorter, policy, labels, fraction, seed)


def _open(path: epath.Path, field: str) -> Folder:
    """The folder or archive at a path."""
    if path.is_dir():
        return path
    if not path.exists():
        raise ValueError(f'{field}: no such directory or archive')
    return _archive.open_archive(path, field)


def _divide(
    root: Folder, given: _Options, field: str
) -> tuple[dict[str, Files], Mapping[str, Any], tuple[str, ...]]:
    """The files 'train' and 'test', and what is said of the splits."""
    fraction = given.fraction
    try:
        if given.labels is not None:
            field = f'data.labels={given.labels!r}'
            found = _labels_file.read(root, given.labels)
            chosen = _splits.choose(list(found), field)
        else:
            chosen = _choose_folders(root, fraction, field)
            found = _list_splits(root, chosen)
    except OSError as e:
        raise ValueError(f'{field}: cannot be listed: {e}') from e
    _splits.check_fraction(chosen, fraction, field)
    train = chosen.train if chosen else ''
    if train not in found:
        raise ValueError(f'{field}: no row of the split train')
    if chosen is None or chosen.test is None:
        if fraction is None:
            raise ValueError(
                f'{field}: no test images: must have rows with a split '
                f'{" or ".join(_splits.TEST)}, or data.test_fraction=0.2'
            )
        held_out = _splits.hold_out(found[train], fraction, given.seed)
        return held_out, *_splits.held_out_said(fraction, given.seed, field)
    files = {'train': found[train], 'test': found[chosen.test]}
    in_train, in_test = (_classes_with_files(files[key]) for key in files)
    for name in sorted(in_train ^ in_test):
        has, lacks = train, chosen.test
        if name in in_test:
            has, lacks = lacks, has
        raise ValueError(f'{field}: class {name!r} is in {has}, not in {lacks}')
    return files, *_splits.chosen_said(chosen, field)


def _classes_with_files(files: Files) -> set[str]:
    return {files.classes[label] for label in np.unique(files.labels)}


def _list_splits(
    root: Folder, chosen: _splits.Chosen | None
) -> dict[str, Files]:
    """The files of the splits that are read; '' if there are none."""
    if chosen is None:
        return {'': _files.list_classes(root, known=[_NAMES])}
    train, test, others = chosen
    found = {
        name: _files.list_classes(root / name)
        for name in (train, test)
        if name is not None
    }
    used = {train, test, *others, _NAMES}
    beside = [name for name in _files.names_in(root) if name not in used]
    left_out, misplaced = _files.unread(root, beside)
    found[train] = found[train]._replace(
        left_out=found[train].left_out + left_out,
        misplaced=found[train].misplaced + misplaced,
    )
    return found


def _choose_folders(
    root: Folder, fraction: float | None, field: str
) -> _splits.Chosen | None:
    """The folders of the splits; None if the root has those of the classes."""
    names = _files.folders_in(root)
    named = [name for name in names if _splits.kind_of(name)]
    if fraction is not None:
        # Of images alone, it is a class called so, as CIFAR-100 has `train`.
        splits = [name for name in named if not _files.is_class(root / name)]
        if not splits and len(named) < len(names):
            return None
        named = splits or named
    chosen = _splits.choose(named, field)
    if chosen is not None:
        if chosen.test is None and fraction is None:
            raise ValueError(
                f'{field}: no folder {" or ".join(_splits.TEST)}, but '
                f'{_files.contents(root)}; data.test_fraction=0.2 holds out '
                f'images of {chosen.train}'
            )
        return chosen
    near = [root / name for name in names[:_MAX_LISTED]]
    if isinstance(root, epath.Path) and _splits.kind_of(root.name):
        near = [root.parent]
    for path in near:
        if (path / 'train').is_dir():
            raise ValueError(f'{field}: no folder train; {path} has one')
    raise ValueError(
        f'{field}: no folder train, but {_files.contents(root)}; must have '
        'train/<class>/<image> and validation/<class>/<image>, or '
        '<class>/<image> with data.test_fraction=0.2'
    )


def _left_out(
    files: Mapping[str, Files], root: Folder, field: str
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """What `Source.about` and `Source.notes` say of files left out."""
    about, notes = {}, []
    folders = collections.Counter(
        posixpath.dirname(posixpath.relpath(path, str(root))) or '.'
        for split in files.values()
        for path in split.misplaced
    )
    about['misplaced_images'] = dict(folders.most_common())
    if folders:
        listed = [
            f'{num} in {root if name == "." else root / name}'
            for name, num in folders.most_common(_MAX_IN_NOTE)
        ]
        more = ', ...' if len(folders) > _MAX_IN_NOTE else ''
        notes.append(
            f'{field}: {counted(folders.total(), "image")} left out, in the '
            f'folder of no class: {", ".join(listed)}{more}'
        )
    for key, what in (
        ('left_out', 'not images by their names'),
        ('unlabelled', 'images without a row in data.labels'),
    ):
        paths = [p for split in files.values() for p in getattr(split, key)]
        about[f'{key}_files'] = kinds = _files.kinds(paths)
        if paths:
            counts = ', '.join(f'{num} {kind}' for kind, num in kinds.items())
            more = ', ...' if len(paths) > _MAX_IN_NOTE else ''
            number = counted(len(paths), 'file')
            notes.append(
                f'{field}: {number} left out, {what}: {counts} '
                f'({", ".join(paths[:_MAX_IN_NOTE])}{more})'
            )
    return about, tuple(notes)


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


def _display_names(root: Folder, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Unique class names by label, from labels.txt if it exists."""
    path = root / _NAMES
    if not path.exists():
        return classes
    names = {}
    try:
        lines = regular(path).read_text().splitlines()
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
        number = counted(len(paths), 'file')
        logging.warning('%s %s: %s%s', number, what, listed, more)
