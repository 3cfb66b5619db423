"""Orbax checkpoints of a run.

There are two kinds, each in its own folder:
    phases/<i>: the end of phase i: the `Carry` (model and memory, as global
        arrays), the results so far, and the phase's other evaluated model.
    steps/<n>: the middle of a phase: the states of its loops and a
        `LoopPosition`. It builds on the end of the previous phase.
If a write is cut off, the previous checkpoint stays the latest. A damaged
checkpoint is moved to `damaged` and the previous one is restored. Orbax, which
takes most of a second to import, is imported by the first save or restore.
"""

import contextlib
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mnemonics_jax.core import multihost
from mnemonics_jax.core import workdir as workdirs
from mnemonics_jax.core.regular import regular
from mnemonics_jax.train import checkpoint_items as items
from mnemonics_jax.types import Carry, EncodedImages, ExemplarSet, Variables

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

PHASES, STEPS = 'phases', 'steps'
_COMPLETE = 'commit_success.txt'


class LoopPosition(NamedTuple):
    """Position in a phase at which a checkpoint was saved; JSON serializable.

    Attributes:
        phase: phase index.
        stages: steps done, by name of each loop started so far.
        records: number of lines written to `metrics.jsonl`.
        pending: metrics of the steps since the last line.
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
        """The checkpoints in `workdir/checkpoints`, created by the first save.

        Args:
            workdir: work directory of the run; absolute, or in a bucket.
            keep: number of newest checkpoints of each kind to keep.
            say: called with a line about each damaged checkpoint.
            before_save: called before each save, to store the files that the
                checkpoint refers to.
        """
        self._root, self._keep = epath.Path(workdir) / 'checkpoints', keep
        self._opened: dict[str, CheckpointManager] = {}
        self._say, self._before_save = say, before_save

    def __enter__(self) -> 'Checkpointer':
        return self

    def __exit__(self, *exception: Any) -> None:
        with contextlib.ExitStack() as stack:
            for manager in self._opened.values():
                stack.callback(manager.close)

    def _manager(self, kind: str) -> 'CheckpointManager':
        """Orbax's manager of one kind of checkpoints."""
        if kind not in self._opened:
            import orbax.checkpoint as ocp

            self._move_pipes(kind)
            # Both kinds may be saved at once. Of several processes, the threads
            # of one would then wait at the same barrier, which fails.
            barriers = ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=kind
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                create=True,
                multiprocessing_options=barriers,
            )
            folder = self._root / kind
            self._opened[kind] = ocp.CheckpointManager(folder, options=options)
        return self._opened[kind]

    def _numbers(self, kind: str) -> list[int]:
        """Numbers of the checkpoints of one kind, ascending."""
        # Managers of several processes wait for each other: open one in all.
        if jax.process_count() == 1 and kind not in self._opened:
            return _numbers_in(self._root / kind)
        return sorted(self._manager(kind).all_steps())

    def wait(self) -> None:
        """Blocks until every save is on disk."""
        for manager in self._opened.values():
            manager.wait_until_finished()

    def save(
        self,
        phase: int,
        carry: Carry,
        results: list[Any],
        other: Variables | None = None,
        setup: Any = None,
    ) -> None:
        """Saves the end of a phase in the background.

        Args:
            phase: phase index.
            carry: state that the next phase starts from.
            results: results of the phases so far, JSON serializable.
            other: the phase's other evaluated model, if any.
            setup: content of `config.json`, for `read_setup`.
        """
        self._before_save()
        arrays: dict[str, Any] = {'carry': _without_decoded(carry)}
        if carry.encoded is not None:
            arrays['encoded'] = carry.encoded._asdict()
        values = {'results': {'phases': results}}
        if setup is not None:
            values['setup'] = setup
        if other is not None:
            arrays['other'] = other
        self._manager(PHASES).save(phase, args=items.composite(arrays, values))

    def latest(self) -> int | None:
        """Index of the last saved phase, or None."""
        return max(self.saved(), default=None)

    def saved(self) -> list[int]:
        """Indices of the saved phases, ascending."""
        return self._numbers(PHASES)

    def restore(self, phase: int, like: Carry) -> tuple[Carry, list[Any]]:
        """Restores the end of a phase.

        Args:
            phase: index of a saved phase.
            like: a carry with the shapes and placement of the result. Rows
                beyond the saved ones, of classes added after the start, are
                taken from it.

        Returns:
            The carry and the results of the phases up to `phase`. Images of
            which encoded ones are saved are those of `like`: they have to be
            decoded.

        Raises:
            ValueError: a digest does not match. Orbax raises other types.
        """
        arrays: dict[str, Any] = {'carry': _without_decoded(like)}
        if like.encoded is not None:
            arrays['encoded'] = None  # Of the saved shape.
        found = items.read(
            self._root / PHASES / str(phase), arrays=arrays, values=['results']
        )
        exemplars = {'images': like.exemplars.images}
        exemplars |= found['carry']['exemplars']
        carry = Carry(
            found['carry']['variables'],
            ExemplarSet(**exemplars),
            _encoded(found, like.exemplars.mask.shape),
        )
        return carry, found['results']['phases']

    def restore_latest(self, like: Carry) -> tuple[Carry, list[Any]] | None:
        """Restores the last readable phase; None if there is none."""
        return self._newest(PHASES, lambda phase: self.restore(phase, like))

    def save_within(
        self, position: LoopPosition, states: dict[str, Any]
    ) -> None:
        """Saves the middle of a phase in the background.

        Args:
            position: position in the phase.
            states: state of each loop started; copied before this returns.
        """
        self._before_save()
        latest = max(self._numbers(STEPS), default=-1)
        arrays = {f'state_{name}': state for name, state in states.items()}
        self._manager(STEPS).save(
            latest + 1,
            args=items.composite(arrays, {'position': position._asdict()}),
        )

    def position(self, phase: int) -> LoopPosition | None:
        """Position of the last checkpoint within a phase, or None.

        Reads all of the checkpoint to check that it is not damaged.
        """

        def read(number: int) -> LoopPosition:
            folder = self._root / STEPS / str(number)
            found = items.read(folder, arrays={}, values=['position'])
            position = LoopPosition(**found['position'])
            if position.phase == phase:
                names = [f'state_{name}' for name in position.stages]
                items.read(folder, arrays=dict.fromkeys(names))
            return position

        found = self._newest(STEPS, read)
        return found if found and found.phase == phase else None

    def state(self, name: str, like: Any) -> Any:
        """Restores the state of a loop; `like` as for `restore`."""
        folder = self._root / STEPS / str(max(self._numbers(STEPS)))
        item = f'state_{name}'
        return items.read(folder, arrays={item: like})[item]

    def _newest(self, kind: str, read: Callable[[int], Any]) -> Any:
        """Reads the newest readable checkpoint; None if there is none."""
        while numbers := self._numbers(kind):
            number, found, error = numbers[-1], None, None
            try:
                found = read(number)
            except Exception as e:  # Orbax's storage raises many types.
                error = e
            if multihost.all_agree(error is None):
                return found
            self._move_damaged(kind, number, error)
        return None

    def _move_pipes(self, kind: str) -> None:
        """Moves checkpoints that Orbax's manager would read for ever."""
        for number in _numbers_in(self._root / kind):
            error = None
            try:
                items.check_files(self._root / kind / str(number))
            except OSError as e:
                error = e
            if not multihost.all_agree(error is None):
                self._move_damaged(kind, number, error)

    def _move_damaged(
        self, kind: str, number: int, error: Exception | None
    ) -> None:
        """Moves a checkpoint to `damaged`, where Orbax does not find it."""
        reason = ' '.join(str(error or 'in another process').split())[:200]
        if jax.process_index() == 0:
            self._say(
                f'checkpoint {kind}/{number} cannot be read, moved to '
                f'damaged/{kind}_{number}: {reason}'
            )
            damaged = self._root / 'damaged'
            damaged.mkdir(exist_ok=True)
            target = damaged / f'{kind}_{number}'
            # A bucket has no empty folders, so a file must exist before the
            # move.
            (damaged / f'{target.name}.txt').write_text(reason + '\n')
            if target.exists():
                target.rmtree()
            (self._root / kind / str(number)).rename(target)
        multihost.all_agree(True)  # All wait for process 0.
        if kind in self._opened:
            self._opened[kind].reload()


def ends(workdir: os.PathLike[str]) -> list[int]:
    """Indices of the saved phases of a work directory, ascending."""
    return _numbers_in(epath.Path(workdir) / 'checkpoints' / PHASES)


def read_end(
    workdir: os.PathLike[str], phase: int
) -> tuple[Carry, Variables | None, list[Any]]:
    """Reads the end of a phase of any run, without writing anything.

    Args:
        workdir: work directory of the run; absolute, or in a bucket.
        phase: one of `ends`.

    Returns:
        The carry, the other model or None, and the results, see
        `Checkpointer.save`. Arrays have the saved shapes. Images of which
        encoded ones are saved are an empty array: they have to be decoded.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    folder = epath.Path(workdir) / 'checkpoints' / PHASES / str(phase)
    names = ['carry', 'other', 'encoded']
    try:
        found = items.read(
            folder,
            arrays={n: None for n in names if (folder / n).exists()},
            values=['results'],
            alone=True,
        )
    except Exception as e:  # Orbax's storage raises many types.
        reason = ' '.join(str(e).split())[:200]
        raise ValueError(f'{folder}: cannot be read: {reason}') from e
    carry, other = found['carry'], found.get('other')
    memory = ExemplarSet(**{'images': np.zeros(0), **carry['exemplars']})
    encoded = _encoded(found, memory.mask.shape)
    carry = Carry(_variables(carry['variables']), memory, encoded)
    return carry, other and _variables(other), found['results']['phases']


def read_setup(workdir: os.PathLike[str]) -> Any:
    """The content of `config.json` from the last checkpoint that has it.

    None if none does: those of early versions lack it. Reads the files without
    Orbax, so that one of several processes can call it.
    """
    root = epath.Path(workdir) / 'checkpoints' / PHASES
    for phase in reversed(ends(workdir)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found, digests = (
                json.loads(
                    regular(root / str(phase) / item / 'metadata').read_text()
                )
                for item in ('setup', 'digests')
            )
            if items.digest_of_json(found) == digests['setup']:
                return found
    return None


def _without_decoded(carry: Carry) -> dict[str, Any]:
    """A carry as it is saved: without images of which encoded ones are."""
    exemplars = {'mask': carry.exemplars.mask}
    if carry.encoded is None:
        exemplars['images'] = carry.exemplars.images
    return {'variables': carry.variables, 'exemplars': exemplars}


def _encoded(
    found: dict[str, Any], shape: tuple[int, ...]
) -> EncodedImages | None:
    """Encoded images of a memory with a mask of this shape, if any are saved.

    Classes and slots that were not saved are empty.
    """
    if 'encoded' not in found:
        return None
    saved = EncodedImages(**jax.tree.map(np.asarray, found['encoded']))
    lengths = np.zeros(shape, np.int32)
    rows, slots = saved.lengths.shape
    lengths[:rows, :slots] = saved.lengths
    return saved._replace(lengths=lengths)


def _variables(found: dict[str, Any]) -> Variables:
    """Variables from Orbax's dictionary, which omits empty batch_stats."""
    return Variables(found['params'], found.get('batch_stats') or {})


def whole(workdir: str | os.PathLike[str]) -> list[str]:
    """Completely written checkpoints of a work directory, as 'phases/1'."""
    root = epath.Path(workdir) / 'checkpoints'
    return [
        f'{kind}/{number}'
        for kind in (PHASES, STEPS)
        for number in _numbers_in(root / kind)
    ]


def _numbers_in(folder: epath.Path) -> list[int]:
    """Numbers of the completely written checkpoints in a folder, ascending."""
    if not folder.exists():
        return []
    found = [path for path in folder.iterdir() if path.name.isdecimal()]
    # On a disk an incomplete checkpoint has a temporary name, which is no
    # number; in a bucket Orbax marks a complete one by a file.
    if workdirs.address(folder) is not None:
        found = [path for path in found if (path / _COMPLETE).exists()]
    return sorted(int(path.name) for path in found)
