"""Page and plot of the results of growth.py, with limits for ImageNet.

    python benchmarks/growth_page.py benchmarks/results/growth_cpu.json

writes growth_cpu.md and growth_cpu.png next to the file.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import optax
import tables
from matplotlib.figure import Figure

from mnemonics_jax import backbones
from mnemonics_jax.bilevel import outer
from mnemonics_jax.exemplars import memory

CLASSES, BASE_CLASSES, PER_CLASS = 1000, 500, 20
SHAPE = (224, 224, 3)
STEPS = ('classes', 'exemplars', 'K', 'devices')
PROGRAMS = ('training', 'learning exemplars')
_COLOURS = ('#0072B2', '#D55E00')


def imagenet() -> dict[str, int]:
    """Bytes at ImageNet's size with ResNet-18, from shapes."""
    backbone = backbones.make_backbone(
        'resnet18',
        num_classes=CLASSES,
        image_shape=SHAPE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    variables = jax.eval_shape(backbone.init, jax.random.key(0))
    count = BASE_CLASSES * PER_CLASS
    pixels = jax.ShapeDtypeStruct((count, *SHAPE), jax.numpy.float32)
    state = jax.eval_shape(
        lambda x: outer.init_state(x, optax.adam(0.02)), pixels
    )
    held = {
        storage: num_bytes(
            jax.eval_shape(
                lambda storage=storage: (
                    memory.empty(CLASSES, PER_CLASS, SHAPE, storage).images
                )
            )
        )
        for storage in ('uint8', 'float32')
    }
    return {
        'params': num_bytes(variables.params),
        'batch_stats': num_bytes(variables.batch_stats),
        'exemplars_uint8': held['uint8'],
        'exemplars_float32': held['float32'],
        'learned_at_once': num_bytes(pixels),
        'state_of_learning': num_bytes(state),
    }


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, which may be abstract."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def sent(step: Mapping[str, Any], kind: str) -> tuple[int, int]:
    """Calls and bytes of a kind of collective in a step."""
    found = step['sent'].get(kind, {'calls': 0, 'bytes': 0})
    return found['calls'], found['bytes']


def step_table(figures: Mapping[str, Any]) -> str:
    """A table row for each point and program."""
    header = (
        *('raised', 'to', 'step', 'time', 'temporaries'),
        *('all-reduces', 'their bytes', 'all-gathers', 'their bytes'),
    )
    rows = []
    for name in STEPS:
        for point in figures['growth'][name]:
            for program in PROGRAMS:
                step = point[program]
                numbers = [*sent(step, 'all-reduce'), *sent(step, 'all-gather')]
                rows.append(
                    [
                        *(name, str(point[name]), program),
                        tables.seconds(step['seconds']),
                        f'{step["temporary_bytes"]:,}',
                        *(f'{x:,}' for x in numbers),
                    ]
                )
    return tables.markdown(header, rows)


def run_table(figures: Mapping[str, Any]) -> str:
    """A table row for each number of phases."""
    header = ('phases after the first', 'whole run', 'a phase after the second')
    rows = [
        [
            str(point['phases']),
            tables.seconds(point['seconds']),
            tables.seconds(point['seconds_a_phase_after_the_second']),
            str(point['compilations']),
            f'{point["exemplar_bytes"]:,}',
        ]
        for point in figures['growth']['phases']
    ]
    return tables.markdown((*header, 'compilations', 'exemplar bytes'), rows)


def paragraph(figures: Mapping[str, Any]) -> str:
    """Paragraph on the limits at ImageNet's size on a pod."""
    size = {k: in_words(v) for k, v in figures['imagenet'].items()}
    point = figures['growth']['devices'][-1]
    step = point['learning exemplars']
    reduces, reduced = sent(step, 'all-reduce')
    count = BASE_CLASSES * PER_CLASS
    return (
        f'At the size of ImageNet the exemplars bound it. {PER_CLASS} a class '
        f'of {CLASSES:,} classes at {SHAPE[0]} x {SHAPE[1]} x 3 are '
        f'{size["exemplars_uint8"]} as uint8 and {size["exemplars_float32"]} '
        f'as float32, on every device. The {count:,} of phase 0 that are '
        f'learned at once take {size["learned_at_once"]}, with the two moments '
        f'of Adam {size["state_of_learning"]}, which the devices share if they '
        'divide them evenly. A training step sums one gradient of '
        f"ResNet-18's parameters over the devices, {size['params']}, and "
        f'statistics of BatchNorm, {size["batch_stats"]}, whatever the number '
        'of devices. An exemplar step sums more: in the small program above, '
        f'with K = {figures["base"]["K"]} on {point["devices"]} devices, '
        f'{reduces} all-reduces of {in_words(reduced)}, '
        f'{reduced / pixel_bytes(figures):.1f} times those of its pixels, '
        'whose gradient is summed once; the rest is the gradients of the '
        'inner steps and their derivatives.'
    )


def in_words(size: int) -> str:
    """Bytes as text in kB, MB or GB (powers of 1000)."""
    power = 3 if size >= 1e9 else 2 if size >= 1e6 else 1
    return f'{size / 1000**power:.3g} {("kB", "MB", "GB")[power - 1]}'


def pixel_bytes(figures: Mapping[str, Any]) -> int:
    """Bytes of the pixels learned at once at the base point."""
    base, side = figures['base'], figures['fields']['data.image_size']
    return base['classes'] // 2 * base['exemplars'] * side * side * 3 * 4


def plot(figures: Mapping[str, Any]) -> Figure:
    """Plots time (bytes of all-reduces over devices) and temporaries."""
    figure = Figure(figsize=(12, 5.5), layout='constrained')
    axes = figure.subplots(2, len(STEPS))
    growth = figures['growth']
    for column, name in enumerate(STEPS):
        drawn = [
            ('time' if name != 'devices' else 'bytes of all-reduces', 0),
            ('temporaries', 1),
        ]
        xs = [point[name] for point in growth[name]]
        for what, row in drawn:
            for program, colour in zip(PROGRAMS, _COLOURS, strict=True):
                ys = [value(point[program], what) for point in growth[name]]
                axes[row, column].plot(
                    xs, ys, marker='o', color=colour, label=program
                )
            axes[row, column].set(title=f'{what}, {unit(what)}', xlabel=name)
            axes[row, column].set_xticks(xs)
            axes[row, column].set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False)
    return figure


def value(step: Mapping[str, Any], what: str) -> float:
    """A value of a step to plot, in `unit`."""
    if what == 'time':
        return 1000 * step['seconds']
    if what == 'temporaries':
        return step['temporary_bytes'] / 1e6
    return sent(step, 'all-reduce')[1] / 1e3


def unit(what: str) -> str:
    """Unit of a plotted value."""
    return {'time': 'ms', 'temporaries': 'MB'}.get(what, 'kB')


def page(figures: Mapping[str, Any], picture: str) -> str:
    """The page in Markdown."""
    before, after = figures['load_average']
    return '\n\n'.join(
        [
            '# How cost grows',
            f'From `{figures["command"]}` on {figures["cores"]} cores, load '
            f'average {before:.1f} before and {after:.1f} after. Base: '
            + ', '.join(f'{k} {v}' for k, v in figures['base'].items())
            + '. Times are measured; bytes and collectives are those of the '
            'compiled programs, on one device.',
            step_table(figures),
            run_table(figures),
            f'![Time and temporary bytes]({picture})',
            paragraph(figures) + '\n',
        ]
    )


def write(path: pathlib.Path) -> None:
    """Writes page and plot next to the file of figures."""
    figures = json.loads(path.read_text())
    picture = path.with_suffix('.png')
    plot(figures).savefig(picture, dpi=100)
    path.with_suffix('.md').write_text(page(figures, picture.name))


def main() -> None:
    """Writes the page and the plot of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('path', type=pathlib.Path)
    write(parser.parse_args().path)


if __name__ == '__main__':
    main()
