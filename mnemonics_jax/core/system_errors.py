"""What the system refuses, as one line: files, memory, threads, disk space.

The only place that does so, used by all commands through
`dependencies.explained`. Imports the standard library alone, so that it also
serves while packages are imported.
"""

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

# Exit status where a limit of the system is reached: EX_OSERR of BSD's
# sysexits.h.
LIMIT = 71
# Exit status of a user's mistake, as of argparse.
MISTAKE = 2
# No space left, no quota left, and a file larger than the system allows.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Line(NamedTuple):
    """How a command ends.

    Attributes:
        text: the line, without 'error: '.
        status: the exit status.
    """

    text: str
    status: int


class _Limit(NamedTuple):
    """A limit of the system, and how it shows.

    Attributes:
        numbers: values of `errno`.
        texts: parts of messages of libraries, which raise types of their own.
        line: what is said of it.
    """

    numbers: tuple[int, ...]
    texts: tuple[str, ...]
    line: str


_LIMITS = (
    _Limit(
        (errno.EMFILE, errno.ENFILE),
        (os.strerror(errno.EMFILE), os.strerror(errno.ENFILE)),
        'too many open files: the limit of the process or of the system must '
        'be higher (ulimit -n)',
    ),
    _Limit(
        (errno.ENOMEM,),
        (
            os.strerror(errno.ENOMEM),
            'std::bad_alloc',
            'failed to map segment from shared object',
        ),
        'out of memory on the host: the process needs more than the machine '
        'or its limit (ulimit -v) has',
    ),
    _Limit(
        (),
        (os.strerror(errno.EAGAIN), "can't start new thread"),
        'no more threads or processes: the limit of the user or of the '
        'system must be higher (ulimit -u)',
    ),
)


def explain(error: BaseException) -> Line | None:
    """The line for an error of the system; None for any other error.

    A ValueError has its own line, which the command prints.
    """
    if isinstance(error, UnicodeDecodeError):
        return Line(f'a text that is not UTF-8: {error}', MISTAKE)
    if isinstance(error, ValueError):
        return None
    if (text := why_limited(error)) is not None:
        return Line(text, LIMIT)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        place = '' if error.filename is None else f'{error.filename}: '
        return Line(f'{place}{reason}', MISTAKE)
    return None


def why_limited(error: BaseException) -> str | None:
    """What to say if a limit of the system caused an error, else None.

    Args:
        error: the error; its causes are searched too.
    """
    for cause in _causes(error):
        number, text = getattr(cause, 'errno', None), str(cause)
        for limit in _LIMITS:
            if number in limit.numbers or any(t in text for t in limit.texts):
                return limit.line
        if isinstance(cause, MemoryError):
            # NumPy says how much it asked for.
            return f'{_LIMITS[1].line}{f" ({text})" if text else ""}'
    return None


def why_full(error: BaseException) -> str | None:
    """The system's message for a full disk if that caused an error, else None.

    Args:
        error: the error; its causes are searched too, since Orbax and its
            storage put the system's message into errors of their own.
    """
    for cause in _causes(error):
        for number in _FULL:
            reason = os.strerror(number)
            if getattr(cause, 'errno', None) == number or reason in str(cause):
                return reason
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
