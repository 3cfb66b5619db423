"""Saving and restoring what a run needs to go on, by Orbax.

Two kinds, each in a folder of its own:
    phases/<i>: the end of phase i, the `Carry` (model and memory, as global
        arrays) and the results so far.
    steps/<n>: the middle of a phase, the states of its loops and a `Cursor`;
        it goes on from the end of the phase before.
A write that was cut off leaves the checkpoint before it in force. One that is
damaged is put aside, into `damaged`, and the one before it taken.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath

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
        self._phases.close()
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
        self._before_save()
        self._phases.save(
            phase,
            args=ocp.args.Composite(
                carry=ocp.args.StandardSave(carry),
                results=ocp.args.JsonSave({'phases': results}),
            ),
        )

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
        """
        args = ocp.args.Composite(results=ocp.args.JsonRestore())
        results = self._phases.restore(phase, args=args)['results']
        carry = self._read(self._phases, phase, 'carry', like)
        return carry, results['phases']

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
        self._before_save()
        latest = self._steps.latest_step()
        items = {
            f'state_{name}': ocp.args.StandardSave(state)
            for name, state in states.items()
        }
        self._steps.save(
            0 if latest is None else latest + 1,
            args=ocp.args.Composite(
                cursor=ocp.args.JsonSave(cursor._asdict()), **items
            ),
        )

    def cursor(self, phase: int) -> Cursor | None:
        """Where the last checkpoint within a phase was made, if there is one.

        Whether all of it can be read is tried here.
        """

        def read(number: int) -> Cursor:
            args = ocp.args.Composite(cursor=ocp.args.JsonRestore())
            cursor = Cursor(**self._steps.restore(number, args=args)['cursor'])
            if cursor.phase == phase:
                for name in cursor.stages:
                    self._read(self._steps, number, f'state_{name}', None)
            return cursor

        found = self._newest(self._steps, read)
        return found if found and found.phase == phase else None

    def state(self, name: str, like: Any) -> Any:
        """The state of a loop at the cursor; `like` as for `restore`."""
        number = self._steps.latest_step()
        return self._read(self._steps, number, f'state_{name}', like)

    def _read(
        self,
        manager: ocp.CheckpointManager,
        number: int,
        item: str,
        like: Any,
    ) -> Any:
        """An item of a checkpoint; as it was saved where `like` is None."""
        target = None
        if like is not None:
            target = _saved_form(manager.directory / str(number) / item, like)
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(target)})
        found = manager.restore(number, args=args)[item]
        return found if like is None else jax.tree.map(_grow, like, found)

    def _newest(
        self, manager: ocp.CheckpointManager, read: Callable[[int], Any]
    ) -> Any:
        """What is read of the newest checkpoint that can be, or None."""
        while (number := manager.latest_step()) is not None:
            try:
                return read(number)
            except Exception as e:  # Orbax's storage raises many types.
                self._put_aside(manager, number, e)
        return None

    def _put_aside(
        self, manager: ocp.CheckpointManager, number: int, error: Exception
    ) -> None:
        """Moves a checkpoint to where it is not looked for."""
        folder = f'{manager.directory.name}/{number}'
        reason = ' '.join(str(error).split())[:200]
        self._say(f'checkpoint {folder} cannot be read, put aside: {reason}')
        aside = self._root / 'damaged'
        aside.mkdir(exist_ok=True)
        target = aside / f'{manager.directory.name}_{number}'
        # A bucket has no empty folders, and nothing is moved to where none is.
        (aside / f'{target.name}.txt').write_text(reason + '\n')
        if target.exists():
            target.rmtree()
        (manager.directory / str(number)).rename(target)
        manager.reload()


def _saved_form(folder: epath.Path, like: Any) -> Any:
    """Shapes of the arrays in a folder, placed as those of `like` are."""
    saved = ocp.StandardCheckpointHandler().metadata(folder)
    shapes = {
        _names(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(saved)
    }

    def form(path: Any, leaf: jax.Array) -> jax.ShapeDtypeStruct:
        ours = ocp.utils.to_shape_dtype_struct(leaf)
        return jax.ShapeDtypeStruct(
            shapes[_names(path)], ours.dtype, sharding=ours.sharding
        )

    return jax.tree_util.tree_map_with_path(form, like)


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """A path in a tree; Orbax writes every kind of node as a dictionary."""
    return tuple(jax.tree_util.keystr([key], simple=True) for key in path)


def _grow(like: jax.Array, found: jax.Array) -> jax.Array:
    """`found` in the shape of `like`, further entries from `like`."""
    if like.shape == found.shape:
        return found
    both = zip(like.shape, found.shape, strict=True)
    common = tuple(slice(min(sizes)) for sizes in both)
    return jax.jit(lambda x, y: x.at[common].set(y[common]))(like, found)
