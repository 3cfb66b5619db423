"""Other ways to compute the convolutions of ResNet-32 on CPU, beside ours.

    python benchmarks/convolution_forms.py \
        --out=benchmarks/results/convolution_forms_cpu.json

The outputs and the gradient by the kernel, for the three layer sizes, inside
`lax.scan`: as convolutions and as matrix products of shifted images. Each is
also timed under flags of XLA that choose other libraries, in a process for each
flag. A flag that this jaxlib does not know is named. Ratios are to ours without
a flag, of the least seconds of several rounds.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import record
from jax import lax

from mnemonics_jax.backbones.conv import conv2d

ROOT = pathlib.Path(__file__).parent.parent
SHAPES = ((16, 32), (32, 16), (64, 8))  # Channels, side.
BATCH, LOOPS, ROUNDS = 128, 8, 7
BOUND = 1e-4
FLAGS = (
    '',
    '--xla_cpu_use_onednn=true',
    '--xla_cpu_experimental_onednn_custom_call=true',
    '--xla_cpu_use_xnnpack=true',
    '--xla_cpu_experimental_xnn_graph_fusion_mode=XNN_GRAPH_FUSION_MODE_GREEDY',
    '--xla_cpu_experimental_ynn_fusion_type='
    'LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_ELTWISE,'
    'LIBRARY_FUSION_TYPE_REDUCE',
    # That of networks on CPU (mnemonics_jax/core/xla_flags.py).
    '--xla_cpu_experimental_ynn_fusion_type='
    'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE',
    '--xla_cpu_multi_thread_eigen=false',
)

Array = jax.Array
Form = Callable[[Array, Array], Array]


def shifted(x: Array, axis: int, *, forward: bool = True) -> Array:
    """The three shifts of x by -1, 0, 1 along an axis, side by side."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (1, 1)
    padded, size = jnp.pad(x, pads), x.shape[axis]
    starts = range(3) if forward else (2, 1, 0)
    parts = [lax.slice_in_dim(padded, i, i + size, axis=axis) for i in starts]
    return jnp.concatenate(parts, axis=-1)


def nine_shifts(x: Array) -> Array:
    """All nine shifts of the images, [B * H * W, 9 * C].

    Columns are in the order of the kernel's rows, columns and channels.
    """
    b, h, w, channels = x.shape
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    parts = [
        padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)
    ]
    return jnp.concatenate(parts, axis=-1).reshape(b * h * w, 9 * channels)


def outputs_by_nine(x: Array, kernel: Array) -> Array:
    """One product with all nine shifts of the images."""
    columns = kernel.reshape(-1, kernel.shape[-1])
    return (nine_shifts(x) @ columns).reshape(*x.shape[:3], -1)


def outputs_by_three(x: Array, kernel: Array) -> Array:
    """A product with the horizontal shifts; its results, shifted, summed."""
    b, h, w, channels = x.shape
    rows = shifted(x, 2).reshape(-1, 3 * channels)
    columns = kernel.transpose(1, 2, 0, 3).reshape(3 * channels, -1)
    y = (rows @ columns).reshape(b, h, w, 3, -1)
    y = jnp.pad(y, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    return sum(y[:, i : i + h, :, i] for i in range(3))


def kernel_by_nine(x: Array, y: Array) -> Array:
    """One product with all nine shifts of the images."""
    found = nine_shifts(x).T @ y.reshape(-1, y.shape[-1])
    return found.reshape(3, 3, x.shape[-1], -1)


def kernel_by_three(pieces: int) -> Form:
    """A product of horizontal shifts of x with vertical ones of y.

    Args:
        pieces: pieces of the batch whose products are summed at the end.
    """

    def form(x: Array, y: Array) -> Array:
        channels, outs = x.shape[-1], y.shape[-1]
        left = shifted(x, 2).reshape(pieces, -1, 3 * channels)
        right = shifted(y, 1, forward=False).reshape(pieces, -1, 3 * outs)
        found = jnp.einsum('pri,prj->pij', left, right).sum(0)
        return found.reshape(3, channels, 3, outs).transpose(2, 0, 1, 3)

    return form


def our_kernel_gradient(x: Array, y: Array) -> Array:
    """`conv2d`'s gradient with respect to the kernel."""
    zeros = jnp.zeros((3, 3, x.shape[-1], y.shape[-1]), x.dtype)
    (found,) = jax.vjp(lambda kernel: conv2d(x, kernel), zeros)[1](y)
    return found


FORMS: dict[str, dict[str, Form]] = {
    'outputs': {
        'ours': conv2d,
        'product of nine shifts': outputs_by_nine,
        'product of three shifts': outputs_by_three,
    },
    'kernel gradient': {
        'ours': our_kernel_gradient,
        'product of nine shifts': kernel_by_nine,
        'product of three and three shifts': kernel_by_three(1),
        'the same, in 2 pieces': kernel_by_three(2),
        'the same, in 8 pieces': kernel_by_three(8),
        'the same, in a piece an image': kernel_by_three(BATCH),
    },
}


def arguments_of(kind: str, channels: int, side: int) -> tuple[Array, Array]:
    """Images, and a kernel or a gradient with respect to the outputs."""
    random = np.random.default_rng(0)
    images = (BATCH, side, side, channels)
    shapes = {
        'outputs': (3, 3, channels, channels),
        'kernel gradient': images,
    }
    return (
        jnp.asarray(random.normal(size=images), jnp.float32),
        jnp.asarray(random.normal(size=shapes[kind]), jnp.float32),
    )


def looped(form: Form) -> Any:
    """A jitted function that repeats a form, each waiting for the last."""

    @jax.jit
    def loop(x: Array, other: Array) -> Array:
        def body(wait: Array, _: None) -> tuple[Array, None]:
            found = lax.optimization_barrier(form(x + wait, other))
            return 1e-30 * found.reshape(-1)[0], None

        return lax.scan(body, jnp.zeros(()), None, length=LOOPS)[0]

    return loop


def measure() -> dict[str, Any]:
    """Least seconds by kind, layer and form, in this process."""
    found: dict[str, Any] = {}
    for kind, forms in FORMS.items():
        for channels, side in SHAPES:
            x, other = arguments_of(kind, channels, side)
            expected = forms['ours'](x, other)
            loops = {}
            for name, form in forms.items():
                error = jnp.linalg.norm((form(x, other) - expected).ravel())
                error /= jnp.linalg.norm(expected.ravel())
                if not error < BOUND:
                    raise ValueError(f'{kind}, {name}: differs by {error:.1e}')
                loops[name] = looped(form)
                loops[name](x, other).block_until_ready()
            seconds: dict[str, list[float]] = {name: [] for name in loops}
            for _ in range(ROUNDS):
                for name, loop in loops.items():
                    begun = time.perf_counter()
                    loop(x, other).block_until_ready()
                    seconds[name].append(time.perf_counter() - begun)
            layer = f'{kind}, {channels} channels, {side} x {side}'
            found[layer] = {k: min(v) / LOOPS for k, v in seconds.items()}
    return found


def measure_under(flag: str) -> dict[str, Any] | str:
    """The figures under a flag of XLA, or why there are none."""
    done = subprocess.run(
        [sys.executable, __file__, '--child'],
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': flag,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [str(done.returncode)]
        known = [line for line in lines if 'Unknown flag' in line]
        return (known or lines[-1:])[0][-200:]
    return json.loads(done.stdout.splitlines()[-1])


def ratios(figures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds over those of ours without a flag, by layer, form and flag."""
    usual = figures['']
    found: dict[str, dict[str, float]] = {layer: {} for layer in usual}
    for flag, layers in figures.items():
        if isinstance(layers, str):
            continue
        for layer, forms in layers.items():
            for name, seconds in forms.items():
                key = f'{name} {flag}'.strip()
                found[layer][key] = seconds / usual[layer]['ours']
    return found


def main() -> None:
    """Measures under all flags and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('--child', action='store_true', help='in this process')
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure()))
        return
    if not arguments.out:
        parser.error('--out: must be given')
    before = os.getloadavg()[0]
    figures = {flag: measure_under(flag) for flag in FLAGS}
    content = {
        'batch': BATCH,
        'load_average': before,
        'seconds': figures,
        'ratios': ratios(figures),
    }
    command = 'python benchmarks/convolution_forms.py'
    record.write(arguments.out, command, content)


if __name__ == '__main__':
    main()
