"""Where the numbers of a run go for viewers: TensorBoard, W&B or MLflow.

A `Log` is one of them. A start of the command continues the log of earlier
starts; `log.json` in the work directory says which that is and what it has.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from mnemonics_jax.core import schema
from mnemonics_jax.core.rules import TEXT, at_least
from mnemonics_jax.core.workdir import write_atomically
from mnemonics_jax.train.tensorboard import Events

NAME = 'log.json'
_FORM = {
    'to': TEXT,
    'run': TEXT,
    'records': at_least(0),
    'phases': at_least(0),
}
# Logs that may lose values if the process is killed: W&B writes late.
_LATE = ('wandb',)


class Log(Protocol):
    """A log; its methods may raise anything.

    Each tag has steps of one kind, its axis: 'epoch', 'outer_step', 'phase' or
    'classes_seen'; 'record' is for records that have none.

    Attributes:
        run: what the log is continued by.
    """

    run: str

    def scalars(
        self, step: int, values: Mapping[str, float], axis: str
    ) -> None:
        """Logs values by tag at a step of an axis."""

    def image(
        self, step: int, tag: str, png: bytes, shape: tuple[int, int, int]
    ) -> None:
        """Logs a PNG file of shape (H, W, C) at a phase."""

    def close(self, *, finished: bool) -> None:
        """Ends this start of the log, and the run itself if `finished`."""


class History(NamedTuple):
    """What earlier starts have logged.

    Attributes:
        run: `Log.run` of them; None for a new log.
        records: the first so many records of the run are logged.
        phases: the results of the first so many phases are.
    """

    run: str | None
    records: int
    phases: int


def check_installed(to: str) -> None:
    """Raises ValueError if the package of `log.to` cannot be imported."""
    try:
        if to == 'wandb':
            import wandb  # noqa: F401
        elif to == 'mlflow':
            import mlflow  # noqa: F401
    except ImportError as e:
        raise ValueError(
            f'log.to={to!r}: {e}; to install it: pip install '
            f"'mnemonics-jax[{to}]'"
        ) from e


def read_history(
    workdir: pathlib.Path,
    to: str,
    num_written: int,
    num_phases: int,
    *,
    anew: bool = False,
) -> History:
    """Reads `log.json`.

    Args:
        workdir: work directory.
        to: `log.to` of this start.
        num_written: number of records that the last start wrote, also of steps
            that will run again.
        num_phases: number of finished phases.
        anew: whether those steps will give other values, so that the log of
            the earlier starts cannot be continued.
    """
    content: Any = None
    with contextlib.suppress(OSError, ValueError):
        content = schema.load(
            workdir / NAME, lambda value: schema.check(value, _FORM)
        )
    if anew or content is None or content['to'] != to:
        return History(None, 0, 0)
    found = History(content['run'], content['records'], content['phases'])
    if to in _LATE:  # Only what was there at the last `close` is certain.
        return found
    # A start that was killed early may have logged less than the one before it.
    records = max(found.records, num_written)
    return History(found.run, records, num_phases)


class Guarded:
    """A log whose failure costs a line and the rest of the log."""

    def __init__(
        self,
        workdir: pathlib.Path,
        to: str,
        history: History,
        config: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        """Opens the log.

        Args:
            workdir: work directory.
            to: `log.to`.
            history: what it has.
            config: configuration as JSON.
            say: prints a line.
        """
        self._workdir, self._to, self._say = workdir, to, say
        self.history, self._num_phases = history, history.phases
        self._log: Log | None = None
        with self._guard():
            self._log = _open(to, workdir, history.run, config)
            self._save(history._replace(run=self._log.run))

    def scalars(
        self, step: int, values: Mapping[str, float], axis: str
    ) -> None:
        """See `Log`."""
        with self._guard():
            if self._log is not None:
                self._log.scalars(step, values, axis)
                if axis == 'phase':
                    self._num_phases = max(self._num_phases, step + 1)

    def image(
        self, step: int, tag: str, png: bytes, shape: tuple[int, int, int]
    ) -> None:
        """See `Log`."""
        with self._guard():
            if self._log is not None:
                self._log.image(step, tag, png, shape)

    def close(self, *, finished: bool, num_records: int) -> None:
        """Closes the log, which has the records so far of the run."""
        with self._guard():
            if self._log is not None:
                self._log.close(finished=finished)
                most = max(self.history.records, num_records)
                self._save(History(self._log.run, most, self._num_phases))

    def _save(self, history: History) -> None:
        content = {'to': self._to, **history._asdict()}
        write_atomically(self._workdir / NAME, json.dumps(content) + '\n')

    @contextlib.contextmanager
    def _guard(self):
        try:
            yield
        except Exception as e:
            self._log = None
            why = ' '.join(f'{type(e).__name__}: {e}'.split())[:300]
            self._say(
                f'warning: log.to={self._to}: {why}; nothing more is logged '
                'there by this start'
            )


def _open(
    to: str, workdir: pathlib.Path, run: str | None, config: Mapping[str, Any]
) -> Log:
    if to == 'wandb':
        from mnemonics_jax.train.wandb_log import Wandb

        return Wandb(workdir, run, config)
    if to == 'mlflow':
        from mnemonics_jax.train.mlflow_log import Mlflow

        return Mlflow(workdir, run, config)
    return Events(workdir, run)
