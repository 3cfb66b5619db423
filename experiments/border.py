"""Study D: do exemplars lie on the border between classes, as in Fig. 1?

    python -m experiments.border [--data=runs/images]

reads the results of study A, `results/replication_<data>.json`, and the runs of
its first seed for the figure. It writes `results/border_<data>.json`, `.md` and
`.png`.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tables
from experiments import comparison, flags, replication, runner, statistics
from mnemonics_jax.report import embedding, runs

STRATEGIES = tuple(replication.STRATEGIES)
METHOD = 'lucir'


def at_phase(record: Mapping[str, Any], phase: int) -> dict[str, float]:
    """Median border ratios of a run after a phase, and their difference.

    See `prototypes.border_ratios`; the means are those of all test images.
    """
    found = record['exemplars'][phase]['border']
    return {**found, 'difference': found['exemplars'] - found['images']}


def rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each strategy, number of exemplars, first and last phase."""
    found = []
    for key, seeds in comparison.group(records).items():
        labels = dict(key)
        if labels['method'] != METHOD or labels['adjusted'] != 'no':
            continue
        for title, phase in (('first', 0), ('last', -1)):
            values = [at_phase(record, phase) for record in seeds.values()]
            ratios = {name: [v[name] for v in values] for name in values[0]}
            found.append(
                {
                    'exemplars': labels['exemplars'],
                    'a class': labels['a class'],
                    'phase': title,
                    'ratio': statistics.summary(ratios['exemplars']),
                    'images': statistics.summary(ratios['images']),
                    'difference': statistics.interval(ratios['difference']),
                    'drift': comparison.measures(list(seeds.values()))['drift'],
                }
            )
    order = {name: i for i, name in enumerate(STRATEGIES)}
    return sorted(
        found,
        key=lambda r: (int(r['a class']), r['phase'], order[r['exemplars']]),
    )


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = [
        'a class',
        'phase',
        'exemplars',
        'n',
        'ratio of exemplars',
        'ratio of test images',
        'difference',
        'mean drift',
    ]
    lines = []
    for row in found:
        gap = row['difference']
        bounds = (
            f' [{gap["low"]:+.3f}, {gap["high"]:+.3f}]'
            if gap['low'] is not None
            else ''
        )
        lines.append(
            [
                row['a class'],
                row['phase'],
                row['exemplars'],
                str(gap['n']),
                statistics.spread(row['ratio'], 3, 1),
                statistics.spread(row['images'], 3, 1),
                f'{gap["mean"]:+.3f}{bounds}',
                f'{row["drift"]["mean"]:.1f}',
            ]
        )
    return tables.markdown(titles, lines) + '\n'


def draw(args: Any, records: Sequence[Mapping[str, Any]]) -> str | None:
    """Draws t-SNE of the first seed's runs.

    Returns:
        The file name; that of an earlier figure if the work directories are
        missing, None if there is no figure.
    """
    path = args.out / f'border_{args.data.name}.png'
    sizes = [r['labels']['a class'] for r in records]
    size = max(set(sizes), key=int)
    listed = []
    for name in STRATEGIES:
        labels = {
            'exemplars': name,
            'adjusted': 'no',
            'method': METHOD,
            'a class': size,
            'seed': str(args.seeds[0]),
        }
        folder = args.runs / runner.sweep_grid.run_name(labels)
        found = runs.read(folder, name)
        if found is not None and found.phases:
            listed.append(found)
    if not listed:
        return path.name if path.exists() else None
    picture = embedding.tsne(listed, [])
    if picture is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.drawn.savefig(path, dpi=110)
    return path.name


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit status."""
    args = flags.parse(
        'replication', __doc__, argv, seeds='0,1,2,3,4', part='confirm'
    )
    path = args.out / f'replication_{args.data.name}.json'
    if not path.exists():
        print(
            f'error: {path}: no such file, run python -m '
            'experiments.replication with the same flags first',
            file=sys.stderr,
        )
        return 2
    records = runner.load(path)['runs']
    found = rows(records)
    drawn = draw(args, records)
    text = (
        '# Where exemplars lie\n\n'
        f'{args.data.name}, {METHOD}. Medians over exemplars, and over test '
        'images, of the distance to the nearest mean of another class over '
        'that to the own mean: 1 is the border of the nearest-mean rule, more '
        'is inside. Mean ± standard deviation over seeds; the difference, '
        'exemplars less images, with its 95 % interval.\n\n' + table(found)
    )
    if drawn:
        text += (
            '\n![t-SNE of features by strategy, first and last phase; '
            f'exemplars strong, test images faint]({drawn})\n'
        )
    runner.write(args, 'border', {'rows': found, 'picture': drawn}, text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
