"""The flags that studies made of runs take."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from sweep import Parser

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'experiments' / 'results'


class Data(NamedTuple):
    """What a study runs on.

    Attributes:
        name: of its results.
        config: file of the configuration.
        settings: of all runs.
        drawn_by_seed: fields that each seed sets to itself.
    """

    name: str
    config: str
    settings: dict[str, str]
    drawn_by_seed: tuple[str, ...]


def parse(
    name: str, doc: str, argv: Sequence[str] | None, *, seeds: str, part: str
) -> argparse.Namespace:
    """The flags that all studies made of runs take.

    Args:
        name: of the study.
        doc: of its module; the first line describes it.
        argv: without the program's name; None for those of the process.
        seeds: by default.
        part: of the classes of images that it runs on: 'choose' or 'confirm'.

    Returns:
        'data' is a `Data`, 'seeds' a list of numbers.
    """
    parser = Parser(description=doc.partition('\n')[0], allow_abbrev=False)
    add = parser.add_argument
    add('--data', default='digits', help='digits, or what decode.py wrote')
    add('--seeds', default=seeds, help='class order, classes and weights')
    add('--only', default='', help='cases whose first label is among these')
    add('--where', default='', help='and others are these: method=icarl')
    add('--jobs', default=1, type=int, help='runs at a time')
    add('--runs', type=pathlib.Path, help='folder of the work directories')
    add('--out', type=pathlib.Path, help='folder of the results')
    add('--quick', action='store_true', help='a smoke test, in minutes')
    args = parser.parse_args(argv)
    try:
        if args.jobs < 1:
            raise ValueError(f'--jobs={args.jobs}: allowed: at least 1')
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
    """'0,1' as numbers.

    Raises:
        ValueError: they are none.
    """
    try:
        return [int(part) for part in text.split(',')]
    except ValueError:
        raise ValueError(
            f'--seeds={text}: allowed: whole numbers, separated by commas'
        ) from None


def parse_where(text: str) -> dict[str, str]:
    """'a class=2,method=icarl' as values by label.

    Raises:
        ValueError: it is something else.
    """
    pairs = [part.split('=') for part in filter(None, text.split(','))]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"--where={text}: allowed: such as 'a class=2,method=icarl'"
        )
    return dict(pairs)


def find_data(text: str, part: str) -> Data:
    """What `--data` means.

    Raises:
        ValueError: there is no such file.
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
            f'--data={text}: no {file}; allowed: digits, or the folder that '
            'python -m experiments.images wrote'
        )
    settings = {**common, 'data.dir': str(file.resolve())}
    config = 'experiments/small_images.py'
    return Data('images', config, settings, (*drawn, 'data.subset_seed'))
