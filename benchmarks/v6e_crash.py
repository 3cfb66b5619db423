"""A program of ten lines that crashes the TPU compiler for v6e.

    python benchmarks/v6e_crash.py            # does not return: SIGSEGV
    python benchmarks/v6e_crash.py --barrier  # compiled for v6e

needs JAX and libtpu on any CPU machine (the extra plan), and no TPU. The
program is the gradient of a convolution, batch normalisation and a convolution
of stride 2 with respect to the first kernel. With jax 0.10.2 and libtpu
0.0.42.1 the compiler runs out of its stack: `MigrateInstructionUsers` calls
itself again and again ("SIGSEGV STACK OVERFLOW", exit status 139).

Needed are, each changed alone: the gradient, the stride, the normalisation
between the convolutions, a variance of E[x^2] - E[x]^2, and few images: 32 of
them compile. An `optimization_barrier` before the strided convolution, which
keeps the compiler from fusing its gradient with that of the normalisation,
avoids the crash. The backbones have this barrier.
"""

import os
import sys

os.environ |= {
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'JAX_PLATFORMS': 'cpu',
    'TPU_ACCELERATOR_TYPE': 'v6e-1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
}

import jax
from jax import lax
from jax.experimental import topologies


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution of images [B, H, W, C] without padding."""
    order = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), 'VALID', dimension_numbers=order
    )


def loss(first: jax.Array, second: jax.Array, images: jax.Array) -> jax.Array:
    """The function whose gradient crashes the compiler."""
    x = convolve(images, first, 1)
    mean = x.mean((0, 1, 2))
    variance = (x * x).mean((0, 1, 2)) - mean * mean
    x = (x - mean) * lax.rsqrt(variance + 1e-5)
    if '--barrier' in sys.argv:
        x = lax.optimization_barrier(x)
    return (convolve(x, second, 2) ** 3).mean()


def main() -> None:
    """Compiles the gradient with respect to the first kernel."""
    described = topologies.get_topology_desc(
        'v6e:1x1', 'tpu', chips_per_host_bounds=(1, 1, 1)
    )
    device = jax.sharding.SingleDeviceSharding(described.devices[0])
    shapes = (1, 1, 3, 16), (1, 1, 16, 32), (8, 32, 32, 3)
    arguments = [
        jax.ShapeDtypeStruct(shape, 'float32', sharding=device)
        for shape in shapes
    ]
    jax.jit(jax.grad(loss)).lower(*arguments).compile()
    print('compiled for v6e')


if __name__ == '__main__':
    main()
