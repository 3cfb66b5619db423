"""What all commands share: one-line errors and a quiet Orbax."""

import argparse
import contextlib
import logging as standard_logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from absl import logging

from mnemonics_jax.core import dependencies, plugins, streams, system_errors


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits with status 2."""
        fail(message)


def fail(
    error: BaseException | str, status: int = system_errors.MISTAKE
) -> NoReturn:
    """Prints a one-line error and exits, by default with status 2."""
    streams.complain(f'error: {" ".join(str(error).split())}')
    sys.exit(status)


def answer(command: Callable[[], None]) -> None:
    """Runs a command; a user's mistake is one line and exit status 2.

    What the system refuses is one line too, see `dependencies.explained`.

    Args:
        command: raises ValueError or OSError for a user's mistake.
    """
    streams.prepare()
    quieten()
    try:
        with dependencies.explained():
            command()
    except BrokenPipeError:
        # The reader has closed the pipe; Python would write again on exit.
        streams.drop()
    except ValueError as e:
        fail(e)
    except BaseException as e:
        fail_in_plugin(e)
        raise
    check_output()


def check_output() -> None:
    """Ends a command that could not print: one line, status `streams.LOST`."""
    if (line := streams.lost()) is not None:
        fail(line, streams.LOST)


@contextlib.contextmanager
def after(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Calls a function, in a thread, if the block takes longer."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def warn(line: str | None) -> None:
    """Prints a warning, if there is one, where it is not in the results."""
    if line is not None:
        print(f'warning: {line}', file=sys.stderr)


def fail_in_plugin(error: BaseException) -> None:
    """Fails with one line if a plug-in's function raised the error."""
    if (line := plugins.explain(error)) is not None:
        fail(line)


def quieten() -> None:
    """Silences Orbax's logs; its errors are raised all the same.

    Orbax logs every file that it writes and, in each of its threads, errors
    that it also raises. After an error, its other tasks find their event loop
    closed or half made, and Python prints that too.
    """
    logging.set_verbosity(logging.FATAL)
    asyncio_logger = standard_logging.getLogger('asyncio')
    asyncio_logger.setLevel(standard_logging.CRITICAL)
    default_hook = sys.unraisablehook

    def ignore_closed_loop(unraisable: Any) -> None:
        text = str(unraisable.exc_value)
        if text != 'Event loop is closed' and '_UnixSelector' not in text:
            default_hook(unraisable)

    sys.unraisablehook = ignore_closed_loop
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
