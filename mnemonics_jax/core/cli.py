"""What all commands do: a mistake is one line, and Orbax is quiet."""

import errno
import logging as standard_logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import logging

# No space, no quota left, and a file larger than the system allows.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fail(error: BaseException | str) -> NoReturn:
    """Says what is wrong in one line and exits with 2."""
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)


def answer(command: Callable[[], None]) -> None:
    """Does what a command asks; a mistake is one line, and exits with 2.

    Args:
        command: raises ValueError or OSError for what a user can get wrong.
    """
    quieten()
    try:
        command()
    except BrokenPipeError:
        # Who reads has seen enough. Python would try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as e:
        fail(f'{e.filename}: {e.strerror}' if e.filename else e)
    except ValueError as e:
        fail(e)


def quieten() -> None:
    """Leaves what Orbax has to say to the errors that it raises.

    It tells of every file it writes and, in each of its threads, of errors that
    it raises as well. What else is under way then finds the event loop closed
    that waited for it.
    """
    logging.set_verbosity(logging.FATAL)
    asyncio_logger = standard_logging.getLogger('asyncio')
    asyncio_logger.setLevel(standard_logging.CRITICAL)
    usual = sys.unraisablehook

    def overlook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':
            usual(unraisable)

    sys.unraisablehook = overlook


def why_full(error: BaseException) -> str | None:
    """What the system says of a full disk, if that is why something failed.

    Args:
        error: what was raised, or what was raised on its account: Orbax and its
            storage put the system's words into errors of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        for number in _FULL:
            reason = os.strerror(number)
            if getattr(cause, 'errno', None) == number or reason in str(cause):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None
