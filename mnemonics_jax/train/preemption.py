"""SIGTERM and SIGINT: stop where nothing is lost.

Cloud machines announce that they are taken away by SIGTERM, and give about
thirty seconds.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

# What an interrupted run exits with: "temporary failure, try again" in BSD's
# list of exit codes.
EXIT_CODE = 75
# Work between two steps (an evaluation, a compilation) may take longer than a
# machine has left. The last checkpoint holds then.
GRACE_SECONDS = 25

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptError(RuntimeError):
    """The run was asked to stop, and has saved where it was."""


class Interrupt:
    """Notes a request to stop, while it is entered."""

    def __init__(self) -> None:
        """Nothing is requested yet."""
        self.signal: str | None = None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> 'Interrupt':
        # Handlers belong to the main thread; elsewhere, whoever called this as
        # a function keeps theirs.
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note) for number in _SIGNALS
            }
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # Asked twice: at once.
            os._exit(EXIT_CODE)
        self.signal = signal.Signals(number).name
        self._timer = threading.Timer(GRACE_SECONDS, os._exit, [EXIT_CODE])
        self._timer.daemon = True
        self._timer.start()
