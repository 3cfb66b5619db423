"""TensorBoard events, written where they arise.

The writer of tensorboardX has a thread and a short queue. On a full disk the
thread ends, and whoever fills the queue then waits for ever.
"""

import pathlib
import time
from collections.abc import Mapping

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

_FLUSH_SECONDS = 10.0


class Events:
    """A file of events, new at each start of a run."""

    def __init__(self, workdir: pathlib.Path, first_step: int) -> None:
        """Opens it.

        Args:
            workdir: the folder.
            first_step: TensorBoard drops what earlier files have from here on.

        Raises:
            OSError: it cannot be written; so do the methods.
        """
        self._writer = EventsWriter(str(workdir / 'events'))
        self._flushed = 0.0
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values by tag."""
        for tag, value in values.items():
            found = summary.scalar(tag, value)
            self._write(Event(step=step, summary=found))

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self._writer.flush()
