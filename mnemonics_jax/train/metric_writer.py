"""Progress display and metric records.

A `Recorder` writes `metrics.jsonl` and a log such as TensorBoard's. Each of its
stages shows a progress bar on a terminal and prints plain lines elsewhere.
Metrics stay on the device until a record or the bar needs them, so that the
host does not wait for every step.
"""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress

from mnemonics_jax.core import cli, manifest, streams
from mnemonics_jax.core.workdir import METRICS, read_records, write_atomically
from mnemonics_jax.train import logs
from mnemonics_jax.train.run_time import RunTime

_BAR_SECONDS = 0.5
_LINE_SECONDS = 20.0
# A first step that takes longer is said to compile.
_COMPILE_SECONDS = 2.0


class DivergedError(RuntimeError):
    """A loss is not a finite number."""


class Recorder:
    """Writes the records and the output of a run."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_phase: int,
        num_records: int | None = None,
        quiet: bool = False,
        run_time: RunTime | None = None,
        open_log: Callable[[Callable[[str], None]], logs.Guarded] | None = None,
    ) -> None:
        """Opens the files and drops records of steps that will run again.

        Args:
            workdir: work directory.
            first_phase: the phase that this process starts with.
            num_records: number of records to keep when resuming in the middle
                of that phase.
            quiet: whether to write and show nothing, as in all processes but
                one.
            run_time: steps of the whole run, for the time that is left.
            open_log: `(prints a line) -> log`; None for no log.
        """
        self._run_time = run_time or RunTime()
        self._workdir, self._path = workdir, workdir / METRICS
        records = read_records(self._path)
        kept = [r for r in records if r['phase'] < first_phase]
        if num_records is not None:
            # Not the first ones: a damaged line is missing.
            kept = [r for r in records if r['global_step'] < num_records]
        self._quiet = quiet
        if not quiet:
            text = ''.join(json.dumps(record) + '\n' for record in kept)
            if first_phase == 0 and not num_records:  # Begun anew.
                manifest.drop(workdir, [METRICS])
            with manifest.writing(workdir, [METRICS]):
                write_atomically(self._path, text)
        self._file = open(os.devnull if quiet else self._path, 'a')  # noqa: SIM115
        last = max((r['global_step'] for r in kept), default=-1)
        self._step = max(1 + last, num_records or 0)
        if missing := self._step - len(kept):
            self.say(
                f'{METRICS}: {missing} of {self._step} records are damaged or '
                'missing'
            )
        self._console = rich.console.Console(file=sys.stdout)
        self._steps = Steps()
        self.log = None if quiet or open_log is None else open_log(self.say)
        for record in kept:
            self._log_record(record)

    def __enter__(self) -> 'Recorder':
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.close()
        if self.log is not None:
            self.log.close(
                finished=exception[0] is None, num_records=self._step
            )

    def say(self, text: str) -> None:
        """Prints a line; ignores a closed pipe."""
        if self._quiet:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:
            streams.drop()

    def record(self, phase: int, stage: str, **values: Any) -> None:
        """Writes a record and its scalars; each line is flushed."""
        line = {
            'global_step': self._step,
            'phase': phase,
            'stage': stage,
            **values,
        }
        self._file.write(json.dumps(line) + '\n')
        self._file.flush()
        self._log_record(line)
        self._step += 1

    def _log_record(self, record: Mapping[str, Any]) -> None:
        """Logs a record that no earlier start has logged."""
        step, axis = self._steps.of(record)
        log, number = self.log, record['global_step']
        if log is None or number < log.history.records:
            return
        scalars = {
            f'{record["stage"]}/{name}': value
            for name, value in record.items()
            if isinstance(value, float)
        }
        log.scalars(step, scalars, axis)

    @property
    def num_records(self) -> int:
        """Number of records so far, as their `global_step` counts them."""
        return self._step

    def list_records(self) -> None:
        """Puts the records so far into the manifest, so that damage shows."""
        if not self._quiet:
            with manifest.writing(self._workdir, [METRICS]):
                pass

    @contextlib.contextmanager
    def stage(
        self,
        phase: int,
        name: str,
        total: int,
        done: int = 0,
        pending: Sequence[dict[str, Any]] = (),
    ) -> Iterator['StageProgress']:
        """Shows the progress of a stage.

        Args:
            phase: phase index.
            name: stage name.
            total: number of steps.
            done: steps done by an earlier process.
            pending: unrecorded metrics of those steps, f32[n].
        """
        bar = None
        if self._console.is_terminal and not self._quiet:
            bar = rich.progress.Progress(
                rich.progress.TextColumn('{task.description}'),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn('{task.fields[detail]}'),
                console=self._console,
                transient=True,
            )
        with bar or contextlib.nullcontext():
            progress = StageProgress(
                self, (phase, name), (done, total), bar, pending, self._run_time
            )
            yield progress
        progress.end()


class Steps:
    """Steps of the records of each stage in a log, over all phases."""

    def __init__(self) -> None:
        """Begins with no record."""
        # By stage: steps of each phase so far.
        self._done: dict[str, dict[int, int]] = {}

    def of(self, record: Mapping[str, Any]) -> tuple[int, str]:
        """The step of the next record, and its axis.

        Epochs or outer steps that this stage has done in this phase and in the
        phases before, if a record says how many, else records.
        """
        done = self._done.setdefault(record['stage'], {})
        phase = record['phase']
        if 'epoch' in record:
            axis, own = 'epoch', record['epoch'] + 1
        elif 'step' in record:
            axis, own = 'outer_step', record['step'] + 1
        else:
            axis, own = 'record', done.get(phase, 0) + 1
        done[phase] = own
        return sum(n for index, n in done.items() if index <= phase), axis


class StageProgress:
    """Progress of one stage of one phase."""

    def __init__(
        self,
        recorder: Recorder,
        which: tuple[int, str],
        steps: tuple[int, int],
        bar: rich.progress.Progress | None,
        pending: Sequence[dict[str, Any]],
        run_time: RunTime,
    ) -> None:
        """See `Recorder.stage`."""
        self._run_time = run_time
        self._recorder = recorder
        self._phase, self._name = which
        self._done, self._total = steps
        self._first = self._done
        self.title = f'phase {self._phase} {self._name}'
        self._bar = bar
        self._pending = list(pending)
        self._images = 0
        self._started = self._shown = time.monotonic()
        self._task = None
        if bar is not None:
            self._task = bar.add_task(
                self.title, total=self._total, completed=self._done, detail=''
            )

    def at(self, place: str) -> None:
        """Sets the position in the stage that is shown, as 'epoch 3/20'."""
        self.title = f'phase {self._phase} {self._name} {place}'
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=self.title)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """The context of the first step: says that it compiles if it is slow.

        Its time does not count in the speed of the steps.
        """
        with cli.after(_COMPILE_SECONDS, self._say_compiling):
            yield
        self._started = self._shown = time.monotonic()

    def _say_compiling(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, detail='compiling')
        else:
            self._recorder.say(f'{self.title}: compiling')

    def step(self, metrics: dict[str, jax.Array], num_images: int) -> None:
        """Adds n steps on `num_images` images in all; metrics are f32[n]."""
        self._pending.append(metrics)
        self._done += len(next(iter(metrics.values())))
        self._images += num_images
        now = time.monotonic()
        interval = _LINE_SECONDS if self._bar is None else _BAR_SECONDS
        if now - self._shown >= interval:
            self._shown = now
            self._show(metrics, now)

    def _show(self, metrics: dict[str, jax.Array], now: float) -> None:
        name = 'loss' if 'loss' in metrics else 'outer_loss'
        # Blocks until the device is done, hence the interval.
        loss = float(np.asarray(metrics[name])[-1])
        seconds = now - self._started
        seconds_a_step = seconds / (self._done - self._first)
        self._run_time.ran(self._name, seconds_a_step)
        left = seconds_a_step * (self._total - self._done)
        # On a narrow terminal the end is cut off.
        detail = (
            f'loss {loss:.3f}, '
            f'{self._run_time.left(self._phase, self._name, left)}, '
            f'{self._images / seconds:.0f} images/s'
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, detail=detail)
            return
        self._recorder.say(f'{self.title} {self._done}/{self._total}: {detail}')

    def end(self) -> None:
        """Notes the seconds a step, for the time that the run takes."""
        if steps := self._done - self._first:
            seconds = time.monotonic() - self._started
            self._run_time.ran(self._name, seconds / steps)

    def pending(self) -> list[dict[str, float]]:
        """The metrics since the last flush.

        Raises:
            DivergedError: one of them is not finite.
        """
        self._pending = jax.device_get(self._pending)
        found = [
            dict(zip(metrics, map(float, values), strict=True))
            for metrics in self._pending
            for values in zip(*metrics.values(), strict=True)
        ]
        for metrics in found:
            check_finite(self.title, metrics)
        return found

    def flush(self, **where: int) -> dict[str, float]:
        """Records the means of the metrics since the last flush.

        Args:
            **where: integers that locate the record, such as `epoch=3`.

        Returns:
            The means.

        Raises:
            DivergedError: one of them is not finite.
        """
        values = jax.device_get(self._pending)
        self._pending = []
        means = {
            name: float(np.mean(np.concatenate([v[name] for v in values])))
            for name in values[0]
        }
        check_finite(self.title, means)
        self._recorder.record(self._phase, self._name, **where, **means)
        return means


def check_finite(title: str, metrics: dict[str, float]) -> None:
    """Raises DivergedError if a metric is not a finite number."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(f'{title}: {name} is {value}')
