"""Several steps in one dispatch: a scan over batches that are on the devices.

A step is a pure function; what the host does for it (choosing a batch, copying
it, launching a program) costs as much as a small network's step on a GPU. So
batches are put on the devices in blocks, and one program takes many steps.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax.core import parallel

State = Any
Metrics = dict[str, jax.Array]


class StackedBatches(NamedTuple):
    """Consecutive batches, on the devices.

    Attributes:
        columns: arrays [m, B, ...] of m batches, split over devices by B.
        pool: images that the column 'row' names, see `data.device_batch`;
            None where there is a column 'image'.
        first: int32[], the step of the stage that the first batch is for.
    """

    columns: dict[str, jax.Array]
    pool: jax.Array | None
    first: jax.Array


class Dispatch(NamedTuple):
    """What one program works on.

    Attributes:
        num_steps: steps that it takes, >= 1.
        num_images: that this process has in their batches.
        inputs: of the steps.
    """

    num_steps: int
    num_images: int
    inputs: Any


class Loop(NamedTuple):
    """A long loop of a phase.

    Attributes:
        name: of the stage, unique within the phase.
        num_steps: in all.
        dispatches: `(step) -> iterable of Dispatch`, from that step on
            to the end.
        step: `(step, state, dispatch) -> (state, metrics)`, all steps of a
            dispatch and arrays [num_steps] of metrics; may donate the state.
        mark: `(step) -> numbers` that say where the record of the steps up to
            this one is made, or None for no record after this one.
        place: `(step) -> text` that says where the loop is, or ''.
    """

    name: str
    num_steps: int
    dispatches: Callable[[int], Iterable[Dispatch]]
    step: Callable[[int, State, Dispatch], tuple[State, Metrics]]
    mark: Callable[[int], dict[str, Any] | None]
    place: Callable[[int], str] = lambda step: ''


def batch_at(block: StackedBatches, step: jax.Array) -> dict[str, jax.Array]:
    """The batch of a step, inside jit."""
    batch = {
        name: jax.lax.dynamic_index_in_dim(
            column, step - block.first, keepdims=False
        )
        for name, column in block.columns.items()
    }
    return batch if block.pool is None else {**batch, 'pool': block.pool}


def repeat(
    step: Callable[[State, Any], tuple[State, Metrics]],
    placement: parallel.Placement,
    name: str,
) -> Callable[[State, Any, int], tuple[State, Metrics]]:
    """Makes one program of many steps.

    Args:
        step: pure; it counts in its state which step it is.
        placement: of the result, which is replicated.
        name: of the program, in profiles.

    Returns:
        `(state, inputs, num) -> (state, metrics)`, `num` steps on the same
        inputs, each metric as an array [num]. It donates the state and is
        compiled for each `num`.
    """

    def steps(state, inputs, num):
        if num == 1:
            state, metrics = step(state, inputs)
            return state, jax.tree.map(lambda x: x[None], metrics)
        return jax.lax.scan(
            lambda state, _: step(state, inputs), state, length=num
        )

    steps.__name__ = name
    return jax.jit(
        steps,
        static_argnums=2,
        donate_argnums=0,
        out_shardings=placement.replicated,
    )


def single(
    placement: parallel.Placement, batch: dict[str, Any]
) -> StackedBatches:
    """A block of one batch (of this process), for any step."""
    return _place(placement, [batch], 0, 1)


def dispatches(
    placement: parallel.Placement,
    batches: Iterable[dict[str, Any]],
    *,
    first: int,
    num: int,
    capacity: int,
) -> Iterator[Dispatch]:
    """Puts the batches of an epoch on the devices and says how they are taken.

    Batches of images travel `num` at a time, the copy of the next ones under
    way; the last few of an epoch one by one, so that there are two sizes of
    programs and no more. Batches of rows, which are small, travel all at once:
    nothing is copied until the epoch ends.

    Args:
        placement: of the batches.
        batches: of this process, what is left of an epoch.
        first: the step of the stage that the first of them is for.
        num: steps in a dispatch, >= 1.
        capacity: batches of the longest epoch, to which blocks of rows are
            padded.
    """
    batches = iter(batches)
    head = next(batches, None)
    if head is None:
        return
    batches = itertools.chain([head], batches)
    if 'pool' in head:
        rest = list(batches)
        block = _place(placement, rest, first, max(capacity, len(rest)))
        for group in in_groups(rest, num):
            yield Dispatch(len(group), _num_images(group), block)
        return

    def placed() -> Iterator[Dispatch]:
        step = first
        for group in in_groups(batches, num):
            block = _place(placement, group, step, len(group))
            yield Dispatch(len(group), _num_images(group), block)
            step += len(group)

    yield from parallel.look_ahead(placed(), placement)


def in_groups(items: Iterable[Any], num: int) -> Iterator[list[Any]]:
    """Groups of `num` items; the last few, if they are fewer, one by one."""
    items = iter(items)
    while len(group := list(itertools.islice(items, num))) == num:
        yield group
    for item in group:
        yield [item]


def _num_images(batches: list[dict[str, Any]]) -> int:
    return sum(int(batch['weight'].sum()) for batch in batches)


def _place(
    placement: parallel.Placement,
    batches: list[dict[str, Any]],
    first: int,
    size: int,
) -> StackedBatches:
    """A block of `size` batches, the last one repeated as often as needed."""
    padded = batches + batches[-1:] * (size - len(batches))
    columns = {
        name: np.stack([batch[name] for batch in padded])
        for name in batches[0]
        if name != 'pool'
    }
    return StackedBatches(
        parallel.shard_batch(placement, columns, placement.block),
        batches[0].get('pool'),
        parallel.replicate(placement, np.int32(first)),
    )
