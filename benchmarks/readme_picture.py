"""Draws the picture at the top of the README from a finished run.

    python benchmarks/readme_picture.py --out=docs/digits.png
    python benchmarks/readme_picture.py runs/digits

shows the first exemplar of each class before and after it was learned, the
change, and the accuracy after each phase. The run is the committed one of
`configs/digits.py`, or another work directory.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

# The package of this checkout, even if none is installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from mnemonics_jax.core import dependencies

with dependencies.explained():
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mnemonics_jax.core import cli

# Results and exemplars of ./launch/quickstart.sh.
COMMITTED = pathlib.Path(__file__).parent / 'results' / 'digits_run'
GAIN = 4  # Changes are shown enlarged, around mid-grey.
HEADS = {'cnn': 'CNN', 'nme': 'NME', 'finetuned': 'fine-tuned'}
COLOURS = ('#0072B2', '#D55E00', '#009E73')


def exemplars(workdir: pathlib.Path, num_phases: int) -> np.ndarray:
    """The first exemplar of each class, before and after learning.

    Returns:
        f32[2, n, H, W, C] in [0, 1], classes in the order in which they came.
    """
    pairs = []
    for phase in range(num_phases):
        folder = workdir / 'exemplars'
        with np.load(folder / f'selected_{phase}.npz') as file:
            selected = file['images'][:, 0]
        with np.load(folder / f'phase_{phase}.npz') as file:
            # New classes are the last rows.
            learned = file['images'][-len(selected) :, 0]
        pairs.append(np.stack([selected, learned]))
    images = np.concatenate(pairs, axis=1)
    scale = 255 if images.dtype == np.uint8 else 1
    return images.astype(np.float32) / scale


def draw_exemplars(axes: Sequence[Axes], images: np.ndarray) -> None:
    """A row of images before learning, one after it, and one of the change."""
    before, after = images
    rows = {
        'before': before,
        'after': after,
        f'change x {GAIN}': 0.5 + GAIN * (after - before),
    }
    for ax, (name, row) in zip(axes, rows.items(), strict=True):
        # A white column of pixels after each image.
        gap = [(0, 0), (0, 0), (0, 1), (0, 0)]
        tiles = np.pad(np.clip(row, 0, 1), gap, constant_values=1)
        n, height, width, channels = tiles.shape
        strip = tiles.transpose(1, 0, 2, 3).reshape(height, n * width, channels)
        ax.imshow(strip[:, :-1].repeat(3 // channels, -1))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(name, rotation=0, ha='right', va='center', fontsize=10)


def draw_accuracy(ax: Axes, phases: Sequence[dict]) -> None:
    """Accuracy over the classes seen, a line for each classifier."""
    seen = [phase['num_seen'] for phase in phases]
    for (head, name), colour in zip(HEADS.items(), COLOURS, strict=True):
        values = [100 * phase['accuracy'][head] for phase in phases]
        ax.plot(seen, values, marker='o', color=colour, label=name)
    ax.set_xlabel('classes seen')
    ax.set_ylabel('accuracy, %')
    ax.set_xticks(seen)
    ax.grid(axis='y', color='#e4e4e4')
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(frameon=False)


def draw(workdir: pathlib.Path) -> Figure:
    """The picture of a finished run."""
    phases = json.loads((workdir / 'results.json').read_text())['phases']
    images = exemplars(workdir, len(phases))
    figure = Figure(figsize=(11, 2.9), layout='constrained')
    grid = figure.add_gridspec(3, 2, width_ratios=(2.3, 1))
    rows = [figure.add_subplot(grid[i, 0]) for i in range(3)]
    draw_exemplars(rows, images)
    draw_accuracy(figure.add_subplot(grid[:, 1]), phases)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the picture and returns the exit status."""
    parser = cli.Parser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'workdir',
        type=pathlib.Path,
        nargs='?',
        default=COMMITTED,
        help='work directory of a run',
    )
    parser.add_argument('--out', type=pathlib.Path, default='runs/digits.png')
    args = parser.parse_args(argv)

    def save():
        figure = draw(args.workdir)
        figure.savefig(args.out, dpi=120, metadata={'Software': None})
        print(f'picture: {args.out}')

    cli.answer(save)
    return 0


if __name__ == '__main__':
    sys.exit(main())
