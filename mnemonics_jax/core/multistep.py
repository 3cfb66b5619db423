"""Several steps in one dispatch: a scan over batches that are on the devices.

The host's work for a step (choosing a batch, copying it, launching a program)
takes as long as a small network's step on a GPU. So batches are put on the
devices several at a time, and one program takes many steps.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax.core import parallel, xla_flags

State = Any
Metrics = dict[str, jax.Array]


class StackedBatches(NamedTuple):
    """Consecutive batches, on the devices.

    Attributes:
        columns: arrays [m, B, ...] of m batches, sharded over B.
        pool: images that the column 'row' indexes, a
            `data.device_batch.ImageRows`; None if there is a column 'image'.
        first: int32[], step of the stage that uses the first batch.
    """

    columns: dict[str, jax.Array]
    pool: Any
    first: jax.Array


class Dispatch(NamedTuple):
    """The input of one call of a program.

    Attributes:
        num_steps: number of steps, >= 1.
        num_images: number of images of this process in their batches.
        inputs: inputs of the steps.
    """

    num_steps: int
    num_images: int
    inputs: Any


class Loop(NamedTuple):
    """A long loop of a phase.

    Attributes:
        name: name of the stage, unique within the phase.
        num_steps: total number of steps.
        dispatches: `(step) -> iterable of Dispatch`, from that step to the end.
        step: `(step, state, dispatch) -> (state, metrics)`, takes all steps of
            a dispatch and returns metrics [num_steps]; may donate the state.
        mark: `(step) -> numbers` that a record of the metrics up to this step
            begins with, or None for no record after this step.
        place: `(step) -> text` for the progress line, or ''.
    """

    name: str
    num_steps: int
    dispatches: Callable[[int], Iterable[Dispatch]]
    step: Callable[[int, State, Dispatch], tuple[State, Metrics]]
    mark: Callable[[int], dict[str, Any] | None]
    place: Callable[[int], str] = lambda step: ''


def batch_at(stacked: StackedBatches, step: jax.Array) -> dict[str, Any]:
    """Inside jit: the batch of a step."""
    batch = {
        name: jax.lax.dynamic_index_in_dim(
            column, step - stacked.first, keepdims=False
        )
        for name, column in stacked.columns.items()
    }
    return batch if stacked.pool is None else {**batch, 'pool': stacked.pool}


def repeat(
    step: Callable[[State, Any], tuple[State, Metrics]],
    placement: parallel.Placement,
    name: str,
    *,
    axis: int | None = None,
) -> Callable[[State, Any, int], tuple[State, Metrics]]:
    """Compiles many steps into one program.

    Args:
        step: a pure function that keeps the step number in its state.
        placement: placement of the state and the metrics.
        name: name of the program in profiles.
        axis: axis of the state's arrays that devices share, see
            `Placement.sharing`; None if the state is replicated.

    Returns:
        `(state, inputs, num) -> (state, metrics)`, which takes `num` steps on
        the same inputs; each metric is an array [num]. It donates the state and
        is compiled once for each `num`.
    """

    def steps(state, inputs, num):
        if num == 1:
            state, metrics = step(state, inputs)
            return state, jax.tree.map(lambda x: x[None], metrics)
        return jax.lax.scan(
            lambda state, _: step(state, inputs), state, length=num
        )

    def placed(state, inputs, num):
        state, metrics = steps(state, inputs, num)
        if axis is not None:
            share = functools.partial(placement.share, axis=axis)
            state = jax.tree.map(share, state)
        return state, metrics

    placed.__name__ = name
    # The sharding of a shared array depends on its shape.
    kept = placement.replicated if axis is None else None
    return jax.jit(
        placed,
        static_argnums=2,
        donate_argnums=0,
        out_shardings=(kept, placement.replicated),
        compiler_options=xla_flags.of_networks(placement.platform),
    )


def single(
    placement: parallel.Placement, batch: dict[str, Any]
) -> StackedBatches:
    """One batch of this process as stacked batches."""
    return _place(placement, [batch], 0, 1)


def dispatches(
    placement: parallel.Placement,
    batches: Iterable[dict[str, Any]],
    *,
    first: int,
    num: int,
    capacity: int,
) -> Iterator[Dispatch]:
    """Puts the batches of an epoch on the devices and groups them.

    Batches of images are copied `num` at a time while the devices compute on
    the group before; the last few of an epoch one by one, so that only two
    sizes of programs are compiled. Batches of rows are small and copied all at
    once, before the epoch.

    Args:
        placement: placement of the batches.
        batches: batches of this process, the rest of an epoch.
        first: step of the stage that uses the first batch.
        num: number of steps in a dispatch, >= 1.
        capacity: number of batches in the longest epoch, to which batches of
            rows are padded.
    """
    batches = iter(batches)
    head = next(batches, None)
    if head is None:
        return
    batches = itertools.chain([head], batches)
    if 'pool' in head:
        rest = list(batches)
        stacked = _place(placement, rest, first, max(capacity, len(rest)))
        for group in in_groups(rest, num):
            yield Dispatch(len(group), _num_images(group), stacked)
        return

    def placed() -> Iterator[Dispatch]:
        step = first
        for group in in_groups(batches, num):
            stacked = _place(placement, group, step, len(group))
            yield Dispatch(len(group), _num_images(group), stacked)
            step += len(group)

    yield from parallel.look_ahead(placed(), placement)


def in_groups(items: Iterable[Any], num: int) -> Iterator[list[Any]]:
    """Groups of `num` items; the remaining items one by one."""
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
    """`size` batches, padded with copies of the last one."""
    padded = batches + batches[-1:] * (size - len(batches))
    columns = {
        name: np.stack([batch[name] for batch in padded])
        for name in batches[0]
        if name != 'pool'
    }
    return StackedBatches(
        parallel.shard_batch(placement, columns, placement.stacked),
        batches[0].get('pool'),
        parallel.replicate(placement, np.int32(first)),
    )
