"""Tries on folders of images with odd entries."""

import os
import pathlib
import struct
import zlib
from collections.abc import Callable

import forked
import numpy as np
from hostile_runs import (
    HANG,
    LINE,
    MAIN,
    SILENT,
    STARTS,
    TRACEBACK,
    Fixtures,
    Try,
    flags_of,
)
from PIL import Image

SIZE, PER_CLASS, CLASSES = 8, 6, ('ant', 'bee', 'cat', 'dog')


def png(width: int, height: int) -> bytes:
    """A PNG that says that it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(bytes(100)))
        + chunk(b'IEND', b'')
    )


# What is put at a path; (name of the entry, whether it may be left unnamed).
ENTRIES: dict[str, tuple[str, Callable[[pathlib.Path], None]]] = {
    'pipe': ('x.png', os.mkfifo),
    'endless': ('x.png', lambda path: path.symlink_to('/dev/zero')),
    'link loop': ('x.png', lambda path: path.symlink_to(path.name)),
    'link to nowhere': ('x.png', lambda path: path.symlink_to('nowhere')),
    'huge': ('x.png', lambda path: path.write_bytes(png(30_000, 30_000))),
    'large': ('x.png', lambda path: path.write_bytes(png(9_000, 9_000))),
    'narrow': ('x.png', lambda path: path.write_bytes(png(1, 0))),
    'empty': ('x.png', lambda path: path.write_bytes(b'')),
    'text': ('x.png', lambda path: path.write_bytes(b'no image')),
    'folder': ('x.png', lambda path: path.mkdir()),
    'torn': ('x.png', lambda path: path.write_bytes(png(8, 8)[:40])),
    'name not UTF-8': (
        os.fsdecode(b'\xe9.png'),
        lambda path: path.write_bytes(b'no'),
    ),
    'name with a line end': ('a\nb.png', lambda path: path.write_bytes(b'no')),
    'long name': (f'{"n" * 250}.png', lambda path: path.write_bytes(b'no')),
    'markup in a name': (
        '<script>.png',
        lambda path: path.write_bytes(b'no'),
    ),
}
AT_THE_TOP: dict[str, tuple[str, Callable[[pathlib.Path], None]]] = {
    'labels.txt is a pipe': ('labels.txt', os.mkfifo),
    'labels.csv is a folder': ('labels.csv', lambda path: path.mkdir()),
    'class not UTF-8': (
        os.fsdecode(b'train/\xe9'),
        lambda path: path.mkdir(),
    ),
    'empty class': ('train/empty', lambda path: path.mkdir()),
    'class is a file': ('train/file', lambda path: path.write_bytes(b'')),
    'class is a pipe': ('train/pipe', os.mkfifo),
    'class links to its parent': (
        'train/loop',
        lambda path: path.symlink_to('..'),
    ),
    'test is a loop': ('test', lambda path: path.symlink_to('test')),
    'markup as a class': ('train/<b>', lambda path: path.mkdir()),
}


def image_folder(
    random: np.random.Generator, folder: pathlib.Path, _: Fixtures
) -> Try:
    """A run on a folder of images with one to three odd entries."""
    root, words, names = folder / 'data', [], []
    for split in ('train', 'validation'):
        for name in CLASSES:
            place = root / split / name
            place.mkdir(parents=True)
            for number in range(PER_CLASS):
                pixels = random.integers(256, size=(SIZE, SIZE, 3))
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(place / f'{number}.png')
    for _number in range(random.integers(1, 4)):
        table, place = ENTRIES, root
        if random.random() < 0.4:
            table = AT_THE_TOP
        else:
            split = ('train', 'validation')[random.integers(2)]
            place = root / split / CLASSES[random.integers(len(CLASSES))]
        word = sorted(table)[random.integers(len(table))]
        name, put = table[word]
        if not os.path.lexists(place / name):
            put(place / name)
            words.append(word)
            names.append(name)
    bad = ('error', 'skip')[random.integers(2)]
    fields = {
        'data.source': 'folder',
        'data.dir': str(root),
        'data.image_size': SIZE,
        'data.on_bad_image': bad,
    }
    for name in ('data.num_classes', 'data.channels', 'data.train_per_class'):
        fields[name] = None
    fields['data.test_per_class'] = None
    flags = [
        flag
        for flag in flags_of(folder / 'run', **fields)
        if not flag.endswith('=None')
    ]
    end = forked.run(MAIN, flags, folder / 'log')
    what = f'{", ".join(words)}; on_bad_image={bad}'
    if end.hung:
        return what, HANG
    if end.dumped or (end.status and not end.refused):
        return what, TRACEBACK
    if end.status:
        return what, LINE
    said = end.text + (folder / 'run/results.json').read_text()
    # A link to no class or a table that is not asked for changes nothing.
    harmless = {'labels.csv is a folder', 'test is a loop', 'empty class'}
    silent = [
        name
        for name, word in zip(names, words, strict=True)
        if word not in harmless and not named(name, said)
    ]
    if not silent:
        return what, LINE
    return what, STARTS if 'left out' in said else SILENT


def named(name: str, said: str) -> bool:
    """Whether a text has the name of a path, as it is or escaped."""
    escaped = name.encode('ascii', 'backslashreplace').decode()
    forms = (name, escaped, repr(name)[1:-1], pathlib.Path(name).name)
    return any(form in said for form in forms)
