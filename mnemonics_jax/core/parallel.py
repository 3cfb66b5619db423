"""Devices: the only file that names a mesh axis.

One program serves 1 or N devices. Its mathematics is that of the global batch;
sharding says only where the parts of a batch lie, and XLA inserts the sums over
devices. Params, statistics and pixels are replicated.
"""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = 'data'

# Batches on their way to the devices, beside the one that is computed on.
AHEAD = 2


class Placement(NamedTuple):
    """Where arrays live.

    Attributes:
        mesh: all devices in one row.
        batch: leading axis split over the devices.
        block: the second axis split over the devices.
        replicated: the whole array on every device.
    """

    mesh: jax.sharding.Mesh
    batch: NamedSharding
    block: NamedSharding
    replicated: NamedSharding

    @property
    def num_devices(self) -> int:
        """Devices of the mesh, of all processes."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """The kind of devices: cpu, gpu or tpu."""
        return self.mesh.devices.flat[0].platform

    @property
    def shard(self) -> tuple[int, int]:
        """(i, c): this process is the i-th of c, and feeds its i-th slice."""
        return jax.process_index(), jax.process_count()

    def split(self, x: jax.Array) -> jax.Array:
        """Inside jit: splits the leading axis of `x` over the devices."""
        return jax.lax.with_sharding_constraint(x, self.batch)

    def gather(self, x: jax.Array) -> jax.Array:
        """Inside jit: the whole of `x` on every device."""
        return jax.lax.with_sharding_constraint(x, self.replicated)

    def spread(self, x: jax.Array) -> jax.Array:
        """Inside jit: a copy of `x` for each device, [d, ...]; see `take`."""
        return self.split(jnp.broadcast_to(x, (self.num_devices, *x.shape)))

    def take(self, copies: jax.Array, index: jax.Array) -> jax.Array:
        """Inside jit: rows of what `spread` made, split over the devices.

        Each device takes from its own copy, so that gradients of the devices
        are summed once, where the copies were made, and not each time that rows
        are taken.

        Args:
            copies: [d, n, ...].
            index: int32[b] in [-n, n).

        Returns:
            [b, ...].
        """
        missing = -len(index) % self.num_devices
        index = jnp.pad(index, (0, missing)).reshape(self.num_devices, -1)
        taken = jax.vmap(lambda copy, rows: copy[rows])(
            self.split(copies), self.split(index)
        )
        rows = self.split(taken).reshape(-1, *copies.shape[2:])
        return self.split(rows[: len(rows) - missing])


def make_placement(devices: Sequence[jax.Device] | None = None) -> Placement:
    """A placement over `devices`, by default all there are."""
    devices = jax.devices() if devices is None else devices
    # Process by process, so that a process' slice of a batch is contiguous;
    # `jax.make_mesh` may order them otherwise.
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    mesh = jax.sharding.Mesh(
        np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,)
    )
    return Placement(
        mesh=mesh,
        batch=NamedSharding(mesh, PartitionSpec(AXIS)),
        block=NamedSharding(mesh, PartitionSpec(None, AXIS)),
        replicated=NamedSharding(mesh, PartitionSpec()),
    )


def avoid_cached_collectives() -> None:
    """Turns JAX's persistent compilation cache off on several CPU devices.

    Programs with collectives that XLA's CPU backend loads from that cache no
    longer agree about the order of independent collectives, and wait for each
    other for ever (seen with jax 0.10.2: half of eight devices in an all-reduce
    and half in an all-gather of one step). Freshly compiled ones do.
    """
    if jax.default_backend() == 'cpu' and jax.device_count() > 1:
        use_compilation_cache(False)


def use_compilation_cache(use: bool) -> None:
    """Turns JAX's persistent compilation cache on or off, also when in use."""
    jax.config.update('jax_enable_compilation_cache', use)
    # It looks at the setting once, when it is first asked.
    compilation_cache.reset_cache()


def replicate(placement: Placement, tree: Any) -> Any:
    """Every array of `tree` (the same in all processes) on every device.

    PRNG keys are no arrays of numbers: see `replicate_key`.
    """

    def put(x):
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(
            placement.replicated, x.ndim
        ):
            return x
        return jax.make_array_from_process_local_data(
            placement.replicated, np.asarray(x)
        )

    return jax.tree.map(put, tree)


def replicate_key(placement: Placement, key: jax.Array) -> jax.Array:
    """A PRNG key (the same in all processes) on every device."""
    return jax.random.wrap_key_data(
        replicate(placement, jax.random.key_data(key)),
        impl=jax.random.key_impl(key),
    )


def gather_batch(placement: Placement, x: np.ndarray) -> np.ndarray:
    """The whole of what each process has a slice of, on the host."""
    if placement.shard[1] == 1:
        return x
    return multihost_utils.process_allgather(x, tiled=True)


def shard_batch(
    placement: Placement, tree: Any, sharding: NamedSharding | None = None
) -> Any:
    """This process' slice of a batch, as part of the global split array.

    What lies on the devices already stays as it is.

    Args:
        placement: of batches.
        tree: of arrays.
        sharding: how they are split, by default as `placement.batch`.
    """

    def put(x):
        if isinstance(x, jax.Array):
            return x
        return jax.make_array_from_process_local_data(
            sharding or placement.batch, x
        )

    return jax.tree.map(put, tree)


def shard_batches(
    placement: Placement,
    batches: Iterable[dict[str, Any]],
    *,
    ahead: int | None = None,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each batch as it is on the host, and on the devices by `shard_batch`.

    Args:
        placement: of the batches.
        batches: of this process.
        ahead: see `look_ahead`.
    """
    pairs = ((batch, shard_batch(placement, batch)) for batch in batches)
    return look_ahead(pairs, placement, ahead=ahead)


def look_ahead(
    items: Iterable[Any], placement: Placement, *, ahead: int | None = None
) -> Iterator[Any]:
    """The same items, some of them made before they are asked for.

    Args:
        items: whose making begins a copy to the devices.
        placement: of what is copied.
        ahead: items whose copies are under way while one is computed on; by
            default `AHEAD`, and none on CPU, where there is nothing to copy.
    """
    if ahead is None:
        ahead = 0 if placement.platform == 'cpu' else AHEAD
    waiting: collections.deque[Any] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
