"""Figures of compiled programs, and the table that the command prints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_jax.data.sources import Source
from mnemonics_jax.plan import chips, compiling

_GIB = 2**30
# Random crops of ImageNet's detailed images and of smooth ones that one core
# made in a second (benchmarks/decoders.py).
CROPS_OF_A_CORE = 382, 615
_HEADER = (
    'program',
    'compiles',
    'arguments',
    'temporaries',
    'of memory',
    'GFLOP',
    'HBM MB',
    'kernels',
    'collectives',
    'est. ms',
    'images/s',
    'bound ms',
    'steps',
    'est. run',
    'bound run',
)
_LEGEND = (
    'Of a step on each device. est.: an estimate, cycles by the TPU compiler,',
    'which leaves out what a collective or the host takes. bound: no step is',
    'faster, by its operations and bytes at the peaks of the chip.',
)


def figures(
    row: compiling.Row, chip: chips.Chip, num_steps: int
) -> dict[str, Any]:
    """Figures of a step of a program, and of all its steps in a run.

    Args:
        row: from `compiling.in_process_of_its_own`.
        chip: the chip.
        num_steps: steps in a run.

    Returns:
        Of a step on each device: 'flops', 'hbm_bytes', 'kernels', 'collectives'
        by kind, 'bound_seconds', the longer of operations at the chip's peak
        and bytes at its bandwidth, and 'estimated_seconds' from the compiler's
        cycles, None where it gives none. Of a run: 'steps', 'run_bound_seconds'
        and 'run_estimated_seconds'. Only 'steps' if the program did not
        compile.
    """
    if 'cost' not in row:
        return {'steps': num_steps}
    cost, steps = row['cost'], row['num_steps']
    per_step = {
        name: cost[name] / steps for name in ('flops', 'hbm_bytes', 'kernels')
    }
    bound = max(
        per_step['flops'] / chip.peak, per_step['hbm_bytes'] / chip.bandwidth
    )
    cycles = cost['cycles'] if chip.gpu is None else None
    estimate = cycles and cycles / steps / chip.clock
    return {
        **per_step,
        'collectives': {
            kind: {
                'calls': each['calls'] / steps,
                'bytes': each['bytes'] / steps,
            }
            for kind, each in cost['collectives'].items()
        },
        'bound_seconds': bound,
        'estimated_seconds': estimate,
        'steps': num_steps,
        'run_bound_seconds': bound * num_steps,
        'run_estimated_seconds': estimate and estimate * num_steps,
    }


def whole_run(programs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds of all steps of a run; None if those of a program are unknown."""
    found: dict[str, Any] = {}
    for name in ('bound_seconds', 'estimated_seconds'):
        each = [row['figures'].get(f'run_{name}') for row in programs]
        found[name] = None if None in each else sum(each)
    return found


def cores_to_decode(
    programs: Sequence[Mapping[str, Any]],
) -> tuple[int, int] | None:
    """Cores whose random crops keep up with training, least and most.

    Cores like those of `CROPS_OF_A_CORE`, over all hosts; None without a figure
    for training.
    """
    for row in programs:
        found = row['figures']
        seconds = found.get('estimated_seconds') or found.get('bound_seconds')
        if row['program'] == 'training' and seconds:
            rate = row['num_images'] / seconds
            slow, fast = CROPS_OF_A_CORE
            return math.ceil(rate / fast), math.ceil(rate / slow)
    return None


def render(report: Mapping[str, Any]) -> str:
    """The report of a plan as text; see `__main__.plan`."""
    devices = chips.find(report['chips'])
    room = devices.chip.room
    rows = [_cells(each, room) for each in report['programs']]
    lines = [
        f'{devices.num_chips} x {devices.chip.name}, '
        f'{devices.chip.memory / _GIB:.1f} GiB each'
        + ('' if devices.chip.gpu is None else ', of which JAX takes 75 %'),
        f'images: {report["images"]}',
        '',
        *aligned([_HEADER, *rows]),
        '',
        *_LEGEND,
        *_collective_lines(report['programs']),
        *_reasons(report['programs']),
        *_decoding_lines(report),
        _run_line(report['run']),
    ]
    return '\n'.join(lines)


def describe_images(source: Source) -> str:
    """The images of a run in words."""
    sides = ' x '.join(map(str, source.image_shape))
    train, test = (len(source.labels[split]) for split in ('train', 'test'))
    return (
        f'{source.num_classes} classes, {train:,} training and {test:,} test '
        f'images, {sides}'
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first two to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append('  '.join(cells).rstrip())
    return lines


def _cells(row: Mapping[str, Any], room: int) -> list[str]:
    """The cells of a program."""
    found, compiled = row['figures'], 'cost' in row
    status = 'yes' if row['status'] == compiling.COMPILED else row['status']
    if not compiled:
        empty = [''] * (len(_HEADER) - 5)
        return [row['program'], status, *empty, f'{found["steps"]:,}', '', '']
    estimate = found['estimated_seconds']
    sent = found['collectives'].values()
    calls = sum(each['calls'] for each in sent)
    moved = sum(each['bytes'] for each in sent)
    images = row['num_images']
    return [
        row['program'],
        status,
        f'{row["argument_bytes"] / 1e6:,.0f} MB',
        f'{row["temporary_bytes"] / 1e6:,.0f} MB',
        f'{row["needed_bytes"] / room:.1%}',
        f'{found["flops"] / 1e9:,.1f}',
        f'{found["hbm_bytes"] / 1e6:,.0f}',
        f'{found["kernels"]:,.0f}',
        f'{calls:,.0f}, {moved / 1e6:,.1f} MB' if calls else '0',
        f'{estimate * 1e3:,.2f}' if estimate else '-',
        f'{images / estimate:,.0f}' if estimate and images else '-',
        f'{found["bound_seconds"] * 1e3:,.2f}',
        f'{found["steps"]:,}',
        duration(found['run_estimated_seconds']),
        duration(found['run_bound_seconds']),
    ]


def duration(seconds: float | None) -> str:
    """Seconds in words, such as 95 s, 12 min or 5.1 h; - for None."""
    if seconds is None:
        return '-'
    if seconds < 120:
        return f'{seconds:.3g} s' if seconds < 100 else f'{seconds:.0f} s'
    return (
        f'{seconds / 60:.0f} min'
        if seconds < 7200
        else (f'{seconds / 3600:,.1f} h')
    )


def _collective_lines(programs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Collectives of a step by kind."""
    lines = []
    for row in programs:
        found = row['figures'].get('collectives')
        if found:
            kinds = ', '.join(
                f'{each["calls"]:,.0f} {kind} of {each["bytes"] / 1e6:,.2f} MB'
                for kind, each in found.items()
            )
            lines.append(f'{row["program"]}: {kinds}')
    return ['', 'Collectives of a step:', *lines] if lines else []


def _reasons(programs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each program that does not compile or does not fit."""
    lines = [
        row.get('remedy')
        or f'{row["program"]}: {row["status"]} ({row.get("reason", "")})'
        for row in programs
        if row['status'] != compiling.COMPILED
    ]
    return ['', *lines] if lines else []


def _decoding_lines(report: Mapping[str, Any]) -> list[str]:
    if not report['crops_on_host'] or not (
        cores := cores_to_decode(report['programs'])
    ):
        return []
    low, high = CROPS_OF_A_CORE
    return [
        f'\ninput: {cores[0]} to {cores[1]} cores of all hosts together keep '
        f'up with training, at {low} to {high} random crops a second each '
        '(benchmarks/decoders.py)'
    ]


def _run_line(run: Mapping[str, Any]) -> str:
    if run['bound_seconds'] is None:
        return '\nwhole run: unknown, since not all of its programs compile'
    estimate = ''
    if run['estimated_seconds'] is not None:
        taken = duration(run['estimated_seconds'])
        estimate = f'{taken} by the estimate of the compiler; '
    return (
        f'\nwhole run: {estimate}at least {duration(run["bound_seconds"])} by '
        'the bound; without reading data, compiling, selecting and saving'
    )
