"""The table of study C, from its JSON file."""

import statistics as moments
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import statistics

COLUMNS = (
    'images a class',
    'bytes a class',
    'exemplars',
    'test accuracy, %',
    'n',
    'minus random, points',
    'minus herding, points',
    'mean drift, grey levels',
    'seconds',
)


def accuracies(
    cases: Sequence[Mapping[str, Any]], row: str, per_class: int | None
) -> dict[int, float]:
    """Mean accuracy over the networks of a case, by seed."""
    return {
        case['seed']: moments.fmean(case['accuracies'])
        for case in cases
        if (case['row'], case['per_class']) == (row, per_class)
    }


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> dict[str, Any]:
    """Interval of the mean difference over common seeds."""
    both = sorted(ours.keys() & theirs.keys())
    return statistics.interval([ours[seed] - theirs[seed] for seed in both])


def markdown(results: Mapping[str, Any]) -> str:
    """The results of `from_scratch` in Markdown.

    Args:
        results: content of its JSON file.
    """
    cases = results['cases']
    kinds = dict.fromkeys((case['per_class'], case['row']) for case in cases)
    kinds = sorted(kinds, key=lambda kind: (kind[0] is None, kind[0] or 0))
    lines = [' | '.join(COLUMNS), ' | '.join('---' for _ in COLUMNS)]
    for per_class, row in kinds:
        lines.append(' | '.join(_cells(cases, row, per_class)))
    table = '\n'.join(f'| {line} |' for line in lines)
    return f'{_heading(results)}\n\n{table}\n'


def _cells(cases, row, per_class) -> list[str]:
    ours = accuracies(cases, row, per_class)
    own_cases = [
        case
        for case in cases
        if (case['row'], case['per_class']) == (row, per_class)
    ]

    def minus(other):
        if per_class is None or other == row:
            return ''
        theirs = accuracies(cases, other, per_class)
        return statistics.signed(difference(ours, theirs))

    def mean(field):
        return moments.fmean(case[field] for case in own_cases)

    return [
        'all' if per_class is None else str(per_class),
        str(own_cases[0]['bytes_per_class']),
        row,
        statistics.spread(statistics.summary(list(ours.values()))),
        str(len(ours)),
        minus('random'),
        minus('herding'),
        f'{mean("drift_grey_levels"):.2f}',
        f'{mean("seconds"):.0f}',
    ]


def _packed(factor: int) -> str:
    """Explanation of packing; empty without packing."""
    if factor == 1:
        return ''
    return f'Packed: {factor**2} images in the bytes of one. '


def _heading(results) -> str:
    config = results['config']
    seeds = sorted({case['seed'] for case in results['cases']})
    return (
        f'Study C, {results["data"]}: fresh networks trained on the exemplars '
        f'alone. Seeds {", ".join(map(str, seeds))}; of each case the mean of '
        f'{config["networks"]} networks, '
        f'{config["training"]["steps"]} steps each '
        f'({config["training_on_all"]["steps"]} on all images). Mean ± '
        'standard deviation over n seeds; differences are paired by seed, with '
        f'the 95 % interval of their mean. {_packed(config["factor"])}Learned '
        f'exemplars start from {config["start"]} ones. Seconds are the mean '
        f'of a case, {results["seconds"]:.0f} in all, on '
        f'{results["cores"]} cores that may be shared. Written by\n\n'
        f'    {results["command"]}'
    )
