"""How time and memory grow with phases, classes, exemplars, K and devices.

    python benchmarks/growth.py --out=benchmarks/results/growth_cpu.json

Starting from a small base size, one number is increased at a time. For the
number of phases, whole runs are timed; for the other numbers, one training step
and one exemplar step. Temporary bytes per device and collectives are read from
the compiled programs. Fake CPU devices run in separate processes and are not
timed, since they share the cores. Writes a plot and a page next to the file.
The requirements of ImageNet on a pod are computed from shapes, see
growth_page.py.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import record
from ml_collections import config_dict

from mnemonics_jax import config, experiment
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components, step_shapes
from mnemonics_jax.experiment.step_shapes import Program
from mnemonics_jax.plan import hlo

ROOT = pathlib.Path(__file__).parent.parent
BASE = {'classes': 20, 'exemplars': 4, 'K': 4, 'devices': 1, 'phases': 2}
VALUES = {
    'classes': (20, 40, 80),
    'exemplars': (4, 8, 16),
    'K': (4, 8, 16),
    'devices': (1, 2, 4, 8),
    'phases': (2, 5, 10),
}
REPEATS = 5
# The programs that are measured.
PROGRAMS = ('training', 'learning exemplars', 'adjusting exemplars')
# Configuration at every point. The inner steps train all parameters on all
# exemplars, their largest possible cost.
FIELDS = {
    'data.source': 'synthetic',
    'data.feed': 'device',
    'data.train_per_class': 32,
    'data.test_per_class': 4,
    'data.image_size': 16,
    'backbone.name': 'convnet_tiny',
    'train.epochs': 1,
    'train.batch_size': 32,
    'train.milestones': (),
    'finetune.epochs': 1,
    'finetune.batch_size': 32,
    'evaluate.batch_size': 32,
    'exemplars.adjust': True,
    'exemplars.outer_steps': 2,
    'exemplars.adjust_steps': 2,
    'exemplars.inner_scope': 'all',
    'exemplars.inner_start': 'current',
    'exemplars.inner_lr': 0.01,
    'exemplars.query_batch': 32,
}


def configure(
    point: Mapping[str, int],
) -> tuple[config_dict.ConfigDict, parallel.Placement]:
    """Configuration and placement of a run at a point, see `BASE`."""
    chosen = config.default_config()
    chosen.update_from_flattened_dict(
        {
            **FIELDS,
            'exemplars.preset': 'bilevel',
            'data.num_classes': point['classes'],
            'protocol.base_classes': point['classes'] // 2,
            'protocol.phases': point['phases'],
            'exemplars.per_class': point['exemplars'],
            'exemplars.inner_steps': point['K'],
        }
    )
    placement = parallel.make_placement(jax.devices()[: point['devices']])
    return chosen, placement


def measure_steps(point: Mapping[str, int]) -> dict[str, Any]:
    """Cost of one step of each program, by name."""
    chosen, placement = configure(point)
    parts = components.build(config.resolve(chosen), placement)
    found = {}
    for program in step_shapes.programs(parts, point['phases']):
        if program.name not in PROGRAMS:
            continue
        # The last argument is the number of steps.
        one = program._replace(arguments=(*program.arguments[:-1], 1))
        compiled = one.function.lower(*one.arguments).compile()
        sizes = compiled.memory_analysis()
        sent = hlo.collectives(compiled.as_text())
        found[program.name] = {
            'temporary_bytes': sizes.temp_size_in_bytes,
            'argument_bytes': sizes.argument_size_in_bytes,
            'sent': {kind: each._asdict() for kind, each in sent.items()},
            'seconds': time_step(one) if point['devices'] == 1 else None,
        }
    return found


def time_step(program: Program) -> float:
    """Median seconds of a step on zeros; time does not depend on values."""

    def zeros(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            return jnp.zeros(x.shape, x.dtype, device=x.sharding)
        return x

    state, inputs, num = jax.tree.map(zeros, program.arguments)
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program.function(state, inputs, num))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure_run(point: Mapping[str, int]) -> dict[str, Any]:
    """Cost of a whole run, and bytes of its exemplars at the end."""
    count = 0

    def listen(name: str, _: float, **__: Any) -> None:
        nonlocal count
        count += name.endswith('backend_compile_duration')

    jax.monitoring.register_event_duration_secs_listener(listen)
    with tempfile.TemporaryDirectory() as workdir:
        start = time.perf_counter()
        chosen, placement = configure(point)
        parts = experiment.prepare(chosen, workdir, placement)
        results = experiment.run(parts, workdir)
        seconds = time.perf_counter() - start
    jax.monitoring.unregister_event_duration_listener(listen)
    phases = [p['seconds']['total'] for p in results['phases']]
    return {
        'seconds': seconds,
        'seconds_a_phase_after_the_second': statistics.median(phases[2:]),
        'compilations': count,
        'exemplar_bytes': results['phases'][-1]['exemplars']['bytes'],
    }


def measure_apart(kind: str, point: Mapping[str, int]) -> dict[str, Any]:
    """Measures one of `KINDS` in a process with its number of fake devices.

    Whole runs also have their own process, to compile all their programs.
    """
    count = point['devices']
    done = subprocess.run(
        [sys.executable, __file__, f'--{kind}', json.dumps(point)],
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={count}',
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


KINDS = {'steps': measure_steps, 'run': measure_run}


def measure() -> dict[str, Any]:
    """Results at all points: a list for each number that is increased."""
    functions = {
        'phases': functools.partial(measure_apart, 'run'),
        'devices': functools.partial(measure_apart, 'steps'),
    }
    found: dict[str, Any] = {}
    for name, values in VALUES.items():
        function = functions.get(name, measure_steps)
        found[name] = []
        for value in values:
            point = {**BASE, name: value}
            found[name].append({name: value, **function(point)})
            print(found[name][-1], flush=True)
    return found


def main() -> None:
    """Measures, and writes figures, page and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path)
    for kind in KINDS:
        parser.add_argument(f'--{kind}', type=json.loads)
    arguments = parser.parse_args()
    # Each run must compile all of its programs.
    parallel.use_compilation_cache(False)
    for kind, function in KINDS.items():
        if point := getattr(arguments, kind):
            print(json.dumps(function(point)))
            return
    if not arguments.out:
        parser.error('--out: must be given')
    import growth_page

    before = os.getloadavg()[0]
    figures = {'base': BASE, 'fields': FIELDS, 'growth': measure()}
    figures['load_average'] = [before, os.getloadavg()[0]]
    figures['imagenet'] = growth_page.imagenet()
    record.write(arguments.out, 'python benchmarks/growth.py', figures)
    growth_page.write(arguments.out)


if __name__ == '__main__':
    main()
