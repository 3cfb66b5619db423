"""Saving and restoring what a run needs to go on, by Orbax.

Two kinds, each in a folder of its own:
    phases/<i>: the end of phase i, the `Carry` (model and memory, as global
        arrays), the results so far, and the model that the phase was judged by
        beside that of the `Carry`.
    steps/<n>: the middle of a phase, the states of its loops and a
        `LoopPosition`; it continues the end of the phase before.
A write that was cut off leaves the checkpoint before it in force. One that is
damaged is put aside, into `damaged`, and the one before it taken.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from mnemonics_jax.train import checkpoint_items as items
from mnemonics_jax.types import Carry, ExemplarSet, Variables


class LoopPosition(NamedTuple):
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
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens `workdir/checkpoints`, made if missing.

        Args:
            workdir: of the run; absolute, or in a bucket.
            keep: how many checkpoints of each kind stay, the newest.
            say: is told of damaged ones.
            before_save: brings what a checkpoint counts on to where it lasts.
        """
        root = epath.Path(workdir) / 'checkpoints'

        def manager(kind: str) -> ocp.CheckpointManager:
            return ocp.CheckpointManager(
                root / kind,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep, create=True
                ),
            )

        self._phases, self._steps = manager('phases'), manager('steps')
        self._root, self._say = root, say
        self._before_save = before_save

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

    def save(
        self,
        phase: int,
        carry: Carry,
        results: list[Any],
        other: Variables | None = None,
    ) -> None:
        """Saves the end of a phase in the background.

        Args:
            phase: its index.
            carry: what the next phase starts from.
            results: of the phases so far, as JSON takes them.
            other: a further model that the phase was judged by, if any.
        """
        self._before_save()
        arrays: dict[str, Any] = {'carry': carry}
        values = {'results': {'phases': results}}
        if other is not None:
            arrays['other'] = other
        self._phases.save(phase, args=items.composite(arrays, values))

    def latest(self) -> int | None:
        """The last phase whose end was saved, or None."""
        return self._phases.latest_step()

    def restore(self, phase: int, like: Carry) -> tuple[Carry, list[Any]]:
        """Reads the end of a phase.

        Args:
            phase: one that was saved.
            like: a carry, placed as the result shall be. Where it has more rows
                than were saved, as when classes have come into being, the
                further rows are its own.

        Returns:
            The carry and the results of the phases up to `phase`.

        Raises:
            ValueError: they are not what was saved. Orbax raises more types.
        """
        found = items.read(
            self._phases, phase, arrays={'carry': like}, values=['results']
        )
        return found['carry'], found['results']['phases']

    def restore_latest(self, like: Carry) -> tuple[Carry, list[Any]] | None:
        """The same of the last phase that can be read, or None."""
        return self._newest(
            self._phases, lambda phase: self.restore(phase, like)
        )

    def save_within(
        self, position: LoopPosition, states: dict[str, Any]
    ) -> None:
        """Saves the middle of a phase in the background.

        Args:
            position: where.
            states: of each loop begun; read before this returns.
        """
        self._before_save()
        latest = self._steps.latest_step()
        arrays = {f'state_{name}': state for name, state in states.items()}
        self._steps.save(
            0 if latest is None else latest + 1,
            args=items.composite(arrays, {'cursor': position._asdict()}),
        )

    def position(self, phase: int) -> LoopPosition | None:
        """Where the last checkpoint within a phase was made, if there is one.

        Whether all of it can be read is tried here.
        """

        def read(number: int) -> LoopPosition:
            found = items.read(
                self._steps, number, arrays={}, values=['cursor']
            )
            position = LoopPosition(**found['cursor'])
            if position.phase == phase:
                names = [f'state_{name}' for name in position.stages]
                items.read(self._steps, number, arrays=dict.fromkeys(names))
            return position

        found = self._newest(self._steps, read)
        return found if found and found.phase == phase else None

    def state(self, name: str, like: Any) -> Any:
        """The state of a loop at the cursor; `like` as for `restore`."""
        number, item = self._steps.latest_step(), f'state_{name}'
        return items.read(self._steps, number, arrays={item: like})[item]

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
            # A bucket has no empty folders, and nothing is moved to where none
            # is.
            (aside / f'{target.name}.txt').write_text(reason + '\n')
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


def ends(workdir: os.PathLike[str]) -> list[int]:
    """The phases of a work directory whose ends can be read."""
    kinds = (name.split('/') for name in whole(workdir))
    return [int(number) for kind, number in kinds if kind == 'phases']


def read_end(
    workdir: os.PathLike[str], phase: int
) -> tuple[Carry, Variables | None, list[Any]]:
    """Reads the end of a phase of a run that may be any, and writes nothing.

    Args:
        workdir: of the run; absolute, or in a bucket.
        phase: one of `ends`.

    Returns:
        The carry, the other model or None, and the results, see
        `Checkpointer.save`. Arrays have the shapes that were saved.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    options = ocp.CheckpointManagerOptions(create=False, read_only=True)
    folder = epath.Path(workdir) / 'checkpoints' / 'phases'
    try:
        with ocp.CheckpointManager(folder, options=options) as manager:
            names = ['carry', 'other']
            found = items.read(
                manager,
                phase,
                arrays={
                    item: None
                    for item in names
                    if (folder / str(phase) / item).exists()
                },
                values=['results'],
            )
    except Exception as e:  # Orbax's storage raises many types.
        reason = ' '.join(str(e).split())[:200]
        raise ValueError(
            f'{folder / str(phase)}: cannot be read: {reason}'
        ) from e
    carry, other = found['carry'], found.get('other')
    held = ExemplarSet(**carry['exemplars'])
    carry = Carry(_variables(carry['variables']), held)
    return carry, other and _variables(other), found['results']['phases']


def _variables(found: dict[str, Any]) -> Variables:
    """A model as Orbax gives it; without any statistics it leaves them out."""
    return Variables(found['params'], found.get('batch_stats') or {})


def whole(workdir: str | os.PathLike[str]) -> list[str]:
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
