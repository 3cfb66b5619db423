"""Time that a run still takes, from the pace of its steps so far."""

from collections.abc import Mapping, Sequence

from mnemonics_jax.core.text import duration


class RunTime:
    """Paces of the loops of a run, and the steps that are left of them."""

    def __init__(self, steps: Sequence[Mapping[str, int]] = ()) -> None:
        """Initializes without a pace.

        Args:
            steps: steps of each phase, by name of the loop and in the order of
                the loops.
        """
        self._steps = steps
        self._seconds_a_step: dict[str, float] = {}

    def ran(self, loop: str, seconds_a_step: float) -> None:
        """Sets the pace of a loop."""
        self._seconds_a_step[loop] = seconds_a_step

    def left(self, phase: int, loop: str, seconds: float) -> str:
        """'340 s left', and what the run takes where more loops follow.

        The run takes 'over' the time of those loops whose pace is known if
        there are others. Evaluation and compiling are not counted.

        Args:
            phase: phase index.
            loop: the loop that runs; its pace is known.
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
