"""TPU slices and GPUs by name, and what a chip has.

No import of JAX here, which reads `ENVIRONMENT` once.

Sources. TPUs: memory, bfloat16 peak and bandwidth of a chip from the pages
"System architecture" of Cloud TPU; the clock is the peak divided by twice the
multipliers of a chip's matrix units (v4, v5p: 8 of 128 x 128; v5e: 4 of them;
v6e: 4 of 256 x 256). GPUs: NVIDIA's data sheets, dense peaks; the rest from the
device properties that CUDA reports.
"""

import math
import re
from typing import Any, NamedTuple

# Lets libtpu and JAX compile on a machine without a TPU, in several processes.
ENVIRONMENT = {
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'JAX_PLATFORMS': 'cpu',
    'TF_CPP_MIN_LOG_LEVEL': '3',
    'TPU_ACCELERATOR_TYPE': 'v4-8',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
}
_GIB = 2**30


class Gpu(NamedTuple):
    """What XLA asks of a GPU besides `Chip`.

    Attributes:
        title: name that the driver reports.
        capability: major version of the compute capability; the minor is 0.
        cores: streaming multiprocessors.
        fpus: float32 units of each.
        shared: bytes of shared memory of each.
        cache: bytes of the second-level cache.
    """

    title: str
    capability: int
    cores: int
    fpus: int
    shared: int
    cache: int


class Chip(NamedTuple):
    """A device of JAX.

    Attributes:
        name: name, such as v4.
        memory: bytes of its memory.
        peak: most bfloat16 operations a second.
        bandwidth: most bytes a second between the memory and the chip.
        clock: cycles a second.
        axes: axes of the topology of a TPU slice, 2 or 3; 0 for GPUs.
        gpu: description of a GPU; None for TPUs.
    """

    name: str
    memory: int
    peak: float
    bandwidth: float
    clock: float
    axes: int = 0
    gpu: Gpu | None = None

    @property
    def platform(self) -> str:
        """The platform of its programs, as `jax.Device.platform` has it."""
        return 'tpu' if self.gpu is None else 'gpu'

    @property
    def kind(self) -> str:
        """What JAX calls it, as far as programs depend on it."""
        return 'TPU v6 lite' if self.name == 'v6e' else ''

    @property
    def room(self) -> int:
        """Bytes that a program may have: JAX takes 75 % of a GPU."""
        return self.memory if self.gpu is None else self.memory * 3 // 4


_H100 = Gpu('NVIDIA H100 80GB HBM3', 9, 132, 128, 233472, 50 * 2**20)
CHIPS = {
    chip.name: chip
    for chip in (
        Chip('v4', 32 * _GIB, 275e12, 1.2e12, 1.05e9, 3),
        Chip('v5e', 16 * _GIB, 197e12, 0.82e12, 1.5e9, 2),
        Chip('v5p', 95 * _GIB, 459e12, 2.76e12, 1.75e9, 3),
        Chip('v6e', 32 * _GIB, 918e12, 1.64e12, 1.75e9, 2),
        Chip(
            'a100',
            85_100_068_864,
            312e12,
            2.039e12,
            1.41e9,
            gpu=Gpu('NVIDIA A100-SXM4-80GB', 8, 108, 64, 167936, 40 * 2**20),
        ),
        Chip('h100', 84_942_979_072, 989e12, 3.35e12, 1.98e9, gpu=_H100),
        Chip(
            'h200',
            151_397_597_184,
            989e12,
            4.8e12,
            1.98e9,
            gpu=_H100._replace(title='NVIDIA H200'),
        ),
    )
}
# What Cloud TPU calls v5e.
_ALIASES = {'v5litepod': 'v5e'}
_MOST_CHIPS = {'v4': 4096, 'v5e': 256, 'v5p': 4096, 'v6e': 256}
_GPUS_OF_HOST = 8


class Slice(NamedTuple):
    """Devices that a run uses together.

    Attributes:
        name: name as it was given.
        chip: the chip.
        num_chips: number of devices.
    """

    name: str
    chip: Chip
    num_chips: int

    @property
    def topology(self) -> str:
        """The topology by which JAX describes the devices."""
        if self.chip.gpu is None:
            sides = 'x'.join(map(str, self.sides))
            return f'{self.chip.name}:{sides}'
        hosts = -(-self.num_chips // _GPUS_OF_HOST)
        return f'1x{hosts}x{self.num_chips // hosts}'

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of a TPU slice, as equal as powers of two can be."""
        axes = self.chip.axes
        if axes == 3 and self.num_chips == 4:
            return 2, 2, 1  # A host.
        powers = round(math.log2(self.num_chips))
        return tuple(2 ** ((powers + i) // axes) for i in range(axes))

    @property
    def host_bounds(self) -> tuple[int, int, int]:
        """Chips of a host along each axis; up to 8 in a plane are one host."""
        if self.num_chips == 1:
            return 1, 1, 1
        if self.chip.axes == 2 and self.num_chips == 8:
            return 2, 4, 1
        return 2, 2, 1

    def options(self) -> dict[str, Any]:
        """Arguments of `topologies.get_topology_desc` beside its names."""
        if self.chip.gpu is not None:
            return {'target_config': target_config(self.chip)}
        options: dict[str, Any] = {'chips_per_host_bounds': self.host_bounds}
        if self.chip.name == 'v4':  # Else each of its two cores is a device.
            options['chip_config_name'] = 'megacore'
        return options


def find(name: str) -> Slice:
    """The slice of a name.

    Args:
        name: v4-8 or v5p-8, in which the number counts cores, two a chip;
            v5e-8, v5litepod-8 or v6e-8, in which it counts chips; h100:8.

    Raises:
        ValueError: there is none of this name.
    """
    found = re.fullmatch(r'(\w+?)([-:])([1-9]\d*)', name)
    kind = _ALIASES.get(found[1], found[1]) if found else ''
    if found is None or kind not in CHIPS:
        raise ValueError(f'--chips={name}: {must_be()}')
    chip, number = CHIPS[kind], int(found[3])
    if (found[2] == ':') != (chip.gpu is not None):
        raise ValueError(f'--chips={name}: {must_be()}')
    if chip.gpu is not None:
        if number > _GPUS_OF_HOST and number % _GPUS_OF_HOST:
            raise ValueError(
                f'--chips={name}: must be up to {_GPUS_OF_HOST} GPUs, or a '
                f'multiple, in machines of {_GPUS_OF_HOST}'
            )
        return Slice(name, chip, number)
    cores = 2 if chip.axes == 3 else 1
    powers = [2**i for i in range(13) if 2**i <= _MOST_CHIPS[kind] and i != 1]
    if chip.axes == 2:
        powers = [p for p in powers if p != 2]
    if number not in [cores * p for p in powers]:
        sizes = ', '.join(str(cores * p) for p in powers)
        raise ValueError(
            f'--chips={name}: {kind}- must be followed by one of {sizes}'
        )
    return Slice(name, chip, number // cores)


def target_config(chip: Chip) -> str:
    """The description of a GPU by which XLA compiles without one.

    A `GpuTargetConfigProto` of XLA as text.
    """
    gpu = chip.gpu
    if gpu is None:
        raise ValueError(f'{chip.name}: no GPU')
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block_optin: {gpu.shared - 1024}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.bandwidth:.0f}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {chip.clock / 1e9}
  device_memory_size: {chip.memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {gpu.capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 }}
device_description_str: "{gpu.title}"
"""


def must_be() -> str:
    """What names of slices look like."""
    return (
        'must be a TPU slice such as v4-32, v5e-8, v5p-8 or v6e-8, or GPUs '
        'such as a100:8, h100:8 or h200:8'
    )
