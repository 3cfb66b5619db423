"""`files.json`: size and SHA-256 of the files of a run, so that damage shows.

An entry is taken out before its file is written and put in again after, so that
a run killed at any moment leaves no entry that a good file differs from. A file
without an entry is not checked: runs of older versions have no `files.json`.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from mnemonics_jax.core.regular import regular
from mnemonics_jax.core.rules import TEXT, at_least
from mnemonics_jax.core.schema import check

NAME = 'files.json'
# Entries of these are of their first bytes: lines are added to them.
GROWING = ('metrics.jsonl',)
# File -> 'bytes' and 'sha256', in hexadecimal.
Entries = dict[str, dict[str, Any]]

_FORM = {
    'files': {...: {'bytes': at_least(0), 'sha256': TEXT}},
    'sha256': TEXT,
}
_PIECE = 2**20


def read(folder: pathlib.Path) -> Entries:
    """The entries of a work directory; {} if it has no manifest.

    Raises:
        ValueError: the manifest is damaged.
    """
    try:
        content = json.loads(regular(folder / NAME).read_text())
        check(content, _FORM)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        content = {'files': {}, 'sha256': ''}
    if content['sha256'] != _digest(content['files']):
        raise ValueError(f'{NAME} is damaged')
    return content['files']


def unchecked(folder: pathlib.Path) -> list[str]:
    """A line to print if the manifest is damaged; [] if it is not."""
    try:
        read(folder)
    except ValueError as e:
        return [f'{e}: the files of the run are not checked']
    return []


def text(entries: Entries) -> str:
    """The content of a manifest with these entries, and a digest of them."""
    content = {'files': entries, 'sha256': _digest(entries)}
    return json.dumps(content, indent=1, sort_keys=True) + '\n'


def damage(folder: pathlib.Path, name: str) -> str | None:
    """What is wrong with a file, in words that follow its name; None: nothing.

    A file without an entry is right, and any is if the manifest is damaged.

    Args:
        folder: work directory.
        name: path of the file in it.
    """
    before: Any = None
    while True:
        try:
            entry = read(folder).get(name)
        except ValueError:
            return None
        if entry is None:
            return None
        found = _compared(folder / name, entry, name in GROWING)
        # A run may have written the file since its entry was read.
        if found is None or entry == before:
            return found
        before = entry


def _compared(
    path: pathlib.Path, entry: dict[str, Any], grows: bool
) -> str | None:
    try:
        size = path.stat().st_size
        if size < entry['bytes'] or (size > entry['bytes'] and not grows):
            return f'is damaged: {size} bytes instead of {entry["bytes"]}'
        if _entry(path, entry['bytes'])['sha256'] != entry['sha256']:
            return 'is damaged: not what the run wrote'
    except FileNotFoundError:
        return 'is missing'
    except OSError as e:
        return f'cannot be read: {e.strerror}'
    return None


@contextlib.contextmanager
def writing(folder: pathlib.Path, names: Sequence[str]) -> Iterator[None]:
    """Takes out the entries of files while the caller writes them.

    A growing file that is damaged keeps its entry, by which it shows.

    Args:
        folder: work directory.
        names: paths of the files in it; those that are not there afterwards
            have no entry.
    """
    kept = [n for n in names if n in GROWING and damage(folder, n)]
    names = [name for name in names if name not in kept]
    drop(folder, names)
    yield
    add(folder, names)


def drop(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Takes out entries."""
    entries = known(folder)
    left = {n: entry for n, entry in entries.items() if n not in names}
    if left != entries:
        _write(folder, left)


def add(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Puts in entries of files, of those that are there."""
    found = {n: _entry(folder / n) for n in names if (folder / n).is_file()}
    if found:
        _write(folder, known(folder) | found)


def known(folder: pathlib.Path) -> Entries:
    """The entries; {} in place of a damaged manifest."""
    try:
        return read(folder)
    except ValueError:
        return {}


def _write(folder: pathlib.Path, entries: Entries) -> None:
    draft = folder / f'{NAME}.tmp'
    draft.write_text(text(entries))
    draft.replace(folder / NAME)


def _entry(path: pathlib.Path, most: int | None = None) -> dict[str, Any]:
    """The entry of a file, or of its first `most` bytes."""
    digest, left = hashlib.sha256(), most
    with regular(path, None).open('rb') as file:
        while data := file.read(_PIECE if left is None else min(_PIECE, left)):
            digest.update(data)
            left = None if left is None else left - len(data)
        size = file.tell()
    return {'bytes': size, 'sha256': digest.hexdigest()}


def _digest(entries: Entries) -> str:
    return hashlib.sha256(
        json.dumps(entries, sort_keys=True).encode()
    ).hexdigest()
