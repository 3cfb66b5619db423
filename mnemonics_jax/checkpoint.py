"""Saving and restoring what a run needs to go on, by Orbax.

A checkpoint is written at the end of each phase under the phase's number and
holds the `Carry` (model and memory, as global arrays) and the results so far.
A write that was cut off leaves the checkpoint before it in force.
"""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from mnemonics_jax.types import Carry


class Checkpointer:
    """The checkpoints of one work directory."""

    def __init__(self, workdir: pathlib.Path, *, keep: int) -> None:
        """Opens `workdir/checkpoints`, made if missing.

        Args:
            workdir: of the run.
            keep: how many checkpoints stay, the newest.
        """
        self._manager = ocp.CheckpointManager(
            (workdir / 'checkpoints').resolve(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
        )

    def __enter__(self) -> 'Checkpointer':
        return self

    def __exit__(self, *exception: Any) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The last phase that was saved whole, or None."""
        return self._manager.latest_step()

    def save(self, phase: int, carry: Carry, results: list[Any]) -> None:
        """Saves the end of a phase in the background.

        Args:
            phase: its index.
            carry: what the next phase starts from.
            results: of the phases so far, as JSON takes them.
        """
        self._manager.save(
            phase,
            args=ocp.args.Composite(
                carry=ocp.args.StandardSave(carry),
                results=ocp.args.JsonSave({'phases': results}),
            ),
        )

    def wait(self) -> None:
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()

    def restore(self, phase: int, like: Carry) -> tuple[Carry, list[Any]]:
        """Reads a checkpoint.

        Args:
            phase: one that was saved.
            like: a carry of the same shapes, placed as the result shall be.

        Returns:
            The carry and the results of the phases up to `phase`.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            phase,
            args=ocp.args.Composite(
                carry=ocp.args.StandardRestore(target),
                results=ocp.args.JsonRestore(),
            ),
        )
        return restored['carry'], restored['results']['phases']
