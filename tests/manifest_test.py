"""`files.json`: what it vouches for, and that no kill makes it accuse."""

import hashlib
import json
import os

import pytest
from etils import epath

from mnemonics_jax.core import manifest, workdir
from mnemonics_jax.core.workdir import METRICS, write_atomically
from tests.made_runs import fill

URL = 'gs://bucket/run'
NAMES = ('a.json', 'b/c.npz', METRICS)


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


# What happens to a file; None: it is removed.
DAMAGE = {
    'flip': flip,
    'cut': lambda data: data[: len(data) // 2],
    'zero': lambda data: bytes(len(data)),
    'gone': None,
}


def harm(path, how):
    if how is None:
        path.unlink()
    else:
        path.write_bytes(how(path.read_bytes()))


def write(folder, text):
    """Writes all files anew, as a run does at the end of a phase."""
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with manifest.writing(folder, [name]):
            write_atomically(folder / name, f'{text} of {name}\n' * 3)


def damaged(folder):
    return [name for name in NAMES if manifest.damage(folder, name)]


class KillError(BaseException):
    """Ends what a signal would end that nothing catches."""


@pytest.fixture
def killed(monkeypatch):
    """Calls a function that dies at the n-th of some operations."""

    def call(function, n, *operations):
        done = []

        def counted(operation):
            def called(*arguments, **more):
                done.append(operation)
                if len(done) > n:
                    raise KillError
                return operation(*arguments, **more)

            return called

        with monkeypatch.context() as patch:
            for place, name in operations:
                patch.setattr(place, name, counted(getattr(place, name)))
            try:
                function()
            except KillError:
                return True
        return False

    return call


def test_entries_are_sizes_and_sha256(tmp_path):
    write(tmp_path, 'one')
    expected = {}
    for name in NAMES:
        data = (tmp_path / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        expected[name] = {'bytes': len(data), 'sha256': digest}
    assert manifest.read(tmp_path) == expected
    content = json.loads((tmp_path / manifest.NAME).read_text())
    assert content['files'] == expected


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('kind', DAMAGE)
def test_damage_shows(tmp_path, name, kind):
    write(tmp_path, 'one')
    size = (tmp_path / name).stat().st_size
    harm(tmp_path / name, DAMAGE[kind])
    assert damaged(tmp_path) == [name]
    said = {
        'gone': 'is missing',
        'cut': f'is damaged: {size // 2} bytes instead of {size}',
    }
    assert manifest.damage(tmp_path, name) == said.get(
        kind, 'is damaged: not what the run wrote'
    )


def test_lines_are_added_to_a_growing_file_alone(tmp_path):
    write(tmp_path, 'one')
    for name in NAMES:
        with (tmp_path / name).open('a') as file:
            file.write('more\n')
    assert damaged(tmp_path) == ['a.json', 'b/c.npz']


def test_a_damaged_growing_file_is_not_vouched_for_later(tmp_path):
    write(tmp_path, 'one')
    harm(tmp_path / METRICS, flip)
    with manifest.writing(tmp_path, [METRICS]), (tmp_path / METRICS).open('a'):
        pass
    assert damaged(tmp_path) == [METRICS]


def test_without_a_manifest_nothing_is_accused(tmp_path):
    fill(tmp_path / 'run')
    assert manifest.read(tmp_path / 'run') == {}
    assert manifest.damage(tmp_path / 'run', 'results.json') is None
    assert manifest.damage(tmp_path / 'run', 'no such file') is None


def test_any_flipped_bit_of_the_manifest_shows_or_changes_nothing(tmp_path):
    write(tmp_path, 'one')
    path, before = tmp_path / manifest.NAME, manifest.read(tmp_path)
    data, seen = path.read_bytes(), 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        if manifest.unchecked(tmp_path):
            seen += 1
            assert damaged(tmp_path) == []  # No good file is accused.
        else:
            assert manifest.read(tmp_path) == before
    assert seen > len(data) // 2


def test_a_kill_at_any_moment_accuses_no_file(tmp_path, killed):
    operations = (manifest, '_write'), (workdir, 'write_atomically')
    for n in range(10):
        folder = tmp_path / str(n)
        write(folder, 'one')
        # An entry out, a file, an entry in, for each file.
        assert killed(rewrite(folder), n, *operations) == (n < 9)
        assert damaged(folder) == []
    assert manifest.read(folder).keys() == set(NAMES)


def rewrite(folder):
    """As `write`, with the function that a test has replaced."""

    def call():
        for name in NAMES:
            with manifest.writing(folder, [name]):
                workdir.write_atomically(folder / name, f'two of {name}\n')

    return call


def test_a_file_that_is_written_while_it_is_checked_is_not_accused(
    tmp_path, monkeypatch
):
    write(tmp_path, 'one')
    compared, texts = manifest._compared, ['two', 'three']

    def late(*arguments):
        if texts:
            write(tmp_path, texts.pop())
        return compared(*arguments)

    monkeypatch.setattr(manifest, '_compared', late)
    assert damaged(tmp_path) == []
    assert texts == []


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder where `URL` leads."""
    folder = tmp_path / 'bucket'
    (folder / 'b').mkdir(parents=True)
    monkeypatch.setattr(
        workdir,
        'address',
        lambda path: epath.Path(folder) if os.fspath(path) == URL else None,
    )
    return folder


def test_files_are_fetched_with_the_manifest_that_belongs_to_them(
    bucket, monkeypatch
):
    """A run copies new ones to the bucket while another command fetches."""
    with workdir.Workdir(URL) as writer, workdir.Workdir(URL) as reader:
        write(writer.local, 'old')
        writer.sync()
        fetch, texts = workdir.Workdir.fetch, ['newest', 'newer']

        def slow(place, name):
            fetch(place, name)
            if texts and name == manifest.NAME:
                write(writer.local, texts.pop())
                writer.sync()

        with monkeypatch.context() as patch:
            patch.setattr(workdir.Workdir, 'fetch', slow)
            reader.fetch_checked(NAMES)
        assert damaged(reader.local) == []
        assert manifest.read(reader.local) == manifest.read(bucket)
        assert 'newest' in (reader.local / NAMES[0]).read_text()


def test_a_kill_between_copies_to_a_bucket_accuses_no_file(bucket, killed):
    for n in range(5):
        with workdir.Workdir(URL) as place:
            write(place.local, 'old')
        with workdir.Workdir(URL) as place:
            for name in (manifest.NAME, *NAMES):
                place.fetch(name)
            write(place.local, f'attempt {n}')
            # Three files, then the manifest.
            assert killed(place.sync, n, (workdir.Workdir, 'put')) == (n < 4)
            assert damaged(bucket) == []
            ours = manifest.read(place.local)
    for name in NAMES:
        assert 'attempt 4' in (bucket / name).read_text()
    assert manifest.read(bucket) == ours
    assert ours.keys() == set(NAMES)
