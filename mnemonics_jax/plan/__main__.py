"""`python -m mnemonics_jax.plan`; ends with 1 if a program does not fit."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core import dependencies
from mnemonics_jax.plan import chips

# Before JAX is imported, which reads them once.
os.environ.update(chips.ENVIRONMENT)

with dependencies.explained():
    from mnemonics_jax.core import cli, parallel
    from mnemonics_jax.core.workdir import write_atomically
    from mnemonics_jax.experiment import step_shapes
    from mnemonics_jax.experiment.phase_loop import last_phase
    from mnemonics_jax.experiment.step_counts import steps_of_run
    from mnemonics_jax.plan import compiling, request, table


def plan(asked: request.Request, argv: Sequence[str]) -> dict[str, Any]:
    """Compiles the programs of a run, one after the other.

    Args:
        asked: the parsed flags.
        argv: the flags.

    Returns:
        'chips', 'images' in words, 'crops_on_host', whether hosts crop while
        they decode, 'programs', each a row of `compiling` with 'figures' of
        `table.figures`, and 'run' of `table.whole_run`.

    Raises:
        ValueError: the configuration does not fit the data or the devices, or
            there is no compiler or program.
    """
    devices = asked.devices
    with parallel.compiling_for(devices.chip.platform, devices.chip.kind):
        parts = request.build(asked, compiling.placement_on(devices))
        last = last_phase(parts)
        known = [each.name for each in step_shapes.programs(parts, last)]
    names = asked.programs or known
    for name in names:
        if name not in known:
            raise ValueError(
                f'--programs={name}: must be one of {", ".join(known)}'
            )
    counts, programs = steps_of_run(parts, last), []
    for name in names:
        print(f'compiling {name} for {devices.name}', file=sys.stderr)
        row = compiling.in_process_of_its_own(argv, name)
        found = table.figures(row, devices.chip, counts[name])
        programs.append({**row, 'figures': found})
    return {
        'chips': devices.name,
        'images': table.describe_images(parts.source),
        'crops_on_host': parts.config.data.random_resized_crop,
        'programs': programs,
        'run': table.whole_run(programs),
    }


def main() -> None:
    """Prints the plan that the flags ask for."""
    argv, fits = sys.argv[1:], True

    def command() -> None:
        nonlocal fits
        asked = request.parse(argv)
        report = plan(asked, argv)
        if asked.out is not None:
            write_atomically(asked.out, json.dumps(report, indent=1) + '\n')
        print(table.render(report))
        fits = all(
            row['status'] == compiling.COMPILED for row in report['programs']
        )

    cli.answer(command)
    sys.exit(not fits)


if __name__ == '__main__':
    main()
