"""Command-line flags of the studies."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from sweep import Parser

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'experiments' / 'results'


class Data(NamedTuple):
    """Data of a study.

    Attributes:
        name: name in the result files.
        config: configuration file.
        settings: fields of all runs.
        drawn_by_seed: fields that are set to the seed of a run.
    """

    name: str
    config: str
    settings: dict[str, str]
    drawn_by_seed: tuple[str, ...]


def parse(
    name: str, doc: str, argv: Sequence[str] | None, *, seeds: str, part: str
) -> argparse.Namespace:
    """Parses the flags of a study.

    Args:
        name: name of the study.
        doc: docstring of its module, whose first line is the description.
        argv: arguments without the program name; None for `sys.argv`.
        seeds: default of --seeds.
        part: file of images to use: 'choose' or 'confirm'.

    Returns:
        The flags; 'data' is a `Data`, 'seeds' a list of integers.
    """
    parser = Parser(description=doc.partition('\n')[0], allow_abbrev=False)
    add = parser.add_argument
    add('--data', default='digits', help='digits or a folder of npz files')
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
        args.data = find_data(args.data, part)
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


def find_data(text: str, part: str) -> Data:
    """The data that `--data` names.

    Raises:
        ValueError: the file does not exist.
    """
    common = {
        'report': 'false',
        'data.feed': 'device',
        'checkpoint.every_seconds': '0.0',
    }
    drawn = ('protocol.class_order_seed',)
    if text == 'digits':
        common['evaluate.oracle'] = 'true'
        return Data('digits', 'configs/digits.py', common, drawn)
    file = pathlib.Path(text) / f'{part}.npz'
    if not file.is_file():
        raise ValueError(
            f'--data={text}: no {file}, must be digits or a folder written by '
            'python -m experiments.images'
        )
    settings = {**common, 'data.dir': str(file.resolve())}
    config = 'experiments/small_images.py'
    return Data('images', config, settings, (*drawn, 'data.subset_seed'))
