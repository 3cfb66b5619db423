"""Measures what convolutions by oneDNN would bring to a CPU training step.

    pip install --prefix=/tmp/onednn onednn-cpu-gomp onednn-devel-cpu-gomp
    python benchmarks/onednn.py --onednn=/tmp/onednn \
        --out=benchmarks/results/onednn_cpu.json

Compiles `onednn.cc`, which wants g++, to a library that XLA calls in place of
its own convolutions. The package does not use it: this shows what it would
gain. Results are compared with PyTorch's before all are timed in turn: each
convolution of ResNet-32 inside a loop, then its whole training step.
"""

import argparse
import ctypes
import functools
import pathlib
import subprocess
import tempfile
import unittest.mock
from typing import Any

import convolutions
import jax
import jax.numpy as jnp
import numpy as np
import problems
import record
import step_pairs
import timing
import torch

from mnemonics_jax.backbones import conv

REPEATS, STEPS = 9, 2
SOURCE = pathlib.Path(__file__).with_suffix('.cc')
OURS, ONEDNN = 'ours', 'ours with oneDNN'


def build(onednn: pathlib.Path, folder: pathlib.Path) -> None:
    """Compiles the library and registers its functions with XLA.

    Args:
        onednn: folder with include/ and lib/ of oneDNN.
        folder: where to write the library.
    """
    library = folder / 'libonednn_calls.so'
    command = [
        *('g++', '-O2', '-w', '-std=c++17', '-shared', '-fPIC', str(SOURCE)),
        *(f'-I{onednn / "include"}', f'-I{jax.ffi.include_dir()}'),
        *(f'-L{onednn / "lib"}', '-ldnnl', f'-Wl,-rpath,{onednn / "lib"}'),
        *('-o', str(library)),
    ]
    subprocess.run(command, check=True)
    loaded = ctypes.cdll.LoadLibrary(str(library))
    for name in ('OnednnOutputs', 'OnednnImageGrads', 'OnednnKernelGrads'):
        function = jax.ffi.pycapsule(getattr(loaded, name))
        jax.ffi.register_ffi_target(name, function, platform='cpu')


def _call(name: str, shape: tuple[int, ...], a: Any, b: Any, stride: int):
    found = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, jnp.float32))
    return found(a, b, stride=np.int64(stride))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`mnemonics_jax.backbones.conv.conv2d` by oneDNN, once differentiable."""
    batch, *sides, _ = x.shape
    outputs = [(side - 1) // stride + 1 for side in sides]
    shape = (batch, *outputs, kernel.shape[-1])
    return _call('OnednnOutputs', shape, x, kernel, stride)


def _backward(stride: int, inputs: Any, y: jax.Array) -> Any:
    x, kernel = inputs
    return (
        _call('OnednnImageGrads', x.shape, y, kernel, stride),
        _call('OnednnKernelGrads', kernel.shape, x, y, stride),
    )


conv2d.defvjp(lambda x, w, stride: (conv2d(x, w, stride), (x, w)), _backward)


def measure_convolutions() -> list[dict[str, Any]]:
    """Seconds of each convolution and gradient inside a loop."""
    rows = []
    for channels, side in convolutions.SHAPES:
        arrays = convolutions.make_arrays(channels, side)
        for kind in convolutions.KINDS:
            peer = convolutions.theirs(kind, arrays)
            works = {timing.PEER: peer}
            for name, used in ((OURS, conv.conv2d), (ONEDNN, conv2d)):
                with unittest.mock.patch.object(convolutions, 'conv2d', used):
                    works[name] = convolutions.ours(kind, arrays)
                    bounds = {kind: convolutions.BOUND}
                    pair = timing.Pair(works[name], peer, bounds)
                    timing.check(f'{name}, {kind}', pair)
            rows.append(
                _row(
                    f'{kind}, {channels} channels, {side} x {side}',
                    works,
                    convolutions.LOOPS,
                )
            )
    return rows


def measure_step() -> dict[str, Any]:
    """Seconds of a training step of ResNet-32 on 128 images."""
    sizes = problems.Sizes()
    make = functools.partial(step_pairs.train_steps, bound=problems.DEEP_BOUND)

    def pair() -> timing.Pair:
        # One step is compared: each further one multiplies the error.
        one = make(problems.make_problem(sizes), num_steps=1)
        timing.check('model step', one)
        found = make(problems.make_problem(sizes), num_steps=STEPS)
        found.ours.run()
        return found

    ours = pair()
    # A step that is traced within uses oneDNN; it is a function of its own.
    with unittest.mock.patch.object(conv, 'conv2d', conv2d):
        other = pair()
    works = {
        OURS: ours.ours,
        ONEDNN: other.ours,
        timing.PEER: ours.peer,
    }
    return _row('training step, resnet32, batch 128', works, STEPS)


def _row(work: str, works: dict[str, timing.Work], num: int) -> dict[str, Any]:
    runs = {name: each.run for name, each in works.items()}
    found = timing.time_in_turn(runs, REPEATS)
    seconds = {
        name: {key: value / num for key, value in each.items()}
        for name, each in found.items()
    }
    row = {
        'work': work,
        'seconds': seconds,
        'over_pytorch': {
            name: seconds[name]['median'] / seconds[timing.PEER]['median']
            for name in (OURS, ONEDNN)
        },
    }
    print(work, row['over_pytorch'], flush=True)
    return row


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--onednn', type=pathlib.Path, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(arguments.onednn.resolve(), pathlib.Path(folder))
        figures = {
            'torch': torch.__version__,
            'threads': torch.get_num_threads(),
            'repeats': REPEATS,
            'convolutions': measure_convolutions(),
            'step': measure_step(),
        }
    record.write(arguments.out, 'python benchmarks/onednn.py', figures)


if __name__ == '__main__':
    main()
