"""Compiles the programs of later stages while the first one runs.

JAX reuses what was compiled for equal shapes, in another thread too.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import jax

from mnemonics_jax.experiment import step_shapes
from mnemonics_jax.experiment.components import Components
from mnemonics_jax.experiment.step_shapes import Program

# The large programs of stages, by name of their loop.
_PROGRAMS = {
    'train': 'training',
    'learn': 'learning exemplars',
    'adjust': 'adjusting exemplars',
    'finetune': 'fine-tuning',
}


class CompileAhead:
    """A thread that compiles programs, one after the other.

    The end of the context waits for the program that is being compiled: XLA
    must not be in the middle of one when the process ends.
    """

    def __init__(self, listed: Callable[[str], Sequence[Program]]) -> None:
        """Initializes without a thread; the first stage starts it.

        Args:
            listed: `(name of the first stage) -> programs` of later ones, in
                the order in which they are used.
        """
        self._listed = listed
        self._compiling, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> 'CompileAhead':
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    @contextlib.contextmanager
    def turn(self, stage: str) -> Iterator[None]:
        """The context of a stage's first step, which compiles its program.

        Starts the thread after the first one. A stage waits for what the thread
        is compiling, since that may be its own program, and the other way
        round.
        """
        with self._compiling:
            yield
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._compile, args=(stage,), daemon=True
            )
            self._thread.start()

    def _compile(self, stage: str) -> None:
        for program in self._listed(stage):
            with self._compiling:
                if self._stopped.is_set():
                    return
                # What it is shows when the stage itself compiles.
                with contextlib.suppress(Exception):
                    program.function.lower(*program.arguments).compile()


def of_run(parts: Components, saved: int | None, last: int) -> CompileAhead:
    """For the phases of a run after the last saved one, up to `last`.

    Phases after 1 have the programs of 1. Compiles nothing in several
    processes, whose compilers may wait for each other, and on GPUs, where they
    would measure kernels on the busy device.
    """
    alone = jax.process_count() == 1 and parts.placement.platform != 'gpu'
    first = 0 if saved is None else saved + 1

    def listed(stage: str) -> list[Program]:
        if not alone:
            return []
        now = step_shapes.programs(parts, first, first)
        names = [program.name for program in now]
        # A strategy may have loops of its own.
        own = _PROGRAMS.get(stage)
        at = names.index(own) if own in names else -1
        if first == 0 and last > 0:
            return [*now[at + 1 :], *step_shapes.programs(parts, 1, 1)]
        # What this phase has behind it, another one has before it.
        return now[at + 1 :] + (now[: max(at, 0)] if first < last else [])

    return CompileAhead(listed)
