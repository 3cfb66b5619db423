"""Compiles a program of a run for devices that are only described.

    python -m mnemonics_jax.plan.compiling FILE PROGRAM [flags of the plan]

writes what was found to FILE. A process for each program: some programs crash
the compiler, which ends its process.
"""

import importlib.util
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components, memory_check, step_shapes
from mnemonics_jax.experiment.phase_loop import last_phase
from mnemonics_jax.plan import chips, hlo, request

# Status of a program.
COMPILED, TOO_LARGE = 'compiled', 'does not fit'
CRASHED, FAILED = 'the compiler crashed', 'the compiler failed'
_MODULES = {'tpu': 'libtpu', 'gpu': 'jax_plugins.xla_cuda13'}
# A file in this folder gets the text of each compiled program.
TEXTS = 'MNEMONICS_JAX_PLAN_TEXTS'

Row = dict[str, Any]


def check_compiler(platform: str) -> None:
    """Raises ValueError if the compiler for tpu or gpu is not installed."""
    module = _MODULES[platform]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError(
            f'--chips: needs {module}, which is not installed; to install it: '
            "pip install 'mnemonics-jax[plan]'"
        )


def placement_on(devices: chips.Slice) -> parallel.Placement:
    """A placement on devices that are only described.

    Raises:
        ValueError: there is no compiler for them.
    """
    check_compiler(devices.chip.platform)
    if devices.chip.gpu is None:
        found = topologies.get_topology_desc(
            devices.topology, 'tpu', **devices.options()
        )
    else:
        found = topologies.get_topology_desc(
            platform='cuda', topology=devices.topology, **devices.options()
        )
    return parallel.make_placement(found.devices)


def in_process_of_its_own(argv: Sequence[str], program: str) -> Row:
    """Compiles a program in another process.

    Args:
        argv: flags of the plan.
        program: name of the program.

    Returns:
        The content of the file of `main`; of a crash, status and reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'row.json')
        done = subprocess.run(
            [sys.executable, '-m', __name__, str(path), program, *argv],
            check=False,
            env={**os.environ, **chips.ENVIRONMENT},
            capture_output=True,
            text=True,
            errors='replace',
        )
        if path.exists():
            return json.loads(path.read_text())
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode >= 0:
        reason = lines[-1] if lines else f'exit status {done.returncode}'
        return {'program': program, 'status': FAILED, 'reason': reason[:300]}
    number = signal.Signals(-done.returncode).name
    return {'program': program, 'status': CRASHED, 'reason': number}


def compile_program(
    program: step_shapes.Program, devices: chips.Slice
) -> tuple[Row, bool]:
    """Compiles a program and reads what it needs.

    Returns:
        The row of the program, and whether it fits into a device.
    """
    start, room = time.monotonic(), devices.chip.room
    row: Row = {
        'program': program.name,
        'num_steps': program.num_steps,
        'num_images': program.num_images,
    }
    try:
        compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as e:
        status = TOO_LARGE if memory_check.is_exhausted(e) else FAILED
        reason = str(e).strip().splitlines()[0]
        return {**row, 'status': status, 'reason': reason[:300]}, False
    sizes: Any = compiled.memory_analysis()
    need = memory_check.bytes_of(sizes)
    fits = need <= room
    text = compiled.as_text() or ''
    if folder := os.environ.get(TEXTS):
        name = f'{devices.name}_{program.name}.txt'.replace(':', '_')
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        pathlib.Path(folder, name).write_text(text)
    row |= {
        'status': COMPILED if fits else TOO_LARGE,
        'argument_bytes': sizes.argument_size_in_bytes,
        'temporary_bytes': sizes.temp_size_in_bytes,
        'needed_bytes': need,
        'seconds': round(time.monotonic() - start, 1),
        'cpu_seconds': round(
            sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 1
        ),
        'cost': hlo.cost(text).to_json(),
    }
    return row, fits


def remedy(
    parts: components.Components,
    program: step_shapes.Program,
    row: Row,
    room: int,
) -> str:
    """What would fit in place of a program that does not."""
    need = row.get('needed_bytes', float('inf'))
    return memory_check.explain(parts, last_phase(parts), program, need, room)


def main(argv: Sequence[str]) -> None:
    """Compiles a program and writes its row."""
    path, name, *flags = argv
    asked = request.parse(flags)
    chip = asked.devices.chip
    with parallel.compiling_for(chip.platform, chip.kind):
        parts = request.build(asked, placement_on(asked.devices))
        listed = step_shapes.programs(parts, last_phase(parts))
        program = {each.name: each for each in listed}[name]
        row, fits = compile_program(program, asked.devices)
        images = step_shapes.abstract_memory(parts).images
        row['exemplar_bytes'] = images.size * images.dtype.itemsize
        pathlib.Path(path).write_text(json.dumps(row))
        if not fits and row['status'] == TOO_LARGE:
            # Written first: what follows may crash the compiler.
            line = remedy(parts, program, row, asked.devices.chip.room)
            pathlib.Path(path).write_text(json.dumps({**row, 'remedy': line}))


if __name__ == '__main__':
    main(sys.argv[1:])
