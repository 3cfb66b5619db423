"""Resumable training loops.

A resumed phase recomputes the cheap, deterministic work between its loops and
restores the state of each finished or interrupted loop from the last
checkpoint.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mnemonics_jax.core.multistep import Dispatch, Loop, Metrics, State
from mnemonics_jax.train.checkpoint import Checkpointer, LoopPosition
from mnemonics_jax.train.metric_writer import Recorder, StageProgress
from mnemonics_jax.train.preemption import Interrupt, InterruptError

# Steps between agreements of several processes on saving and stopping.
_AGREE_EVERY = 16

Context = contextlib.AbstractContextManager[Any]
FirstStep = Callable[[str], Context]


class SavePolicy(NamedTuple):
    """When to save within a loop.

    Attributes:
        steps: steps between saves, 0 for never.
        seconds: seconds between saves, 0 for never.
    """

    steps: int
    seconds: float


class ResumableLoops:
    """Runs the loops of a phase, saving and restoring their states."""

    def __init__(
        self,
        checkpointer: Checkpointer | None = None,
        interrupt: Interrupt | None = None,
        policy: SavePolicy | None = None,
        first_step: FirstStep = contextlib.nullcontext,
    ) -> None:
        """Initializes without an open phase.

        Args:
            checkpointer: where to save; None disables saving.
            interrupt: requests to stop.
            policy: when to save without such a request; None for never.
            first_step: `(name of a loop) -> context` of its first step, which
                compiles its program.
        """
        self._checkpointer = checkpointer
        self._interrupt = interrupt or Interrupt()
        self._policy = policy or SavePolicy(0, 0)
        self._first_step = first_step
        self._saved_at = time.monotonic()
        self._phase = -1
        self._position: LoopPosition | None = None
        # States and steps of the finished loops of this phase.
        self._states: dict[str, State] = {}
        self._done: dict[str, int] = {}

    @property
    def _checkpoints(self) -> Checkpointer:
        if self._checkpointer is None:
            raise ValueError('checkpointer=None: must be set to resume')
        return self._checkpointer

    def resume(self, phase: int) -> LoopPosition | None:
        """Position at which a phase resumes; None for its start."""
        self._position = self._checkpoints.position(phase)
        return self._position

    def open_phase(self, phase: int) -> None:
        """Starts a phase."""
        if self._position is not None and self._position.phase != phase:
            self._position = None
        self._phase = phase
        self._states, self._done = {}, {}

    def run(self, loop: Loop, state: State, recorder: Recorder) -> State:
        """Runs the remaining steps of a loop.

        Args:
            loop: the loop.
            state: initial state, a pytree of replicated arrays.
            recorder: recorder of progress and metrics.

        Returns:
            The state after the last step. It is saved with later loops of the
            phase, so they must not donate it.

        Raises:
            metric_writer.DivergedError: a loss is not finite.
            InterruptError: after saving, if the run was asked to stop.
        """
        state, done, pending = self._begin(loop.name, state)
        if done < loop.num_steps:
            stage = recorder.stage(
                self._phase, loop.name, loop.num_steps, done, pending
            )
            with stage as progress:
                context: Context = self._first(loop.name, progress)
                for dispatch in loop.dispatches(done):
                    place = loop.place(done)
                    if place:
                        progress.at(place)
                    with context:
                        state, metrics = loop.step(done, state, dispatch)
                    context = contextlib.nullcontext()
                    log(progress, loop, done, dispatch, metrics)
                    before, done = done, done + dispatch.num_steps
                    save, stop = self._decide(before, done)
                    if save or stop:
                        self._save(loop.name, done, state, progress, recorder)
                    if stop:
                        self._stop(progress, done)
        self._states[loop.name], self._done[loop.name] = state, done
        return state

    @contextlib.contextmanager
    def _first(self, name: str, progress: StageProgress) -> Iterator[None]:
        """The context of a loop's first step, which compiles its program."""
        with progress.compiling(), self._first_step(name):
            yield

    def _begin(
        self, name: str, state: State
    ) -> tuple[State, int, list[dict[str, Any]]]:
        """The state to resume from, steps done, and unrecorded metrics."""
        position = self._position
        if position is None or name not in position.stages:
            return state, 0, []
        # As they were, so that means round as without the interruption.
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(state))
        pending = [
            {key: np.array([value], dtype) for key, value in metrics.items()}
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
        # `save_within` copies before it returns: the next step may donate it.
        states = {**self._states, name: state}
        position = LoopPosition(
            phase=self._phase,
            stages={**self._done, name: done},
            records=recorder.num_records,
            pending=pending,
        )
        recorder.list_records()
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
            done: steps done after it.
        """
        if self._checkpointer is None:
            return False, False
        steps, seconds = self._policy
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
    """Combines the decisions of all processes."""
    votes = multihost_utils.process_allgather(np.array([late, stop]))
    # Clocks differ, so process 0 decides on saving; any process may stop.
    return bool(votes[0, 0]), bool(votes[:, 1].any())


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
    """Passes the metrics of a dispatch to `progress`, flushing at marks.

    Args:
        progress: progress of the stage.
        loop: the loop, which marks the steps to record at.
        first: first step of the dispatch.
        dispatch: the dispatch that ran.
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
