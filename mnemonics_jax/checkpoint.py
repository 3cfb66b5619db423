"""Saving and restoring what a run needs to go on, by Orbax.

Two kinds, each in a folder of its own:
    phases/<i>: the end of phase i, the `Carry` (model and memory, as global
        arrays) and the results so far.
    steps/<n>: the middle of a phase, the states of its loops and a `Cursor`;
        it goes on from the end of the phase before.
A write that was cut off leaves the checkpoint before it in force. One that is
damaged is put aside, into `damaged`, and the one before it taken. Orbax notices
files cut short, but hands out arrays and JSON of which a bit has changed; so
each checkpoint holds digests of its items, which have to be those of what is
read.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from mnemonics_jax import digests
from mnemonics_jax.types import Carry


class Cursor(NamedTuple):
    """Where in a phase a checkpoint was made; all of it as JSON takes it.

    Attributes:
        phase: its index.
        stages: loops begun so far -> steps done.
        records: lines of `metrics.jsonl` written.
        pending: metrics of the steps since the last of these lines.
    """

    phase: int
    stages: dict[str, int]
    records: int
    pending: list[dict[str, float]]


class Checkpointer:
    """The checkpoints of one work directory."""

    def __init__(
        self,
        workdir: os.PathLike[str],
        *,
        keep: int,
        say: Callable[[str], None] = print,
    ) -> None:
        """Opens `workdir/checkpoints`, made if missing.

        Args:
            workdir: of the run.
            keep: how many checkpoints of each kind stay, the newest.
            say: is told of damaged ones.
        """
        root = epath.Path(workdir).resolve() / 'checkpoints'

        def manager(kind: str) -> ocp.CheckpointManager:
            return ocp.CheckpointManager(
                root / kind,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep, create=True
                ),
            )

        self._phases, self._steps = manager('phases'), manager('steps')
        self._root, self._say = root, say

    def __enter__(self) -> 'Checkpointer':
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._phases.close()
        finally:
            self._steps.close()

    def wait(self) -> None:
        """Returns when every save is on disk."""
        self._phases.wait_until_finished()
        self._steps.wait_until_finished()

    def save(self, phase: int, carry: Carry, results: list[Any]) -> None:
        """Saves the end of a phase in the background.

        Args:
            phase: its index.
            carry: what the next phase starts from.
            results: of the phases so far, as JSON takes them.
        """
        arrays, values = {'carry': carry}, {'results': {'phases': results}}
        self._phases.save(phase, args=_composite(arrays, values))

    def latest(self) -> int | None:
        """The last phase whose end was saved, or None."""
        return self._phases.latest_step()

    def restore(self, phase: int, like: Carry) -> tuple[Carry, list[Any]]:
        """Reads the end of a phase.

        Args:
            phase: one that was saved.
            like: a carry of the same shapes, placed as the result shall be.

        Returns:
            The carry and the results of the phases up to `phase`.

        Raises:
            ValueError: they are not what was saved. Orbax raises more types.
        """
        restored = _read(
            self._phases,
            phase,
            carry=ocp.args.StandardRestore(_abstract(like)),
            results=ocp.args.JsonRestore(),
        )
        return restored['carry'], restored['results']['phases']

    def restore_latest(self, like: Carry) -> tuple[Carry, list[Any]] | None:
        """The same of the last phase that can be read, or None."""
        return self._newest(
            self._phases, lambda phase: self.restore(phase, like)
        )

    def save_within(self, cursor: Cursor, states: dict[str, Any]) -> None:
        """Saves the middle of a phase in the background.

        Args:
            cursor: where.
            states: of each loop begun; read before this returns.
        """
        latest = self._steps.latest_step()
        arrays = {f'state_{name}': state for name, state in states.items()}
        self._steps.save(
            0 if latest is None else latest + 1,
            args=_composite(arrays, {'cursor': cursor._asdict()}),
        )

    def cursor(self, phase: int) -> Cursor | None:
        """Where the last checkpoint within a phase was made, if there is one.

        Whether all of it can be read is tried here.
        """

        def read(number: int) -> Cursor:
            item = _read(self._steps, number, cursor=ocp.args.JsonRestore())
            cursor = Cursor(**item['cursor'])
            if cursor.phase == phase:
                for name in cursor.stages:
                    self._read_state(number, name, None)
            return cursor

        found = self._newest(self._steps, read)
        return found if found and found.phase == phase else None

    def state(self, name: str, like: Any) -> Any:
        """The state of a loop at the cursor, placed as `like` is."""
        return self._read_state(self._steps.latest_step(), name, like)

    def _read_state(self, number: int, name: str, like: Any) -> Any:
        target = ocp.args.StandardRestore(
            like and _abstract(like),
            # The devices that saved it may not be there.
            fallback_sharding=SingleDeviceSharding(jax.local_devices()[0]),
        )
        item = {f'state_{name}': target}
        return _read(self._steps, number, **item)[f'state_{name}']

    def _newest(
        self, manager: ocp.CheckpointManager, read: Callable[[int], Any]
    ) -> Any:
        """What is read of the newest checkpoint that can be, or None."""
        while (number := manager.latest_step()) is not None:
            found, error = None, None
            try:
                found = read(number)
            except Exception as e:  # Orbax's storage raises many types.
                error = e
            if not _anywhere(error is not None):
                return found
            self._put_aside(manager, number, error)
        return None

    def _put_aside(
        self,
        manager: ocp.CheckpointManager,
        number: int,
        error: Exception | None,
    ) -> None:
        """Moves a checkpoint to where it is not looked for."""
        folder = f'{manager.directory.name}/{number}'
        reason = ' '.join(str(error or 'in another process').split())[:200]
        if jax.process_index() == 0:
            self._say(
                f'checkpoint {folder} cannot be read, put aside: {reason}'
            )
            aside = self._root / 'damaged'
            aside.mkdir(exist_ok=True)
            target = aside / f'{manager.directory.name}_{number}'
            if target.exists():
                target.rmtree()
            (manager.directory / str(number)).rename(target)
        _anywhere(False)  # All wait for the first one here.
        manager.reload()


def _anywhere(failed: bool) -> bool:
    """Whether something failed in any process; all of them have to ask."""
    if jax.process_count() == 1:
        return failed
    return bool(multihost_utils.process_allgather(np.array(failed)).any())


def whole(workdir: os.PathLike[str]) -> list[str]:
    """The whole checkpoints of a work directory, such as 'phases/1'."""
    root = epath.Path(workdir) / 'checkpoints'
    folders = [root / kind for kind in ('phases', 'steps')]
    # Until it is whole, a checkpoint is called otherwise.
    return [
        f'{folder.name}/{number}'
        for folder in folders
        if folder.exists()
        for number in sorted(
            int(path.name) for path in folder.iterdir() if path.name.isdigit()
        )
    ]


def _composite(
    arrays: dict[str, Any], values: dict[str, Any]
) -> ocp.args.Composite:
    """What to save: items of arrays, items of JSON, and digests of all."""
    found = {name: digests.of_arrays(tree) for name, tree in arrays.items()}
    found |= {name: digests.of_json(value) for name, value in values.items()}
    items = {name: ocp.args.StandardSave(x) for name, x in arrays.items()}
    items |= {name: ocp.args.JsonSave(x) for name, x in values.items()}
    return ocp.args.Composite(digests=ocp.args.JsonSave(found), **items)


def _read(manager: ocp.CheckpointManager, number: int, **items: Any) -> Any:
    """Items of a checkpoint, which are what was saved.

    Raises:
        ValueError: one of them is not.
    """
    args = ocp.args.Composite(digests=ocp.args.JsonRestore(), **items)
    restored = manager.restore(number, args=args)
    for name, item in items.items():
        is_json = isinstance(item, ocp.args.JsonRestore)
        digest = digests.of_json if is_json else digests.of_arrays
        if digest(restored[name]) != restored['digests'][name]:
            raise ValueError(f'{name} is not what was saved')
    return restored


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
