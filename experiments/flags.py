"""Command-line flags of the studies."""

import argparse
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mnemonics_jax.core.cli import Parser

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'experiments' / 'results'
IMAGES = 'experiments/small_images.py'


class Data(NamedTuple):
    """Data of a study.

    Attributes:
        name: name in the result files.
        config: configuration file.
        settings: fields of all runs.
        drawn_by_seed: fields that are set to the seed of a run.
        files: by seed, its own file of images; empty if all seeds share one.
    """

    name: str
    config: str
    settings: dict[str, str]
    drawn_by_seed: tuple[str, ...]
    files: Mapping[int, str] = types.MappingProxyType({})

    def of_seed(self, seed: int) -> dict[str, str]:
        """Fields that depend on the seed of a run."""
        own = {'data.dir': self.files[seed]} if self.files else {}
        return own | dict.fromkeys(('seed', *self.drawn_by_seed), str(seed))


def parse(
    name: str,
    doc: str,
    argv: Sequence[str] | None,
    *,
    seeds: str,
    part: str,
    config: str = IMAGES,
) -> argparse.Namespace:
    """Parses the flags of a study.

    Args:
        name: name of the study.
        doc: docstring of its module, whose first line is the description.
        argv: arguments without the program name; None for `sys.argv`.
        seeds: default of --seeds.
        part: file of images to use: 'choose' or 'confirm'.
        config: default of --config.

    Returns:
        The flags; 'data' is a `Data`, 'seeds' a list of integers.
    """
    parser = Parser(description=doc.partition('\n')[0], allow_abbrev=False)
    add = parser.add_argument
    add('--data', default='digits', help='digits or a folder of npz files')
    add('--config', default=config, help='configuration of such a folder')
    add('--seeds', default=seeds, help='of class order, classes and weights')
    add('--only', default='', help='select cases by their first label')
    add('--where', default='', help='select by other labels: method=icarl')
    add('--jobs', default=1, type=int, help='runs at a time')
    add('--runs', type=pathlib.Path, help='folder of the work directories')
    add('--out', type=pathlib.Path, help='folder of the results')
    add('--quick', action='store_true', help='a smoke test, in minutes')
    args = parser.parse_args(argv)
    try:
        if args.jobs < 1:
            raise ValueError(f'--jobs={args.jobs}: must be an integer >= 1')
        args.seeds = parse_seeds(args.seeds)
        args.data = find_data(args.data, part, args.seeds, args.config)
        args.where = parse_where(args.where)
    except ValueError as e:
        parser.error(str(e))
    args.study = name
    base = ROOT / 'runs' / ('quick' if args.quick else 'experiments')
    args.runs = args.runs or base / f'{name}_{args.data.name}'
    args.out = args.out or (base if args.quick else RESULTS)
    return args


def parse_seeds(text: str) -> list[int]:
    """Parses '0,1' as integers.

    Raises:
        ValueError: they are not integers.
    """
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise ValueError(
            f'--seeds={text}: must be integers separated by commas'
        ) from None


def parse_where(text: str) -> dict[str, str]:
    """Parses 'a class=2,method=icarl' as values by label.

    Raises:
        ValueError: the text has another form.
    """
    pairs = [part.split('=') for part in filter(None, text.split(','))]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"--where={text}: must have the form 'a class=2,method=icarl'"
        )
    return dict(pairs)


def find_data(
    text: str, part: str, seeds: Sequence[int], config: str = IMAGES
) -> Data:
    """The data that `--data` names: digits, or those of a folder by its name.

    Raises:
        ValueError: a file does not exist, or the folder is called digits.
    """
    common = {
        'report': 'false',
        'data.feed': 'device',
        'checkpoint.every_seconds': '0.0',
        # Whatever a strategy has by default, rows differ in exemplars alone.
        'weight_transfer': 'false',
    }
    drawn = ('protocol.class_order_seed',)
    if text == 'digits':
        common['evaluate.oracle'] = 'true'
        return Data('digits', 'configs/digits.py', common, drawn)
    folder = pathlib.Path(text)
    name = folder.resolve().name
    if name == 'digits':
        raise ValueError(
            f'--data={text}: a folder of images must have another name, since '
            'results are named after it'
        )
    if list(folder.glob(f'{part}-*.npz')):
        paths = {seed: folder / f'{part}-{seed}.npz' for seed in seeds}
        check_files(text, paths.values())
        files = {seed: str(path.resolve()) for seed, path in paths.items()}
        return Data(name, config, common, drawn, files)
    file = folder / f'{part}.npz'
    check_files(text, [file])
    settings = {**common, 'data.dir': str(file.resolve())}
    return Data(name, config, settings, (*drawn, 'data.subset_seed'))


def check_files(text: str, paths: Iterable[pathlib.Path]) -> None:
    """Raises ValueError for the first of these files that does not exist."""
    for path in paths:
        if not path.is_file():
            raise ValueError(
                f'--data={text}: no {path}, must be digits or a folder written '
                'by python -m experiments.images'
            )
