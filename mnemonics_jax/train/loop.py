"""The loops of a phase: they save where they are, and go on from there.

A phase that is started again computes anew what lies between its loops, which
is quick and gives the same, and takes each loop's state from the last
checkpoint: at its end, in its middle, or not begun.
"""

import itertools
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnemonics_jax.core.multistep import Dispatch, Loop, Metrics, State
from mnemonics_jax.train.checkpoint import Checkpointer, LoopPosition
from mnemonics_jax.train.metric_writer import Recorder, StageProgress
from mnemonics_jax.train.preemption import Interrupt, InterruptError

# Several processes agree on saving and stopping every so many steps.
_AGREE_EVERY = 16


class SavePolicy(NamedTuple):
    """When to save within a loop.

    Attributes:
        steps: after so many, 0 for never.
        seconds: after so many, 0 for never.
    """

    steps: int
    seconds: float


class ResumableLoops:
    """Runs the loops of a run, and knows what of a phase is saved."""

    def __init__(
        self,
        checkpointer: Checkpointer | None = None,
        interrupt: Interrupt | None = None,
        policy: SavePolicy | None = None,
    ) -> None:
        """Nothing is begun yet.

        Args:
            checkpointer: where to save; None to save nothing.
            interrupt: requests to stop.
            policy: when to save without one; None for never.
        """
        self._checkpointer = checkpointer
        self._interrupt = interrupt or Interrupt()
        self._cadence = policy or SavePolicy(0, 0)
        self._saved_at = time.monotonic()
        self._phase = -1
        self._cursor: LoopPosition | None = None
        # Of this phase's loops that are finished.
        self._states: dict[str, State] = {}
        self._done: dict[str, int] = {}

    @property
    def _checkpoints(self) -> Checkpointer:
        if self._checkpointer is None:
            raise ValueError('a journal without checkpoints saves nothing')
        return self._checkpointer

    def resume(self, phase: int) -> LoopPosition | None:
        """Where the first phase of this process goes on; None: at its start."""
        self._cursor = self._checkpoints.position(phase)
        return self._cursor

    def open_phase(self, phase: int) -> None:
        """Begins a phase."""
        if self._cursor is not None and self._cursor.phase != phase:
            self._cursor = None
        self._phase = phase
        self._states, self._done = {}, {}

    def run(self, loop: Loop, state: State, recorder: Recorder) -> State:
        """Runs a loop, or what is left of it.

        Args:
            loop: what to do.
            state: to begin with, a pytree of replicated arrays.
            recorder: of progress.

        Returns:
            The state after the last step. It is saved with later loops of the
            phase, so none of them may donate it.

        Raises:
            progress.DivergedError: a loss is not finite.
            InterruptError: after saving, when the run was asked to stop.
        """
        state, done, pending = self._begin(loop.name, state)
        if done < loop.num_steps:
            stage = recorder.stage(
                self._phase, loop.name, loop.num_steps, done, pending
            )
            with stage as progress:
                for dispatch in loop.dispatches(done):
                    place = loop.place(done)
                    if place:
                        progress.at(place)
                    state, metrics = loop.step(done, state, dispatch)
                    log(progress, loop, done, dispatch, metrics)
                    before, done = done, done + dispatch.num_steps
                    save, stop = self._decide(before, done)
                    if save or stop:
                        self._save(loop.name, done, state, progress, recorder)
                    if stop:
                        self._stop(progress, done)
        self._states[loop.name], self._done[loop.name] = state, done
        return state

    def _begin(
        self, name: str, state: State
    ) -> tuple[State, int, list[dict[str, Any]]]:
        """The state to go on from, the steps done and metrics not recorded."""
        position = self._cursor
        if position is None or name not in position.stages:
            return state, 0, []
        # As float32, so that means are rounded as without the interruption.
        pending = [
            {
                key: np.array([value], np.float32)
                for key, value in metrics.items()
            }
            for metrics in position.pending
        ]
        is_last = name == list(position.stages)[-1]
        restored = self._checkpoints.state(name, state)
        return restored, position.stages[name], pending if is_last else []

    def _save(
        self,
        name: str,
        done: int,
        state: State,
        progress: StageProgress,
        recorder: Recorder,
    ) -> None:
        pending = progress.pending()
        # Read before `save_within` returns: the next step may donate it.
        states = {**self._states, name: state}
        position = LoopPosition(
            phase=self._phase,
            stages={**self._done, name: done},
            records=recorder.num_records,
            pending=pending,
        )
        self._checkpoints.save_within(position, states)
        self._saved_at = time.monotonic()

    def _stop(self, progress: StageProgress, done: int) -> None:
        self._checkpoints.wait()
        raise InterruptError(
            f'{self._interrupt.signal or "a signal"} in {progress.title}, '
            f'step {done}'
        )

    def _decide(self, before: int, done: int) -> tuple[bool, bool]:
        """Whether to save and whether to stop, the same in all processes.

        Args:
            before: steps done before the last dispatch.
            done: and after it.
        """
        if self._checkpointer is None:
            return False, False
        steps, seconds = self._cadence
        late = seconds and time.monotonic() - self._saved_at >= seconds
        stop = self._interrupt.signal is not None
        if jax.process_count() > 1:
            late, stop = (
                agree(bool(late), stop)
                if passes(_AGREE_EVERY, before, done)
                else (False, False)
            )
        return bool(late) or bool(steps and passes(steps, before, done)), stop


def agree(late: bool, stop: bool) -> tuple[bool, bool]:
    """What all processes do where each of them has wishes."""
    wishes = multihost_utils.process_allgather(np.array([late, stop]))
    # Clocks differ: the first process' counts. A stop is anybody's.
    return bool(wishes[0, 0]), bool(wishes[:, 1].any())


def passes(every: int, before: int, done: int) -> bool:
    """Whether one of the steps before+1..done is a multiple of `every`."""
    return done // every > before // every


def log(
    progress: StageProgress,
    loop: Loop,
    first: int,
    dispatch: Dispatch,
    metrics: Metrics,
) -> None:
    """Hands the metrics of a dispatch on, and has records made where due.

    Args:
        progress: of the stage.
        loop: knows where records are due.
        first: the dispatch's first step.
        dispatch: that was taken.
        metrics: its metrics, f32[num_steps].
    """
    num = dispatch.num_steps
    marks = {i + 1: loop.mark(first + i) for i in range(num)}
    ends = {end: mark for end, mark in marks.items() if mark is not None}
    if not ends:
        progress.step(metrics, dispatch.num_images)
        return
    metrics = jax.device_get(metrics)
    for low, high in itertools.pairwise(sorted({0, *ends, num})):
        part = {name: values[low:high] for name, values in metrics.items()}
        progress.step(part, dispatch.num_images * (high - low) // num)
        if high in ends:
            progress.flush(**ends[high])
