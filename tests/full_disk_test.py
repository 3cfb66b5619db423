"""A full disk: a line, nothing lost, and the same results with room again."""

import contextlib
import errno
import io
import json
import os
import pathlib
import resource
import subprocess
import sys

import compiling
import pytest
from command import assert_refused, call_main
from data_folder_test import photo
from data_tfds_test import write_set

from mnemonics_jax.core.system_errors import why_full
from mnemonics_jax.train.tensorboard import Events

ROOT = pathlib.Path(__file__).parent.parent
UNSHARE = ['unshare', '--mount', '--map-root-user']


def may_mount():
    """Whether a process may have file systems of its own, as on Linux."""
    try:
        return not subprocess.run([*UNSHARE, 'true']).returncode
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_disk_that_fills_anywhere_costs_a_line_and_no_result(tmp_path):
    command = [sys.executable, 'tests/full_disk.py', str(tmp_path)]
    if may_mount():
        command = [*UNSHARE, *command]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=compiling.one_device(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    # Orbax and its storage have threads that would say something, too.
    assert done.stderr == ''
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found['places']) == 7
    for place, ended in found['places'].items():
        assert ended['code'] == 2, place
        (line,) = ended['err'].splitlines()
        assert line.startswith(f'error: --workdir={tmp_path}/run: ')
        full = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG))
        assert any(reason in line for reason in full)
        kept = ', '.join(ended['kept']) or 'none yet'
        assert f'; checkpoints: {kept}; ' in line
    assert found['last']['code'] == 0
    assert found['differences'] == []
    # It went on from what was kept, and not from the beginning.
    outputs = [ended['out'] for ended in found['places'].values()]
    assert sum('resuming' in out for out in outputs) >= 4
    assert 'already finished' in found['last']['out']


@pytest.fixture
def small_files():
    """No file may grow beyond 1,500 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_too_full_for_the_labels_is_refused(tmp_path, request):
    """They are kept for sets that are not held in memory."""
    file = io.BytesIO()
    photo().save(file, 'PNG')
    examples = [
        {'image': io.BytesIO(file.getvalue()), 'label': number % 101}
        for number in range(505)
    ]
    splits = {'train': examples, 'validation': examples[:101]}
    builder = write_set('food101', tmp_path, splits, 'array_record')
    request.getfixturevalue('small_files')
    done = call_main(
        '--config=configs/cifar100.py',
        f'--workdir={tmp_path / "run"}',
        '--config.data.source=tfds',
        '--config.data.name=food101',
        f'--config.data.dir={tmp_path}',
        '--config.data.image_size=8',
    )
    path = builder.data_path / 'mnemonics_labels_train.npy'
    assert_refused(done, f'{path}: cannot be written: File too large')
    assert not list(builder.data_path.glob('mnemonics_labels_train*'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_seen_through_the_errors_around_it(number):
    reason = os.strerror(number)
    assert why_full(OSError(number, reason)) == reason
    # As Orbax' storage says it.
    text = f'RESOURCE_EXHAUSTED: Failed to write 9 bytes: {reason} [os_error]'
    assert why_full(ValueError(text)) == reason
    try:
        try:
            raise OSError(number, reason)
        finally:
            raise KeyError('closing')
    except KeyError as e:
        assert why_full(e) == reason


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.EACCES, os.strerror(errno.EACCES)),
        RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'),
    ],
)
def test_other_failures_are_no_full_disk(error):
    assert why_full(error) is None


def test_events_that_cannot_be_written_are_an_error(tmp_path):
    """And no thread that waits for ever."""
    events = Events(tmp_path, None)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    with open('/dev/full', 'wb') as full:
        # The file's number now stands for a device without room.
        os.dup2(full.fileno(), events._file.fileno())
    with pytest.raises(OSError) as caught:
        events.scalars(1, {'loss': 0.5}, 'epoch')
    assert why_full(caught.value) == os.strerror(errno.ENOSPC)
    assert path.stat().st_size == size
    with contextlib.suppress(OSError):  # What it still holds.
        events.close(finished=False)
