"""Time that a run still takes, from the speed of its steps so far."""

from collections.abc import Mapping, Sequence

from mnemonics_jax.core.text import duration


class RunTime:
    """Seconds a step of the loops of a run, and the steps that are left."""

    def __init__(self, steps: Sequence[Mapping[str, int]] = ()) -> None:
        """Initializes before any step.

        Args:
            steps: steps of each phase, by name of the loop and in the order of
                the loops.
        """
        self._steps = steps
        self._seconds_a_step: dict[str, float] = {}

    def ran(self, loop: str, seconds_a_step: float) -> None:
        """Sets the seconds a step of a loop."""
        self._seconds_a_step[loop] = seconds_a_step

    def left(self, phase: int, loop: str, seconds: float) -> str:
        """'340 s left', and what the run takes where more loops follow.

        It is 'over' that time if loops follow that have not run yet. Evaluation
        and compiling are not counted.

        Args:
            phase: phase index.
            loop: the loop that runs.
            seconds: seconds that are left of it.
        """
        following = [
            steps
            for index, loops in enumerate(self._steps[phase:], phase)
            for steps in loops.items()
            if index > phase or _is_after(loops, steps[0], loop)
        ]
        text = f'{duration(seconds)} left'
        if not following:
            return text
        known = [
            self._seconds_a_step[name] * num
            for name, num in following
            if name in self._seconds_a_step
        ]
        over = 'over ' * (len(known) < len(following))
        return f'{text} (run: {over}{duration(seconds + sum(known))})'


def _is_after(loops: Mapping[str, int], name: str, loop: str) -> bool:
    names = list(loops)
    return loop not in names or names.index(name) > names.index(loop)
