"""CIFAR-100 and CIFAR-10 from their own archives, as published.

`data.dir` is `cifar-100-python.tar.gz` or `cifar-10-python.tar.gz`, the folder
in it (`cifar-100-python` with `train`, `test` and `meta`, or
`cifar-10-batches-py` with `data_batch_1` to `data_batch_5`, `test_batch` and
`batches.meta`), or a folder that has any of these. `data.name` is `cifar100` or
`cifar10`, by default what there is. Labels are the fine ones, class names the
official ones.

The files are pickles; see `_plain_pickle` for what is admitted. Archives are
read where they lie, and nothing is written beside them. Where `data.dir` has
none of this, or there is no `data.dir`, the set is taken from TensorFlow
Datasets (TFDS): prepared in `data.dir` or in TFDS's own directory, else
downloaded to the latter.

Mean and std are the usual constants for CIFAR-100, and computed on the training
images for CIFAR-10.
"""

import contextlib
import socket
import tarfile
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from mnemonics_jax.core.regular import regular
from mnemonics_jax.data import decode
from mnemonics_jax.data.sources import (
    CIFAR100_STATISTICS,
    Source,
    _plain_pickle,
    checks,
    in_memory,
)

_PAGE = 'https://www.cs.toronto.edu/~kriz/cifar.html'
_SIDE = 32
_PIXELS = 3 * _SIDE**2
# A batch has 154 MB; above this, a file is none.
_MOST_BYTES = 2**30
_UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error)

Content = dict[bytes, Any]


class _Format(NamedTuple):
    """How a set is laid out in its archive.

    Attributes:
        title: the set's own name.
        archive: name of the archive.
        folder: name of the folder in it.
        train: files of the training images.
        test: file of the test images.
        names: file of the class names.
        labels: key of the labels in a file of images.
        class_names: key of the names.
    """

    title: str
    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    labels: bytes
    class_names: bytes

    def files(self) -> tuple[str, ...]:
        """All files of the set."""
        return (*self.train, self.test, self.names)


_FORMATS = {
    'cifar100': _Format(
        'CIFAR-100',
        'cifar-100-python.tar.gz',
        'cifar-100-python',
        ('train',),
        'test',
        'meta',
        b'fine_labels',
        b'fine_label_names',
    ),
    'cifar10': _Format(
        'CIFAR-10',
        'cifar-10-python.tar.gz',
        'cifar-10-batches-py',
        tuple(f'data_batch_{number}' for number in range(1, 6)),
        'test_batch',
        'batches.meta',
        b'labels',
        b'label_names',
    ),
}


def num_classes(options: Any) -> int | None:
    """Number of classes, where the set is named."""
    name = checks.option(options, 'name')
    return {'cifar100': 100, 'cifar10': 10}.get(name or '')


def make(options: Any) -> Source:
    """Reads all images into memory: 184 MB for either set.

    Args:
        options: may have `name`, `dir`, and, for TFDS, `image_size` and
            `eval_resize`.

    Raises:
        ValueError: an option is invalid, a file cannot be read or has anything
            but data in it, or the set is found nowhere.
    """
    given, path = checks.option(options, 'name'), checks.option(options, 'dir')
    if given not in (None, *_FORMATS):
        raise ValueError(
            f'data.name={given!r}: must be one of {", ".join(_FORMATS)} with '
            'data.source=cifar; data.source=tfds has other sets'
        )
    found = None if path is None else _find(path, given)
    if found is None:
        return _from_tfds(options, given or 'cifar100', path)
    _check_size(options)
    place, name = found
    form = _FORMATS[name]
    contents = _contents(place, form)
    fields = {file: f'{place}/{file}' for file in contents}
    class_names = _class_names(contents[form.names], fields[form.names], form)
    pixels, labels = {}, {}
    for split, files in (('train', form.train), ('test', (form.test,))):
        parts = [_images(contents.pop(f), fields[f], form) for f in files]
        pixels[split] = np.concatenate([images for images, _ in parts])
        labels[split] = np.concatenate([numbers for _, numbers in parts])
        checks.check_labels(labels[split], class_names, fields[files[0]])
    known = name == 'cifar100' and CIFAR100_STATISTICS
    return in_memory(
        pixels,
        labels,
        class_names,
        known or decode.statistics(pixels['train']),
        about={'read_from': str(place)},
        notes=(f'{form.title} from {place}',),
    )


def _wanted(name: str | None) -> str:
    """What `data.dir` must be, for messages; of any set for None."""
    archives = ' or '.join(
        form.archive for key, form in _FORMATS.items() if name in (None, key)
    )
    return f'{archives}, the folder in it, or a folder that has either'


def _find(path: str, given: str | None) -> tuple[epath.Path, str] | None:
    """The archive or folder in `data.dir`, and its set; None if there is none.

    Args:
        path: `data.dir`.
        given: the set to look for; None: any, of which there must be one.

    Raises:
        ValueError: there is no such path, it has another set alone, or two.
    """
    root = checks.located(path, f'data.dir={path!r}')
    if not root.exists():
        raise ValueError(
            f'data.dir={path!r}: no such file or folder; must be '
            f'{_wanted(given)}'
        )
    if not root.is_dir():
        return root, given or _set_in(root)
    places = {name: _place_in(root, form) for name, form in _FORMATS.items()}
    found = {name: place for name, place in places.items() if place}
    if given in found:
        return found[given], given
    if found and given:
        raise ValueError(
            f'data.name={given!r}: must be {", ".join(found)}, which is what '
            f'data.dir={path!r} has'
        )
    if len(found) > 1:
        raise ValueError(
            f'data.name=None: must be one of {", ".join(found)}, since '
            f'data.dir={path!r} has them'
        )
    return next(((place, name) for name, place in found.items()), None)


def _place_in(root: epath.Path, form: _Format) -> epath.Path | None:
    """Where in a folder a set is, unpacked, packed or in part."""
    folders = (root, root / form.folder)
    for folder in folders:
        if (folder / form.names).exists():
            return folder
    archive = root / form.archive
    if archive.exists():
        return archive
    for folder in folders:
        named = folder.name == form.folder and folder.is_dir()
        if named or any((folder / name).is_file() for name in form.files()):
            return folder  # `_contents` says what it lacks.
    return None


def _set_in(archive: epath.Path) -> str:
    """The set that an archive has, cifar100 if none is seen."""
    with (
        contextlib.suppress(*_UNREADABLE),
        regular(archive, None).open('rb') as file,
        tarfile.open(fileobj=file, mode='r:*') as members,
    ):
        for member in members:
            for name, form in _FORMATS.items():
                if form.folder in member.name:
                    return name
    return 'cifar100'


def _contents(place: epath.Path, form: _Format) -> dict[str, Content]:
    """The dicts in the files of a set, by name, with bytes as keys.

    Raises:
        ValueError: a file is missing, cannot be read, or has no such dict.
    """
    is_folder = place.is_dir()
    found: dict[str, Content] = {}
    packed = _packed(place, form) if not is_folder else None
    for name, data in packed or _unpacked(place, form):
        field = f'{place}/{name}'
        try:
            content = _plain_pickle.loads(data)
        except ValueError as e:
            raise ValueError(f'{field}: {e}') from e
        if not isinstance(content, dict):
            raise ValueError(f'{field}: must be a pickled dict')
        found[name] = {_bytes(key): value for key, value in content.items()}
    missing = [file for file in form.files() if file not in found]
    if missing:
        folder = '' if is_folder else f' {form.folder} with'
        raise ValueError(
            f'{place}: no {", ".join(missing)}; must have{folder} '
            f'{", ".join(form.files())}'
        )
    return found


def _unpacked(folder: epath.Path, form: _Format) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of those files that a folder has."""
    for name in form.files():
        path = folder / name
        if path.exists():
            try:
                yield name, regular(path, _MOST_BYTES).read_bytes()
            except OSError as e:
                raise ValueError(f'{path}: {e.strerror or e}') from e


def _packed(path: epath.Path, form: _Format) -> Iterator[tuple[str, bytes]]:
    """The same of an archive, in one pass; nothing is unpacked to disk."""
    wanted = {f'{form.folder}/{name}': name for name in form.files()}
    try:
        with (
            regular(path, None).open('rb') as file,
            tarfile.open(fileobj=file, mode='r:*') as members,
        ):
            for member in members:
                name = wanted.get(member.name.removeprefix('./'))
                if name and member.isreg() and member.size <= _MOST_BYTES:
                    content = members.extractfile(member)
                    yield name, content.read() if content else b''
    except tarfile.ReadError as e:
        raise ValueError(
            f'{path}: no tar archive; must be {_wanted(None)}'
        ) from e
    except _UNREADABLE as e:
        reason = getattr(e, 'strerror', None) or e
        raise ValueError(f'{path}: cannot be read: {reason}') from e


def _images(
    content: Content, field: str, form: _Format
) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8[n,32,32,3] and labels int64[n] of a file."""
    rows = _entry(content, b'data', field)
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.shape[1:] != (_PIXELS,)
        or not len(rows)
    ):
        raise ValueError(f'{field}: data: must be an array uint8[n,{_PIXELS}]')
    given = _entry(content, form.labels, field)
    integers = isinstance(given, list) and all(type(k) is int for k in given)
    if not integers or len(given) != len(rows):
        raise ValueError(
            f'{field}: {_text(form.labels)}: must be {len(rows)} integers, one '
            'for each image'
        )
    planes = rows.reshape(-1, 3, _SIDE, _SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, np.array(given)


def _class_names(
    content: Content, field: str, form: _Format
) -> tuple[str, ...]:
    """The official names, by label."""
    names = _entry(content, form.class_names, field)
    texts = isinstance(names, list) and [
        _text(name) for name in names if isinstance(name, str | bytes)
    ]
    if not texts or not len(set(texts)) == len(texts) == len(names):
        raise ValueError(
            f'{field}: {_text(form.class_names)}: must be distinct names'
        )
    return tuple(texts)


def _entry(content: Content, key: bytes, field: str) -> Any:
    if key not in content:
        there = ', '.join(str(_text(other)) for other in content) or 'nothing'
        raise ValueError(
            f'{field}: no {_text(key)}: must have it beside {there}'
        )
    return content[key]


def _text(value: Any) -> Any:
    return value.decode('latin1') if isinstance(value, bytes) else value


def _bytes(value: Any) -> Any:
    """A key as Python 2 wrote it."""
    return value.encode() if isinstance(value, str) else value


def _check_size(options: Any) -> None:
    """Raises ValueError if images are to be resized, which TFDS alone does."""
    for field in ('image_size', 'eval_resize'):
        value = checks.option(options, field)
        if value not in (None, _SIDE):
            raise ValueError(
                f'data.{field}={value}: must be None or {_SIDE} with '
                'data.source=cifar; data.source=tfds resizes'
            )


def _from_tfds(options: Any, name: str, path: str | None) -> Source:
    """The set from TFDS; if it cannot, names all places that were looked at."""
    title = _FORMATS[name].title
    looked = [] if path is None else [f'data.dir={path!r}']
    try:
        # Imported here: local files need no TensorFlow.
        from mnemonics_jax.data.sources import _tfds_builders, tfds

        builder = _tfds_builders.find_set(name, path)
        if path is not None and not builder.data_path.exists():
            builder = _tfds_builders.find_set(name, None)
        looked.append(f'{builder.data_path} of TFDS')
        if not builder.data_path.exists():
            _check_network()
            _tfds_builders.prepare(builder, name)
    except (ImportError, OSError, ValueError) as e:
        reason = str(e).removeprefix(f'data.name={name!r}: ')
        raise ValueError(
            f'data.name={name!r}: no {title} in '
            f'{" nor ".join(looked) or "data.dir=None"}; '
            f'data.dir must be {_wanted(name)}, from {_PAGE} (TFDS: {reason})'
        ) from e
    more = ('image_size', 'eval_resize')
    source = tfds.make(
        {
            'name': name,
            'dir': str(builder.data_dir_root),
            **{field: checks.option(options, field) for field in more},
        }
    )
    return source._replace(
        about={'read_from': str(builder.data_path)},
        notes=(f'{title} from {builder.data_path}, by TFDS',),
    )


def _check_network() -> None:
    """Raises OSError if no download can work: TFDS would try for long."""
    host = urllib.parse.urlsplit(_PAGE).hostname
    try:
        if not urllib.request.getproxies():
            socket.getaddrinfo(host, 443)
    except OSError as e:
        raise OSError(
            f'cannot download it without a network: {host}: {e.strerror}'
        ) from e
