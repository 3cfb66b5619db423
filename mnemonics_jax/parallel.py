"""Devices: the only file that names a mesh axis.

One program serves 1 or N devices. Its mathematics is that of the global batch;
sharding says only where the parts of a batch lie, and XLA inserts the sums over
devices. Params, statistics and pixels are replicated.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = 'data'


class Placement(NamedTuple):
    """Where arrays live.

    Attributes:
        mesh: all devices in one row.
        batch: leading axis split over the devices.
        replicated: the whole array on every device.
    """

    mesh: jax.sharding.Mesh
    batch: NamedSharding
    replicated: NamedSharding

    @property
    def num_devices(self) -> int:
        """Devices of the mesh, of all processes."""
        return self.mesh.size

    def split(self, x: jax.Array) -> jax.Array:
        """Inside jit: splits the leading axis of `x` over the devices."""
        return jax.lax.with_sharding_constraint(x, self.batch)


def make_placement(devices: Sequence[jax.Device] | None = None) -> Placement:
    """A placement over `devices`, by default all there are."""
    devices = jax.devices() if devices is None else list(devices)
    mesh = jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )
    return Placement(
        mesh=mesh,
        batch=NamedSharding(mesh, PartitionSpec(AXIS)),
        replicated=NamedSharding(mesh, PartitionSpec()),
    )


def replicate(placement: Placement, tree: Any) -> Any:
    """Every array of `tree` (the same in all processes) on every device.

    PRNG keys are no arrays of numbers: use `jax.device_put` for them.
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


def shard_batch(placement: Placement, tree: Any) -> Any:
    """This process' slice of a batch, as part of the global split array."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(placement.batch, x),
        tree,
    )
