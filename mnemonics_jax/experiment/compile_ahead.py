"""Compiles the programs of later stages while the first one runs.

JAX reuses what was compiled for equal shapes, in another thread too.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import jax

from mnemonics_jax.experiment import step_shapes
from mnemonics_jax.experiment.components import Components
from mnemonics_jax.experiment.step_counts import PROGRAMS
from mnemonics_jax.experiment.step_shapes import Program


class CompileAhead:
    """A thread that compiles programs, one after the other.

    The end of the context waits for the program that is being compiled: XLA
    must not be in the middle of one when the process ends.
    """

    def __init__(self, stops: Callable[[], object] = lambda: None) -> None:
        """Initializes without a thread; the first stage starts it.

        Args:
            stops: true once the run is asked to stop; nothing more is compiled.
        """
        self._stops, self._ended = stops, False
        self._listed: Callable[[str], Sequence[Program]] = lambda stage: []
        self._changed = threading.Condition()
        # The program that the thread compiles, and stages at their first step.
        self._now, self._stages = '', 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> 'CompileAhead':
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def plan(self, listed: Callable[[str], Sequence[Program]]) -> None:
        """Sets what to compile, before the first stage.

        Args:
            listed: `(name of the first stage) -> programs` of later ones, in
                the order in which they are used.
        """
        self._listed = listed

    @contextlib.contextmanager
    def turn(self, stage: str) -> Iterator[None]:
        """The context of a stage's first step, which compiles its program.

        Starts the thread after the first one. If the thread is compiling the
        program of the stage, the stage waits for it. Meanwhile the thread
        begins no other: it might be the same.
        """
        with self._changed:
            self._stages += 1
            own = PROGRAMS.get(stage)
            self._changed.wait_for(lambda: self._now != own)
        try:
            yield
        finally:
            with self._changed:
                self._stages -= 1
                self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._compile, args=(stage, _settings()), daemon=True
            )
            self._thread.start()

    def _compile(self, stage: str, settings: tuple[object, ...]) -> None:
        # Contexts of JAX hold in one thread: here it would compile other
        # programs.
        if settings != _settings():
            return
        # What goes wrong shows when the stage itself compiles.
        with contextlib.suppress(Exception):
            for program in self._listed(stage):
                with self._changed:
                    self._changed.wait_for(self._may_begin)
                    if self._ended or self._stops():
                        return
                    self._now = program.name
                try:
                    with contextlib.suppress(Exception):
                        program.function.lower(*program.arguments).compile()
                finally:
                    with self._changed:
                        self._now = ''
                        self._changed.notify_all()

    def _may_begin(self) -> bool:
        return self._ended or self._stages == 0


def _settings() -> tuple[object, ...]:
    """Settings that contexts of JAX may have changed in this thread."""
    return (
        jax.config.jax_enable_x64,  # type: ignore[attr-defined]
        jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
    )


def later(
    parts: Components, first: int, last: int, stage: str
) -> list[Program]:
    """The programs of a run after its first stage, in the order of their use.

    Phases after 1 have the programs of 1. There are none in several processes,
    whose compilers may wait for each other, and on GPUs, where they would
    measure kernels on the busy device.

    Args:
        parts: components of the run.
        first: the phase of the first stage.
        last: the last phase.
        stage: name of the first stage.
    """
    if jax.process_count() > 1 or parts.placement.platform == 'gpu':
        return []
    now = step_shapes.programs(parts, first, first)
    names = [program.name for program in now]
    # A strategy may have loops of its own.
    own = PROGRAMS.get(stage)
    at = names.index(own) if own in names else -1
    if first == 0 and last > 0:
        return [*now[at + 1 :], *step_shapes.programs(parts, 1, 1)]
    # The next phase needs the programs of stages that are done in this one.
    return now[at + 1 :] + (now[: max(at, 0)] if first < last else [])
