"""Compares convolutions, the bottleneck of a CPU training step, with PyTorch's.

    python benchmarks/convolutions.py \
        --out=benchmarks/results/convolutions_cpu.json

Runs on one core, for the three layer sizes of ResNet-32: the convolution and
its gradients with respect to images and kernel, ours in a loop as in a run,
PyTorch's in channels-last memory. Checks that results agree, times both in
turn, and writes minimum seconds and multiplications per second.
"""

import argparse
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import record
import timing
import torch

from mnemonics_jax.backbones.conv import conv2d

SHAPES = ((16, 32), (32, 16), (64, 8))  # Channels, side.
BATCH, LOOPS, REPEATS = 64, 10, 9
KERNEL = 3
BOUND = 1e-4
KINDS = ('outputs', 'image gradient', 'kernel gradient')


def make_arrays(channels: int, side: int) -> tuple[np.ndarray, ...]:
    """Images, a kernel, and a gradient with respect to the outputs."""
    random = np.random.default_rng(0)
    images = (BATCH, side, side, channels)
    shapes = images, (KERNEL, KERNEL, channels, channels), images
    return tuple(random.normal(size=s).astype(np.float32) for s in shapes)


def ours(kind: str, arrays: tuple[np.ndarray, ...]) -> timing.Work:
    """Our work: `LOOPS` iterations of one kind."""

    def one(x: jax.Array, kernel: jax.Array, y: jax.Array) -> jax.Array:
        results = conv2d(x, kernel), *jax.vjp(conv2d, x, kernel)[1](y)
        return results[KINDS.index(kind)]

    @jax.jit
    def loop(x: jax.Array, kernel: jax.Array, y: jax.Array) -> dict[str, Any]:
        def body(_: int, found: jax.Array) -> jax.Array:
            # Each iteration depends on the previous one.
            wait = 1e-30 * found.reshape(-1)[0]
            return one(x + wait, kernel + wait, y + wait)

        start = jnp.zeros_like(kernel if kind == KINDS[2] else x)
        return {kind: jax.lax.fori_loop(0, LOOPS, body, start)}

    return timing.jitted_work(loop, tuple(map(jnp.asarray, arrays)))


def theirs(kind: str, arrays: tuple[np.ndarray, ...]) -> timing.Work:
    """The same work in PyTorch."""
    x, kernel, y = (
        torch.from_numpy(array.transpose(axes)).contiguous(
            memory_format=torch.channels_last
        )
        for array, axes in zip(
            arrays, ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)), strict=True
        )
    )
    held = {}

    def one() -> torch.Tensor:
        if kind == KINDS[0]:
            return torch.nn.functional.conv2d(x, kernel, padding=KERNEL // 2)
        wanted = [kind == name for name in (*KINDS[1:], 'bias')]
        return torch.ops.aten.convolution_backward(
            y,
            x,
            kernel,
            None,
            *([1, 1], [KERNEL // 2] * 2, [1, 1]),
            *(False, [0, 0], 1, wanted),
        )[wanted.index(True)]

    def run() -> None:
        for _ in range(LOOPS):
            held[kind] = one()

    def result() -> dict[str, np.ndarray]:
        axes = (2, 3, 1, 0) if kind == KINDS[2] else (0, 2, 3, 1)
        return {kind: held[kind].numpy().transpose(axes)}

    return timing.Work(run, result)


def measure() -> list[dict[str, Any]]:
    """Seconds of both and their ratio, for each size and kind."""
    rows = []
    for channels, side in SHAPES:
        arrays = make_arrays(channels, side)
        products = BATCH * (side * KERNEL * channels) ** 2
        for kind in KINDS:
            work = f'{kind}, {channels} channels, {side} x {side}'
            pair = timing.Pair(
                ours(kind, arrays), theirs(kind, arrays), {kind: BOUND}
            )
            timing.check(work, pair)
            found = timing.time_in_turn(
                {'ours': pair.ours.run, timing.PEER: pair.peer.run}, REPEATS
            )
            seconds = {
                name: each['min'] / LOOPS for name, each in found.items()
            }
            rows.append(
                {
                    'work': work,
                    'seconds': seconds,
                    'products_a_second': {
                        name: products / each for name, each in seconds.items()
                    },
                    'ratio': seconds['ours'] / seconds[timing.PEER],
                }
            )
    return rows


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    # Must precede the creation of XLA's threads.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    torch.set_num_threads(1)
    figures = {
        'torch': torch.__version__,
        'batch': BATCH,
        'load_average': os.getloadavg()[0],
        'rows': measure(),
    }
    record.write(arguments.out, 'python benchmarks/convolutions.py', figures)


if __name__ == '__main__':
    main()
