"""Devices: the only file that names a mesh axis.

The same program runs on 1 or N devices. It computes on the global batch;
sharding only places the parts of a batch, and XLA inserts the sums over
devices. Params and statistics are replicated. Pixels that are learned, and
their optimizer state, are shared by the devices where they divide evenly.
"""

import collections
import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mnemonics_jax.core import xla_flags

AXIS = 'data'

# Batches copied ahead of the one that the devices compute on.
AHEAD = 2

_described: contextvars.ContextVar[tuple[str, str] | None] = (
    contextvars.ContextVar('described', default=None)
)


class Placement(NamedTuple):
    """The mesh and the shardings that arrays may have.

    Attributes:
        mesh: all devices in one row.
        batch: sharding of the leading axis.
        stacked: sharding of the second axis.
        replicated: the whole array on every device.
    """

    mesh: jax.sharding.Mesh
    batch: NamedSharding
    stacked: NamedSharding
    replicated: NamedSharding

    @property
    def num_devices(self) -> int:
        """Number of devices of the mesh, over all processes."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """The kind of devices: cpu, gpu or tpu."""
        return self.mesh.devices.flat[0].platform

    @property
    def shard(self) -> tuple[int, int]:
        """(i, c): this process is the i-th of c and feeds the i-th slice."""
        return jax.process_index(), jax.process_count()

    def split(self, x: jax.Array) -> jax.Array:
        """Inside jit: shards the leading axis of `x` over the devices."""
        return jax.lax.with_sharding_constraint(x, self.batch)

    def share(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """Inside jit: shards an axis of `x` as `sharing` says."""
        return jax.lax.with_sharding_constraint(x, self.sharing(x.shape, axis))

    def sharing(self, shape: tuple[int, ...], axis: int = 0) -> NamedSharding:
        """The sharding of an array that is kept from step to step.

        Its axis is sharded if its length is a multiple of the number of
        devices; else, and without such an axis, the array is replicated.
        """
        if len(shape) <= axis or shape[axis] % self.num_devices:
            return self.replicated
        spec = PartitionSpec(*[None] * axis, AXIS)
        return NamedSharding(self.mesh, spec)

    def by_rows(
        self, function: Callable[[jax.Array], jax.Array]
    ) -> Callable[[jax.Array], jax.Array]:
        """Inside jit: applies a function of rows on all devices.

        Args:
            function: `[b, ...] -> [b, ...]`, row by row. Only its argument is
                differentiated, not what it closes over.

        Returns:
            The same function. Each device computes its own rows, without any
            exchange if all have equally many.
        """
        rows = PartitionSpec(AXIS)
        local = jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=rows,
            out_specs=rows,
            # Gradients of kernels, which are not asked for, would be wrong.
            check_vma=False,
        )

        def apply(x: jax.Array) -> jax.Array:
            # XLA shares rows that do not divide evenly with fewer exchanges.
            uneven = len(x) % self.num_devices
            return function(self.split(x)) if uneven else local(x)

        return apply

    def alike(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Inside jit: a function that every device computes by itself.

        Its arguments are replicated first, and so are its results and their
        derivatives; a sharding constraint would still leave XLA free to share
        the work.
        """
        whole = PartitionSpec()
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=whole, out_specs=whole
        )

    def spread(self, x: jax.Array) -> jax.Array:
        """Inside jit: a copy of `x` for each device, [d, ...]; see `take`."""
        return self.split(jnp.broadcast_to(x, (self.num_devices, *x.shape)))

    def take(self, copies: jax.Array, index: jax.Array) -> jax.Array:
        """Inside jit: rows of the copies by `spread`, sharded over the devices.

        Each device takes from its own copy, so that gradients are summed over
        devices once, where the copies were made, and not at every `take`.

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


def check_devices() -> None:
    """Raises ValueError if there are no devices, and says why.

    JAX_PLATFORMS names a platform without one, or XLA refuses XLA_FLAGS.
    """
    xla_flags.check()
    try:
        jax.devices()
    # JAX asserts that each platform has devices.
    except (AssertionError, RuntimeError) as e:
        config: Any = jax.config
        reason = f' ({str(e).splitlines()[0]})' if str(e) else ''
        raise ValueError(
            f'JAX_PLATFORMS={config.jax_platforms}: must be a platform with a '
            'device on this machine, such as cpu, or unset for the best that '
            f'there is{reason}'
        ) from e


def make_placement(devices: Sequence[jax.Device] | None = None) -> Placement:
    """A placement over `devices`, by default all of them."""
    devices = jax.devices() if devices is None else devices
    # By process, so that the slice of a process is contiguous; `jax.make_mesh`
    # may order them otherwise.
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    mesh = jax.sharding.Mesh(
        np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,)
    )
    return Placement(
        mesh=mesh,
        batch=NamedSharding(mesh, PartitionSpec(AXIS)),
        stacked=NamedSharding(mesh, PartitionSpec(None, AXIS)),
        replicated=NamedSharding(mesh, PartitionSpec()),
    )


@contextlib.contextmanager
def compiling_for(platform: str, kind: str = '') -> Iterator[None]:
    """Inside: programs are traced for devices that are only described.

    Such devices come from `jax.experimental.topologies`: programs are compiled
    for them on a machine without them, and they hold no arrays. What JAX has
    traced before keeps its platform.

    Args:
        platform: gpu or tpu.
        kind: `device_kind` of the devices, where programs depend on it.
    """
    token = _described.set((platform, kind))
    try:
        yield
    finally:
        _described.reset(token)


def described_platform() -> str | None:
    """The platform of `compiling_for`; None where there are devices."""
    described = _described.get()
    return described and described[0]


def default_platform() -> str:
    """The platform that programs are traced for: cpu, gpu or tpu."""
    return described_platform() or jax.default_backend()


def default_kind() -> str:
    """The `device_kind` of the devices that programs are traced for."""
    described = _described.get()
    return described[1] if described else jax.devices()[0].device_kind


def avoid_cached_collectives() -> None:
    """Turns JAX's persistent compilation cache off on several CPU devices.

    When XLA's CPU backend loads a program with collectives from that cache,
    devices may run independent collectives in different orders and wait for
    each other forever (seen with jax 0.10.2: half of eight devices in an
    all-reduce, half in an all-gather of one step). Compiled anew, they agree.
    """
    if jax.default_backend() == 'cpu' and jax.device_count() > 1:
        use_compilation_cache(False)


def use_compilation_cache(use: bool) -> None:
    """Turns JAX's persistent compilation cache on or off at any time."""
    jax.config.update('jax_enable_compilation_cache', use)
    # The cache reads the setting only once, at its first use.
    compilation_cache.reset_cache()


def room_on_device() -> int | None:
    """Bytes available to a program on this process's smallest device.

    None on CPU, whose memory is shared and can be swapped.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits = [s['bytes_limit'] for s in stats if 'bytes_limit' in s]
    return min(limits) if limits else None


def replicate(placement: Placement, tree: Any) -> Any:
    """Puts every array of `tree`, equal in all processes, on every device.

    For PRNG keys see `replicate_key`.
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


def share(placement: Placement, x: np.ndarray, axis: int = 0) -> jax.Array:
    """Puts an array, equal in all processes, where `sharing` says."""
    return jax.make_array_from_callback(
        x.shape, placement.sharing(x.shape, axis), lambda index: x[index]
    )


def kept_sharding(x: jax.Array, shape: tuple[int, ...]) -> Any:
    """The sharding of an array like `x` of another shape; replicated, if so."""
    if x.shape == shape or not isinstance(x.sharding, NamedSharding):
        return x.sharding
    return NamedSharding(x.sharding.mesh, PartitionSpec())


def unshare(placement: Placement, x: jax.Array) -> jax.Array:
    """The same array, replicated on every device."""
    return jax.device_put(x, placement.replicated)


def replicate_key(placement: Placement, key: jax.Array) -> jax.Array:
    """Puts a PRNG key, equal in all processes, on every device."""
    return jax.random.wrap_key_data(
        replicate(placement, jax.random.key_data(key)),
        impl=jax.random.key_impl(key),
    )


def on_host(x: Any) -> np.ndarray:
    """The whole array, of which other processes may hold parts."""
    if isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated
    ):
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def gather_batch(placement: Placement, x: np.ndarray) -> np.ndarray:
    """The whole array on the host, from the slices of all processes."""
    if placement.shard[1] == 1:
        return x
    return multihost_utils.process_allgather(x, tiled=True)


def shard_batch(
    placement: Placement, tree: Any, sharding: NamedSharding | None = None
) -> Any:
    """Makes global sharded arrays from this process's slice of a batch.

    Arrays that are on the devices already stay as they are.

    Args:
        placement: placement of batches.
        tree: pytree of arrays.
        sharding: sharding of the arrays, by default `placement.batch`.
    """
    sharding = sharding or placement.batch
    if placement.shard[1] == 1:
        put = functools.partial(jax.device_put, device=sharding)
    else:
        put = functools.partial(
            jax.make_array_from_process_local_data, sharding
        )
    return jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else put(x), tree
    )


def shard_batches(
    placement: Placement,
    batches: Iterable[dict[str, Any]],
    *,
    ahead: int | None = None,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields each batch on the host and on the devices, by `shard_batch`.

    Args:
        placement: placement of the batches.
        batches: batches of this process.
        ahead: see `look_ahead`.
    """
    pairs = ((batch, shard_batch(placement, batch)) for batch in batches)
    return look_ahead(pairs, placement, ahead=ahead)


def look_ahead(
    items: Iterable[Any], placement: Placement, *, ahead: int | None = None
) -> Iterator[Any]:
    """Yields the same items, and makes some of them in advance.

    Args:
        items: items; making one starts a copy to the devices.
        placement: placement of the copies.
        ahead: number of items made in advance; by default `AHEAD`, and 0 on
            CPU, where nothing is copied.
    """
    if ahead is None:
        ahead = 0 if placement.platform == 'cpu' else AHEAD
    waiting: collections.deque[Any] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
