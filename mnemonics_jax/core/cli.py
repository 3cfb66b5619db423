"""What all commands share: one-line errors and a quiet Orbax."""

import argparse
import errno
import logging as standard_logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import logging

from mnemonics_jax.core import dependencies, plugins

# No space left, no quota left, and a file larger than the system allows.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits with status 2."""
        fail(message)


def fail(error: BaseException | str) -> NoReturn:
    """Prints a one-line error and exits with status 2."""
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)


def answer(command: Callable[[], None]) -> None:
    """Runs a command; a user's mistake is one line and exit status 2.

    Args:
        command: raises ValueError or OSError for a user's mistake.
    """
    quieten()
    try:
        with dependencies.explained():
            command()
    except BrokenPipeError:
        # The reader has closed the pipe; Python would write again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as e:
        fail(f'{e.filename}: {e.strerror}' if e.filename else e)
    except ValueError as e:
        fail(e)
    except Exception as e:
        fail_in_plugin(e)
        raise


def warn(line: str | None) -> None:
    """Prints a warning, if there is one, where it is not in the results."""
    if line is not None:
        print(f'warning: {line}', file=sys.stderr)


def fail_in_plugin(error: Exception) -> None:
    """Fails with one line if a plug-in's function raised the error."""
    if (line := plugins.explain(error)) is not None:
        fail(line)


def quieten() -> None:
    """Silences Orbax's logs; its errors are raised all the same.

    Orbax logs every file that it writes and, in each of its threads, errors
    that it also raises. After an error, its other tasks find their event loop
    closed, and Python prints that too.
    """
    logging.set_verbosity(logging.FATAL)
    asyncio_logger = standard_logging.getLogger('asyncio')
    asyncio_logger.setLevel(standard_logging.CRITICAL)
    default_hook = sys.unraisablehook

    def ignore_closed_loop(unraisable: Any) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':
            default_hook(unraisable)

    sys.unraisablehook = ignore_closed_loop


def why_full(error: BaseException) -> str | None:
    """The system's message for a full disk if that caused an error, else None.

    Args:
        error: the error; its causes are searched too, since Orbax and its
            storage put the system's message into errors of their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        for number in _FULL:
            reason = os.strerror(number)
            if getattr(cause, 'errno', None) == number or reason in str(cause):
                return reason
        cause = cause.__cause__ or cause.__context__
    return None
