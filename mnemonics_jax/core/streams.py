"""The standard streams of a command, which may be closed, full or endless.

Imports the standard library alone, as `dependencies` does.
"""

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, NoReturn

# Exit status of a command that did all of its work but could not print what it
# found: EX_IOERR of BSD's sysexits.h.
LOST = 74


class _Output(io.RawIOBase):
    """Standard output whose errors are kept for the end of the command.

    A run of hours must not end because nobody can read its progress: its files
    are what it is for.

    Attributes:
        error: the first error, if any.
    """

    def __init__(self, *, is_open: bool) -> None:
        """Writes nothing yet."""
        self._is_open = is_open
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def isatty(self) -> bool:
        return self._is_open and os.isatty(1)

    def write(self, data: Any) -> int:
        try:
            if not self._is_open:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            while True:
                try:
                    return os.write(1, data)
                except BlockingIOError:  # A full pipe that does not wait.
                    select.select([], [1], [])
        except BrokenPipeError:  # A reader that has seen enough: no error.
            raise
        except OSError as e:
            self.error = self.error or e
            return len(data)


def prepare() -> None:
    """Prepares the streams of this process, once, if they are its own.

    Closed ones are opened on nothing, lest the next file that is opened takes
    their place. Standard input is empty unless it is a terminal: no command
    reads it, and a configuration or plug-in that does would wait for ever.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdin is sys.__stdin__ and not (sys.stdin and sys.stdin.isatty()):
        sys.stdin = open(os.devnull)  # noqa: SIM115
        os.dup2(sys.stdin.fileno(), 0)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, 'w')  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        before: Any = sys.stdout
        if before is not None:
            before.flush()
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(is_open=before is not None)),
            encoding=getattr(before, 'encoding', 'utf-8'),
            errors=getattr(before, 'errors', 'strict'),
            line_buffering=getattr(before, 'line_buffering', False),
            write_through=getattr(before, 'write_through', False),
        )


def lost() -> str | None:
    """What to say if something that was printed is lost, else None."""
    output: Any = sys.stdout
    try:
        output.flush()
    except BrokenPipeError:
        drop()
    raw = getattr(getattr(output, 'buffer', None), 'raw', None)
    if not isinstance(raw, _Output) or raw.error is None:
        return None
    return (
        f'stdout: {raw.error.strerror}: what the command printed is lost; '
        'its files are complete'
    )


def drop() -> None:
    """Drops what is printed from now on: the reader has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(line: str) -> None:
    """Prints a line on standard error, if anyone can read it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr or open(os.devnull, 'w'), flush=True)  # noqa: SIM115


def leave(status: int) -> NoReturn:
    """Ends the process without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)
