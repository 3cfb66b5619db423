"""Tests of disks that are full or read-only, none of them made up."""

import contextlib
import functools
import http.server
import os
import pathlib
import resource
import threading

import numpy as np
import pytest
from data_tfds_test import CIFAR, write_set

from mnemonics_jax.data import sources
from mnemonics_jax.data.sources import _tfds_builders, tfds


def keep_labels_in(tmp_path, target):
    """A set whose file of labels is going to be written into another file."""
    builder = write_set('cifar100', tmp_path, CIFAR, 'array_record')
    name = 'mnemonics_labels_train.npy'
    folder = pathlib.Path(builder.data_path)
    (folder / f'{name}.incomplete.{os.getpid()}').symlink_to(target)
    return folder / name


@pytest.mark.skipif(
    not pathlib.Path('/dev/full').exists(), reason='no device is always full'
)
def test_a_full_disk_under_the_labels_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    path = keep_labels_in(tmp_path, '/dev/full')
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', {'name': 'cifar100', 'dir': str(tmp_path)})
    assert str(error.value) == (
        f'{path}: cannot be written: No space left on device'
    )
    assert not list(path.parent.glob('mnemonics_labels*'))


@pytest.mark.skipif(
    not pathlib.Path('/sys').exists(), reason='nothing is always read-only'
)
def test_labels_in_a_read_only_place_are_no_failure(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    path = keep_labels_in(tmp_path, '/sys/labels.npy')
    options = {'name': 'cifar100', 'dir': str(tmp_path)}
    source = sources.make_source('tfds', options)
    assert len(source.labels['train']) == 500
    assert f'{path}: cannot be written: ' in caplog.text
    assert [file.name for file in path.parent.glob('mnemonics_labels*')] == [
        'mnemonics_labels_test.npy'
    ]


def test_labels_are_kept_whatever_else_goes_wrong(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    builder = write_set('cifar100', tmp_path, CIFAR, 'array_record')
    path = builder.data_path / 'mnemonics_labels_train.npy'
    path.mkdir()  # No file can take its place.
    options = {'name': 'cifar100', 'dir': str(tmp_path)}
    assert len(sources.make_source('tfds', options).labels['train']) == 500
    assert f'{path}: cannot be written: ' in caplog.text
    assert not list(path.parent.glob('*incomplete*'))


@contextlib.contextmanager
def no_file_above(num_bytes):
    """Lets no file grow larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(directory):
    return [path for path in directory.rglob('*') if not path.is_dir()]


def refused(directory):
    """What is said when TFDS cannot prepare a set for lack of space."""
    options = {'name': 'cifar100', 'dir': str(directory)}
    with no_file_above(200_000), pytest.raises(ValueError) as error:
        sources.make_source('tfds', options)
    message = str(error.value)
    assert '\n' not in message
    assert message.startswith(
        f"data.name='cifar100': no space to prepare it in {directory}/cifar100/"
        '3.0.2: '
    )
    return message


def change_splits(monkeypatch, function):
    """What takes the place of cifar100's own download."""
    builder = _tfds_builders.library().builder_cls('cifar100')
    monkeypatch.setattr(builder, '_split_generators', function)


@pytest.mark.parametrize('has_array_record', [True, False])
def test_a_full_disk_under_the_records(tmp_path, monkeypatch, has_array_record):
    if not has_array_record:
        find_spec = _tfds_builders.importlib.util.find_spec
        monkeypatch.setattr(
            _tfds_builders.importlib.util,
            'find_spec',
            lambda name: name != 'array_record' and find_spec(name),
        )
    change_splits(
        monkeypatch,
        lambda *managers: {
            split: iter(list(enumerate(examples)))
            for split, examples in CIFAR.items()
        },
    )
    assert 'File too large' in refused(tmp_path)
    assert files_in(tmp_path) == []
    # With space again, it is prepared as if nothing had happened.
    options = {'name': 'cifar100', 'dir': str(tmp_path)}
    source = sources.make_source('tfds', options)
    assert source.read('train', np.arange(500)).shape == (500, 32, 32, 3)


@pytest.fixture(name='address')
def _address(tmp_path_factory):
    """The address of a file of 400 kB that can be downloaded."""
    folder = tmp_path_factory.mktemp('served')
    (folder / 'data.bin').write_bytes(bytes(400_000))
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}/data.bin'
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_full_disk_under_the_download(tmp_path, monkeypatch, address):
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    change_splits(
        monkeypatch, lambda _, manager: {'train': manager.download(address)}
    )
    downloads = tmp_path / 'downloads' / 'cifar100'
    theirs = downloads / 'other.bin.tmp.0123'
    theirs.mkdir(parents=True)
    assert 'File too large' in refused(tmp_path)
    assert files_in(tmp_path) == []
    assert list(downloads.iterdir()) == [theirs]  # Of another process.
