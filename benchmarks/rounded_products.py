"""What rounding of products, as accelerators do it, changes: emulated on CPU.

    python benchmarks/rounded_products.py \
        --out=benchmarks/results/rounded_products_cpu.json

By default TPUs round both factors of convolutions and matrix products to
bfloat16, and recent NVIDIA GPUs to TF32; sums stay in float32. Here XLA's CPU
programs round the factors in the same way, except where the code asks for
`Precision.HIGHEST`, in first and in second derivatives too.

Compares, with exact products, the hypergradients of phase 0 of
configs/digits.py at the learning of its initial exemplars, and whole runs of
that configuration. What an accelerator does besides (order of sums, rounding
within it) is not emulated.
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax._src.interpreters import mlir as rules
from jax.interpreters import mlir

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import hypergradients as gradients  # noqa: E402
import record  # noqa: E402

from mnemonics_jax import config as config_lib  # noqa: E402
from mnemonics_jax import run_experiment  # noqa: E402
from mnemonics_jax.bilevel import pixel_gradient  # noqa: E402
from mnemonics_jax.config import arguments  # noqa: E402
from mnemonics_jax.experiment import components  # noqa: E402

# Bits of exponent and mantissa of the factors.
FACTORS = {'float32': (8, 23), 'tf32': (8, 10), 'bfloat16': (8, 7)}
PRESETS = ('bilevel', 'paper')
BACKBONES = ('convnet', 'resnet20')
KEYS = 5
SEEDS = 5
PRODUCTS = (lax.dot_general_p, lax.conv_general_dilated_p)


@contextlib.contextmanager
def rounded(exponent: int, mantissa: int) -> Iterator[None]:
    """Inside: programs are compiled with rounded factors of products."""
    before = {p: rules._platform_specific_lowerings['cpu'][p] for p in PRODUCTS}

    def rounding(rule):
        def lower(ctx, *factors, **parameters):
            exact = lax.Precision.HIGHEST in (parameters['precision'] or ())
            if not exact:
                factors = [
                    mlir.lower_fun(
                        lambda x: lax.reduce_precision(x, exponent, mantissa),
                        multiple_results=False,
                    )(ctx.replace(avals_in=[aval], avals_out=[aval]), x)[0]
                    for aval, x in zip(ctx.avals_in, factors, strict=True)
                ]
            return rule(ctx, *factors, **parameters)

        return lower

    jax.clear_caches()
    for primitive, entry in before.items():
        mlir.register_lowering(primitive, rounding(entry.rule), 'cpu')
    try:
        yield
    finally:
        for primitive, entry in before.items():
            mlir.register_lowering(primitive, entry.rule, 'cpu')
        jax.clear_caches()


def compare_gradients(backbone: str) -> Iterator[dict[str, Any]]:
    """Agreement of hypergradients with those of exact products, by preset."""
    begun = gradients.begin({'backbone.name': backbone})
    for preset in PRESETS:
        fields = arguments.load('digits')
        fields.exemplars.preset = preset
        fields.backbone.name = backbone
        settings = components.learner_settings(
            config_lib.resolve(fields), begun.parts.source
        )
        found: dict[str, list[np.ndarray]] = {}
        for name, bits in FACTORS.items():
            with rounded(*bits):
                found[name] = [
                    gradient_of(begun, settings, key) for key in range(KEYS)
                ]
        for name in FACTORS:
            pairs = zip(found[name], found['float32'], strict=True)
            agreed = [gradients.agreement(*pair) for pair in pairs]
            yield {
                'backbone': backbone,
                'preset': preset,
                'factors': name,
                'cosines': [each['cosine'] for each in agreed],
                'relative_errors': [each['relative_error'] for each in agreed],
            }


def gradient_of(
    begun: gradients.Begun, settings: Any, number: int
) -> np.ndarray:
    """The hypergradient for one draw of start and minibatches."""
    problem = begun.problem._replace(key=jax.random.key(number))
    case = gradients.case_of('', begun._replace(problem=problem), settings)
    gradient = jax.jit(lambda *arrays: pixel_gradient(case.problem, *arrays)[0])
    return np.asarray(gradient(*case.arrays))


def compare_runs() -> Iterator[dict[str, Any]]:
    """Accuracies and held-out losses of whole runs."""
    for seed in range(SEEDS):
        for name, bits in FACTORS.items():
            fields = arguments.load('digits')
            fields.seed, fields.report = seed, False
            with (
                rounded(*bits),
                tempfile.TemporaryDirectory() as folder,
            ):
                results = run_experiment(fields, workdir=folder)
            average = results['average_incremental_accuracy']
            learned = [
                phase['exemplars']['held_out_loss_before']
                - phase['exemplars']['held_out_loss_after']
                for phase in results['phases']
            ]
            yield {
                'seed': seed,
                'factors': name,
                'average': {k: 100 * x for k, x in average.items()},
                'gain_in_held_out_loss': float(np.mean(learned)),
            }


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    args = parser.parse_args()
    found = [row for name in BACKBONES for row in compare_gradients(name)]
    figures = {'hypergradients': found, 'runs': list(compare_runs())}
    record.write(args.out, 'python benchmarks/rounded_products.py', figures)


if __name__ == '__main__':
    main()
