"""Checkpoint and exit on SIGTERM or SIGINT.

A preempted cloud machine gets SIGTERM about thirty seconds before it stops.
`train.loop` sees the request after a step, saves a checkpoint and raises
`InterruptError`; `main` then exits with `EXIT_CODE`.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

# Exit code of an interrupted run: EX_TEMPFAIL of BSD's sysexits.h, "temporary
# failure, try again".
EXIT_CODE = 75
# Work between two steps (an evaluation, a compilation) may take longer than the
# machine has left. The process then exits, and the last checkpoint counts.
GRACE_SECONDS = 25

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptError(RuntimeError):
    """The run has saved a checkpoint because it was asked to stop."""


class Interrupt:
    """Context manager that records a request to stop.

    Attributes:
        signal: name of the signal received, or None.
    """

    def __init__(self) -> None:
        """Installs no handler yet."""
        self.signal: str | None = None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> 'Interrupt':
        # Only the main thread can set handlers; in another one the caller's
        # handlers stay.
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
        if self.signal is not None:  # Second signal: exit at once.
            os._exit(EXIT_CODE)
        self.signal = signal.Signals(number).name
        self._timer = threading.Timer(GRACE_SECONDS, os._exit, [EXIT_CODE])
        self._timer.daemon = True
        self._timer.start()
