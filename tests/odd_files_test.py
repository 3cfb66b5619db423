"""Files that are not files: one line each, and nothing waits or grows."""

import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax.core.regular import regular
from mnemonics_jax.data import class_order
from mnemonics_jax.data.errors import BadDataError
from mnemonics_jax.data.sources import arrays, cifar, folder

SIZE = 8


@pytest.fixture
def root(tmp_path):
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for split in ('train', 'validation'):
        for name in ('cat', 'dog'):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            Image.fromarray(pixels).save(place / '0.png')
    return tmp_path


def read(root, **more):
    """Reads a folder's training images."""
    source = folder.make({'dir': str(root), 'image_size': SIZE, **more})
    return source.read('train', np.arange(len(source.labels['train'])))


def refused(call):
    """The one line that a call is refused with."""
    with pytest.raises(ValueError) as caught:
        call()
    (line,) = str(caught.value).splitlines()
    line.encode()  # It can be printed.
    return line


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path):
    path.unlink(missing_ok=True)
    path.symlink_to('/dev/zero')


def loop(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def huge(path):
    """A PNG that says that it has 30,000 x 30,000 pixels."""
    path.write_bytes(png(30_000, 30_000))


def large(path):
    """One below the size that Pillow itself refuses."""
    path.write_bytes(png(9_000, 9_000))


def png(width, height):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100))
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', body)
        + chunk(b'IEND', b'')
    )


IMAGES = {
    pipe: 'must be a file',
    endless: 'must be a file',
    loop: 'Too many levels of symbolic links',
    huge: 'exceeds limit',
    large: '9000 x 9000 pixels: must be at most 67108864 in all',
}


@pytest.mark.parametrize('make', IMAGES, ids=lambda make: make.__name__)
def test_an_image_that_is_none_is_named_or_left_out(root, make):
    path = root / 'train' / 'cat' / '1.png'
    make(path)
    line = refused(lambda: read(root))
    assert str(path) in line
    assert IMAGES[make] in line
    assert len(read(root, on_bad_image='skip')) == 2


@pytest.mark.parametrize('make', [pipe, endless])
def test_a_table_that_is_none_is_named(root, make):
    labels, order = root / 'labels.txt', root / 'order.txt'
    make(labels)
    assert str(labels) in refused(lambda: read(root))
    labels.unlink()
    make(order)
    line = refused(lambda: class_order.read_names(str(order)))
    assert line.endswith("order.txt': is not a file: must be a file")
    make(root / 'labels.csv')
    line = refused(lambda: read(root, labels='labels.csv'))
    assert "data.labels='labels.csv'" in line
    assert 'must be a file' in line


@pytest.mark.parametrize('make', [pipe, endless])
@pytest.mark.parametrize(
    ('source', 'name'),
    [
        (arrays, 'images.npz'),
        (folder, 'images.tar'),
        (cifar, 'cifar-100-python.tar.gz'),
        (cifar, 'cifar-100-python/train'),
    ],
)
def test_an_archive_that_is_none_is_named(tmp_path, source, name, make):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    place = path if source is not cifar or path.parent == tmp_path else tmp_path
    options = {'dir': str(place), 'name': 'cifar100'}
    options['image_size'] = None if source is cifar else SIZE
    assert 'must be a file' in refused(lambda: source.make(options))


def test_names_that_are_not_utf8_are_escaped_or_refused(root):
    bad = os.fsdecode(b'\xe9t\xe9')
    image = root / 'train' / 'cat' / f'{bad}.png'
    image.write_bytes(b'no image')
    (root / f'{bad}.txt').write_bytes(b'')
    assert '\\udce9t\\udce9.png' in refused(lambda: read(root))
    image.unlink()
    source = folder.make({'dir': str(root), 'image_size': SIZE})
    assert any('\\udce9t\\udce9.txt' in note for note in source.notes)
    (root / 'train' / bad).mkdir()
    line = refused(lambda: read(root))
    assert 'class \\udce9t\\udce9: must have a name in UTF-8' in line


def test_a_file_has_a_largest_size(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(bytes(11))
    assert regular(path, 11) == path
    with pytest.raises(OSError, match='11 bytes: must be at most 10'):
        regular(path, 10)
    with pytest.raises(OSError, match='is a folder'):
        regular(tmp_path)
    bucket = pathlib.PurePosixPath('gs://bucket/file')
    assert regular(str(bucket).replace(':/', '://')) is not None


def test_errors_of_files_are_errors_of_data(root):
    pipe(root / 'train' / 'cat' / '0.png')
    with pytest.raises(BadDataError):
        read(root)
