"""The lock of a work directory: one command at a time writes to it.

`running.json` in the work directory says who holds it. On disk the holder has
locked the file (`flock`), which ends with its process and the forks of it,
however they end; most disks that machines share pass such locks on. A bucket
has no locks: there the holder writes the file again every few seconds, and one
that no longer changes is left from a process that was killed.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

NAME = 'running.json'
# Seconds between two writes to a bucket, and how long to wait for the next one.
BEAT_SECONDS = 10.0
WATCH_SECONDS = 35.0
# A bucket's object may be replaced by two commands at once: the last one wins,
# and both look after this time.
_SETTLE_SECONDS = 1.0
# What `flock` says where another process holds the file, what a full disk says,
# and what one without locks says.
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class InUseError(ValueError):
    """Another command writes to the work directory."""


class LostError(OSError):
    """The work directory was removed, renamed or taken by another command."""


@contextlib.contextmanager
def hold(root: epath.Path) -> Iterator['Lock']:
    """Holds the lock of a work directory, which is made if it is not there.

    Of several processes of a run, process 0 holds it; all of them call this.

    Args:
        root: work directory, on disk or in a bucket.

    Raises:
        InUseError: another command holds it, or it cannot be locked.
    """
    # Loads jax, which `--help` does without.
    from mnemonics_jax.core import multihost

    lock, error = Lock(root), None
    if multihost.is_main():
        lock = (_InBucket if '://' in os.fspath(root) else _OnDisk)(root)
    try:
        try:
            lock.take()
        except InUseError as e:
            error = e
        except Exception as e:  # A bucket's storage raises many types.
            if getattr(e, 'errno', None) in _FULL:
                raise
            why = ' '.join(str(getattr(e, 'strerror', None) or e).split())
            error = InUseError(f'--workdir={root}: cannot be locked: {why}')
        # All processes end, where one has to.
        if not multihost.all_agree(error is None):
            raise error or lock.in_use('')
        yield lock
    finally:
        lock.release()


class Lock:
    """A lock of a work directory; this class itself holds none."""

    def __init__(self, root: epath.Path) -> None:
        """Takes nothing yet."""
        self.root = root
        self.content = {
            'host': socket.gethostname(),
            'pid': os.getpid(),
            'since': datetime.datetime.now()
            .astimezone()
            .isoformat(timespec='seconds'),
            'token': uuid.uuid4().hex,
        }

    def take(self) -> None:
        """Takes the lock, or raises InUseError."""

    def check(self) -> None:
        """Raises LostError if the lock is not held any more."""

    def release(self) -> None:
        """Gives the lock back."""

    def lost(self) -> LostError:
        """The error for a work directory that is not the same any more."""
        return LostError(
            errno.ENOENT,
            'was removed, renamed or taken by another command during the run',
            str(self.root),
        )

    def in_use(self, text: str) -> InUseError:
        """The error for a lock that another process holds."""
        holder = ''
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(text)
            holder = (
                f' by process {found["pid"]} on {found["host"]} since '
                f'{found["since"]}'
            )
        return InUseError(
            f'--workdir={self.root}: in use{holder}: must be a directory that '
            'no other command writes to'
        )


def _no_link(path: str, flags: int) -> int:
    """Opens a file that will be overwritten; refuses a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class _OnDisk(Lock):
    """A lock of the system."""

    _file: Any = None

    def take(self) -> None:
        path = pathlib.Path(self.root) / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = open(path, 'a+', errors='replace', opener=_no_link)  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before may have removed it since it was opened.
                if _is_same(file, path):
                    break
                file.close()
            except OSError as e:
                file.seek(0)
                text = file.read()
                file.close()
                if e.errno in _HELD:
                    raise self.in_use(text) from e
                if e.errno in _WITHOUT_LOCKS:
                    print(
                        f'{self.root}: this disk has no locks: no other '
                        'command may write to it',
                        flush=True,
                    )
                    return
                raise
        self._file = file
        file.truncate(0)
        file.write(json.dumps(self.content))
        with contextlib.suppress(OSError):  # A full disk: held all the same.
            file.flush()

    def check(self) -> None:
        path = pathlib.Path(self.root) / NAME
        if self._file is not None and not _is_same(self._file, path):
            raise self.lost()

    def release(self) -> None:
        # A fork has the lock of the process that it comes from.
        if self._file is None or os.getpid() != self.content['pid']:
            return
        path = pathlib.Path(self.root) / NAME
        with self._file, contextlib.suppress(OSError):
            if _is_same(self._file, path):
                path.unlink()


def _is_same(file: Any, path: pathlib.Path) -> bool:
    """Whether the file at a path is this open one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


class _InBucket(Lock):
    """An object that is written again and again."""

    def __init__(self, root: epath.Path) -> None:
        super().__init__(root)
        self._path = root / NAME
        self._ended = threading.Event()
        self._is_lost = False
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        first = self._read()
        if first:
            print(
                f'{self.root}: has {NAME}: looking for {WATCH_SECONDS:.0f} s '
                'whether another command writes to it',
                flush=True,
            )
            end = time.monotonic() + WATCH_SECONDS
            while time.monotonic() < end:
                time.sleep(min(1.0, WATCH_SECONDS / 10))
                now = self._read()
                if not now:
                    break
                if now != first:
                    raise self.in_use(now)
        self._write()
        time.sleep(min(_SETTLE_SECONDS, WATCH_SECONDS / 10))
        if not self._is_own():
            raise self.in_use(self._read())
        self._thread.start()

    def check(self) -> None:
        if self._is_lost:
            raise self.lost()

    def release(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(Exception):  # The bucket's many types.
            if self._is_own():
                self._path.unlink()

    def _read(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ''

    def _write(self) -> None:
        self._path.write_text(json.dumps({**self.content, 'at': time.time()}))

    def _is_own(self) -> bool:
        return str(self.content['token']) in self._read()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A bucket that does not answer for a while is not lost.
            with contextlib.suppress(Exception):
                self._is_lost = not self._is_own()
                if self._is_lost:
                    return
                self._write()
