"""The table of docs/results.md on the paper's protocol (study G)."""

import pathlib
from collections.abc import Iterator

from experiments import statistics
from experiments.results_parts import HEADS, Row, Table, load, present

STUDY = 'protocol'
# Average incremental accuracy in percent, N = 5, not adjusted: with weight
# transfer the paper's Table 2, without it herded rows of its Table 1.
PUBLISHED = {
    ('lucir', 'yes', 'random'): '63.06',
    ('lucir', 'yes', 'herding'): '63.39',
    ('lucir', 'yes', 'paper'): '63.97',
    ('lucir', 'no', 'herding'): '63.17',
    ('icarl', 'no', 'herding'): '57.12',
}


def sections(results: pathlib.Path) -> Iterator[Table]:
    """The table of each file of results there is."""
    for data, title in present(results, STUDY).items():
        yield table(results, data, title)


def table(results: pathlib.Path, data: str, title: str) -> Table:
    """All cases beside the values of the paper."""
    content = load(results, STUDY, data)
    lines = [cells(row) for row in content['rows']]
    seeds = sorted({run['labels']['seed'] for run in content['runs']})
    minutes = [run['seconds'] / 60 for run in content['runs']]
    claim = (
        f'{title}: 50 classes and then five phases of ten, all images in a '
        'split of our own, a small ConvNet and 30 epochs a phase, where the '
        "paper has the official split, ResNet-32 and 160 epochs: the paper's "
        'values are beside ours for orientation only. A class has 20 exemplars '
        f'or the bytes of 20. Seeds {", ".join(seeds)}. The classifier is the '
        "method's own. A run took "
        f'{min(minutes):.0f} to {max(minutes):.0f} minutes after phase 0 was '
        'trained, on one of two CPU cores that were shared.'
    )
    titles = ('method', 'exemplars', 'n', 'accuracy', 'less herding', 'paper')
    return Table("The paper's protocol", claim, titles, lines)


def cells(row: Row) -> list[str]:
    """The cells of a case."""
    labels, head = row['labels'], row['judged']
    moved = ', transfer' if labels['transfer'] == 'yes' else ''
    own = row['scores'][head]['average']
    less = row['differences'].get('herding')
    place = labels['method'], labels['transfer'], labels['exemplars']
    return [
        f'{labels["method"]}{moved}, {HEADS[head]}',
        labels['exemplars'],
        str(own['n']),
        statistics.spread(own),
        statistics.marked(less[head]['average']) if less else '',
        PUBLISHED.get(place, ''),
    ]
