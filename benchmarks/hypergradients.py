"""Accuracy and cost of hypergradients.

    python benchmarks/hypergradients.py \
        --out=benchmarks/results/hypergradients_cpu.json

Compares the pixel gradients of `hypergradients.NAMES` with the exact one, for
the model of phase 0 of configs/digits.py and the initial exemplars. The inner
problems are a converged one, a linear softmax with L2 penalty on the model's
features, and those of two presets. Programs are timed in turn; bytes are those
of the compiled programs. Writes a page next to the file.
"""

import argparse
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import record
import tables
import timing

from mnemonics_jax import bilevel, exemplars, experiment, losses
from mnemonics_jax import config as config_lib
from mnemonics_jax.bilevel import hypergradients
from mnemonics_jax.config import arguments
from mnemonics_jax.core import numerics, parallel
from mnemonics_jax.core.rng import Stage
from mnemonics_jax.data import device_batch
from mnemonics_jax.exemplars import inner_problem, learning
from mnemonics_jax.experiment import components, exemplar_stages, model_stages
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.train.loop import ResumableLoops
from mnemonics_jax.train.metric_writer import Recorder

TERMS = (3, 10, 40)
REPEATS = 15
# The converged problem: a step reduces the error to at most 1 - RATE * PENALTY,
# and after STEPS steps it is below the precision of float32.
RATE, PENALTY, STEPS = 1.0, 0.05, 400
# Load average before the measurement above which the machine is busy.
BUSY = 0.5

Arrays = tuple[Any, jax.Array, jax.Array, jax.Array, bilevel.Query]


class Case(NamedTuple):
    """A bilevel problem and the inputs of its gradient.

    Attributes:
        name: description.
        problem: the inner problem.
        arrays: params, pixels, labels, indices and query.
    """

    name: str
    problem: bilevel.InnerProblem
    arrays: Arrays


class Begun(NamedTuple):
    """Phase 0 of a run, before its exemplars are learned."""

    parts: components.Components
    problem: inner_problem.ExemplarProblem
    pixels: jax.Array


def begin(changes: Mapping[str, Any] | None = None) -> Begun:
    """Trains the model of phase 0 and selects real exemplars.

    Args:
        changes: values of fields of the configuration.
    """
    placement = parallel.make_placement(jax.devices()[:1])
    fields = arguments.load('digits')
    fields.update_from_flattened_dict(dict(changes or {}))
    config = config_lib.resolve(fields)
    parts = components.build(config, placement)
    carry = experiment.first_carry(parts)
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(pathlib.Path(folder), first_phase=0) as recorder,
    ):
        classes = config.protocol.base_classes
        context = PhaseContext(parts, 0, 0, classes, recorder, ResumableLoops())
        data = context.examples('train', 0, classes)
        model = model_stages.train_model(context, carry, carry.variables, data)
        images, mask = exemplar_stages.select_exemplars(context, model, data)
        problem = exemplar_stages.exemplar_problem(
            context,
            model,
            Stage.LEARN,
            1,
            exemplars.flat_exemplars(mask, (0, classes)),
        )
    rows = np.arange(config.exemplars.query_batch)
    query = bilevel.Query(
        device_batch.to_float(jnp.asarray(data.read(rows))),
        jnp.asarray(data.labels[rows]),
        jnp.ones(len(rows)),
    )
    problem = problem._replace(query=query)
    return Begun(parts, problem, jnp.asarray(learning.flatten(images)))


def cases(begun: Begun) -> Iterator[Case]:
    """Makes the bilevel problems to compare gradients on."""
    yield converged(begun)
    for preset in ('bilevel', 'paper'):
        fields = arguments.load('digits')
        fields.exemplars.preset = preset
        config = config_lib.resolve(fields)
        settings = components.learner_settings(config, begun.parts.source)
        name = (
            f'Preset {preset}: {settings.inner_steps} steps at a rate of '
            f'{settings.inner_lr:g}, scope {settings.inner_scope}, start '
            f'{settings.inner_start}'
        )
        yield case_of(name, begun, settings)


def case_of(
    name: str, begun: Begun, settings: inner_problem.LearnerSettings
) -> Case:
    """The inner problem of a run with these settings."""
    layout = inner_problem.layout_of(begun.parts.placement)
    context = inner_problem.LearnerContext(
        begun.parts.backbone, settings, layout
    )
    made = inner_problem.inner_problem(context, begun.problem)
    labels, query = begun.problem.exemplars.labels, begun.problem.query
    arrays = (made.params, begun.pixels, labels, made.indices, query)
    return Case(name, made.problem, arrays)


def converged(begun: Begun) -> Case:
    """A linear softmax with L2 penalty on unit features of the model."""
    settings = components.learner_settings(
        begun.parts.config, begun.parts.source
    )._replace(inner_scope='head', inner_steps=STEPS, inner_lr=RATE)
    case = case_of('', begun, settings)
    _, *others = case.arrays
    classes = begun.parts.config.protocol.base_classes
    embed = case.problem.embed
    size = jax.eval_shape(embed, begun.pixels).shape[-1]

    def loss_fn(
        kernel: jax.Array, features: jax.Array, labels: jax.Array
    ) -> jax.Array:
        values = losses.cross_entropy(features @ kernel, labels, classes)
        return values + PENALTY / 2 * jnp.sum(kernel**2)

    problem = case.problem._replace(
        loss_fn=loss_fn,
        embed=lambda pixels: numerics.unit(embed(pixels)),
        tx=optax.sgd(RATE),
    )
    name = f'Converged: {STEPS} steps of a linear softmax with a penalty'
    return Case(name, problem, (jnp.zeros((size, classes)), *others))


def methods() -> dict[str, tuple[str, int]]:
    """Name and terms of each hypergradient by title, the exact one first."""
    return {
        'unroll': ('unroll', 1),
        **{
            f'{name}, {terms} terms': (name, terms)
            for name in hypergradients.NAMES[1:]
            for terms in TERMS
        },
    }


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Agreement with the exact gradient, seconds and bytes of each method."""
    programs = {
        called: jax.jit(
            functools.partial(
                hypergradients.make_hypergradient(*method), case.problem
            )
        )
        .lower(*case.arrays)
        .compile()
        for called, method in methods().items()
    }
    works = {
        called: timing.jitted_work(as_named(program), case.arrays)
        for called, program in programs.items()
    }
    seconds = timing.time_in_turn(
        {called: work.run for called, work in works.items()}, repeats
    )
    found = {called: work.result()['grads'] for called, work in works.items()}
    rows = [
        {
            'method': called,
            'seconds': seconds[called]['median'],
            'temporary_bytes': program.memory_analysis().temp_size_in_bytes,
            **agreement(found[called], found['unroll']),
        }
        for called, program in programs.items()
    ]
    return {'case': case.name, 'rows': rows}


def as_named(program: Any) -> Any:
    """Wraps a program to return its gradient as a dictionary."""
    return lambda *arrays: {'grads': program(*arrays)[0]}


def agreement(found: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Cosine of two gradients, and |found - exact| / |exact|."""
    a, b = found.astype(np.float64).ravel(), exact.astype(np.float64).ravel()
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    error = np.linalg.norm(a - b) / np.linalg.norm(b)
    return {'cosine': float(a @ b / norms), 'relative_error': float(error)}


def page(report: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    before, after = report['load_average']
    busy = (
        ' Others were at work on the cores: times are rough.'
        if report['busy']
        else ''
    )
    header = ('method', 'cosine', 'relative error', 'time', 'temporaries')
    parts = [
        '# Hypergradients beside the exact one',
        f'From `{report["command"]}` on {report["cores"]} cores, load average '
        f'{before:.1f} before and {after:.1f} after.{busy} Times are medians '
        f'of {report["repeats"]} runs in turn.',
    ]
    for measured in report['cases']:
        rows = [
            [
                row['method'],
                f'{row["cosine"]:.4f}',
                f'{row["relative_error"]:.1e}',
                tables.seconds(row['seconds']),
                f'{row["temporary_bytes"]:,}',
            ]
            for row in measured['rows']
        ]
        parts += [f'## {measured["case"]}', tables.markdown(header, rows)]
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    """Measures, and writes the figures as JSON and as a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--repeats', type=int, default=REPEATS)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    measured = [measure(case, arguments.repeats) for case in cases(begin())]
    figures = {
        'load_average': [before, os.getloadavg()[0]],
        'busy': before > BUSY,
        'repeats': arguments.repeats,
        'cases': measured,
    }
    command = 'python benchmarks/hypergradients.py'
    report = record.write(arguments.out, command, figures)
    arguments.out.with_suffix('.md').write_text(page(report))


if __name__ == '__main__':
    main()
