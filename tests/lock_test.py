"""Work directories: one command at a time, also after kills and removals."""

import errno
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time

import compiling
import pytest
from command import ROOT, assert_refused, call_main
from etils import epath

from mnemonics_jax.core import lock
from tests.conftest import tiny_config

HOLDER = """
import sys
from etils import epath
from mnemonics_jax.core import lock
with lock.hold(epath.Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / 'run'`."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(tmp_path / 'run')],
        cwd=ROOT,
        env=compiling.one_device(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.communicate()


def is_free(root):
    with lock.hold(epath.Path(root)):
        return True


def test_a_second_command_is_one_line_until_the_first_one_is_killed(
    holder, tmp_path
):
    root = tmp_path / 'run'
    flags = '--config=configs/digits.py', '--config.report=false'
    done = call_main(*flags, f'--workdir={root}')
    assert_refused(done, f'--workdir={root}: in use by process {holder.pid} on')
    assert not (root / 'results.json').exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (root / lock.NAME).exists()
    assert is_free(root)
    assert not (root / lock.NAME).exists()


def test_a_lock_that_is_given_back_is_free(holder, tmp_path):
    with pytest.raises(lock.InUseError):
        is_free(tmp_path / 'run')
    holder.communicate('\n')
    assert is_free(tmp_path / 'run')


@pytest.mark.parametrize('leave', [shutil.rmtree, lambda p: p.rename(f'{p}2')])
def test_a_directory_that_is_not_there_any_more_is_lost(tmp_path, leave):
    root = tmp_path / 'run'
    with lock.hold(epath.Path(root)) as held:
        held.check()
        leave(root)
        with pytest.raises(lock.LostError, match='removed, renamed'):
            held.check()
    assert not root.exists()  # Giving it back makes none.


def test_a_run_whose_directory_is_removed_ends_in_one_line(
    tmp_path, monkeypatch
):
    from mnemonics_jax.experiment import phase_loop

    root, run_phase = tmp_path / 'run', phase_loop.run_phase

    def remove(*given):
        found = run_phase(*given)
        shutil.rmtree(root)
        return found

    monkeypatch.setattr(phase_loop, 'run_phase', remove)
    fields = {
        'data.source': 'synthetic',
        'data.num_classes': 2,
        'data.image_size': 8,
        'data.train_per_class': 4,
        'data.test_per_class': 2,
        'backbone.name': 'convnet_tiny',
        'protocol.base_classes': 2,
        'protocol.phases': 0,
        'train.epochs': 1,
        'train.schedule': 'cosine',
        'finetune.epochs': 1,
        'exemplars.strategy': 'random',
        'exemplars.per_class': 2,
        'data.feed': 'device',
    }
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    done = call_main(f'--workdir={root}', *flags)
    assert_refused(done, f'--workdir={root}: was removed, renamed or taken')
    assert not root.exists()


def test_a_run_begun_by_another_command_is_not_taken_over(tmp_path):
    from mnemonics_jax import experiment

    root, config = tmp_path / 'run', tiny_config.__wrapped__()
    parts = experiment.prepare(config, root)
    shutil.rmtree(root)
    config.seed = 7
    experiment.prepare(config, root)
    with pytest.raises(lock.InUseError, match='seed'):
        experiment.run(parts, root)


def test_a_disk_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def refuse(*given):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with lock.hold(epath.Path(tmp_path)) as held:
        assert 'has no locks' in capsys.readouterr().out
        assert is_free(tmp_path)
        held.check()


def test_what_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / lock.NAME).mkdir()
    with pytest.raises(lock.InUseError, match='cannot be locked: Is a dir'):
        is_free(tmp_path)


def test_a_link_in_place_of_the_lock_is_refused_and_not_followed(tmp_path):
    other = tmp_path / 'other.txt'
    other.write_text('of somebody')
    (tmp_path / lock.NAME).symlink_to(other)
    with pytest.raises(lock.InUseError, match='cannot be locked: Too many'):
        is_free(tmp_path)
    assert other.read_text() == 'of somebody'


# In a bucket: a folder stands for it, and what is slow is fast.


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'BEAT_SECONDS', 0.05)
    monkeypatch.setattr(lock, 'WATCH_SECONDS', 1.0)
    root = epath.Path(tmp_path)

    def write(self):  # A bucket shows an object whole or not at all.
        draft = root / str(self.content['token'])
        draft.write_text(json.dumps({**self.content, 'at': time.time()}))
        draft.replace(root / lock.NAME)

    monkeypatch.setattr(lock._InBucket, '_write', write)
    made = lock._InBucket(root)
    made.take()
    yield made
    made.release()


def test_a_holder_in_a_bucket_is_seen_to_write(bucket, capsys):
    with pytest.raises(lock.InUseError, match=r'in use by process \d+ on '):
        lock._InBucket(bucket.root).take()
    assert 'looking for 1 s' in capsys.readouterr().out
    bucket.check()
    bucket.release()
    assert not (bucket.root / lock.NAME).exists()


def test_a_holder_in_a_bucket_that_was_killed_is_followed(bucket):
    bucket._ended.set()  # Nothing writes any more.
    bucket._thread.join()
    after = lock._InBucket(bucket.root)
    after.take()
    after.check()
    after.release()


def test_a_holder_in_a_bucket_notices_another_one(bucket):
    other = {**bucket.content, 'token': 'another'}
    (bucket.root / lock.NAME).write_text(json.dumps(other))
    end = time.monotonic() + 30
    while bucket._thread.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(lock.LostError):
        bucket.check()
    bucket.release()  # It leaves the other's.
    assert 'another' in (bucket.root / lock.NAME).read_text()
