"""Study F: what helps beside herding and learning in a full compressed memory.

    python -m experiments.full_memory --data=runs/images [--jobs=2]

changes one thing at a time about JPEG exemplars of quality 50 in the bytes of
two raw images a class, herded or learned, and screens on two seeds, on classes
used for nothing else. It writes `results/full_memory_<data>.json` and `.md`.
"""

import sys
from collections.abc import Sequence

from experiments import by_the_byte, comparison, flags, runner

# The bytes of two raw images a class.
RAW_IMAGES = '2'
HERDING, TUNED = (by_the_byte.STRATEGIES[k] for k in ('herding', 'tuned'))
# Those of all cases, so that they share the model of phase 0.
PLUGINS = ','.join(
    f'experiments/{name}.py'
    for name in (
        'small_network',
        'soft_targets',
        'herding_stored',
        'weighted_selection',
    )
)
COMMON = {
    'plugins': PLUGINS,
    'method.name': 'lucir',
    'exemplars.storage': 'jpeg',
    'exemplars.quality': '50',
    'exemplars.per_class': '0',
    'exemplars.adjust': 'false',
}


def with_soft_targets(share: str) -> dict[str, str]:
    """LUCIR with soft targets of old exemplars."""
    return {'method.name': 'soft_targets', 'method.soft_targets.share': share}


# What each case changes: settings of herding or of `tuned`.
CHANGES: dict[str, dict[str, str]] = {
    'herding': HERDING,
    'tuned': TUNED,
    'tuned by unroll only': {**TUNED, 'exemplars.objective': 'unroll'},
    'tuned by means only': {**TUNED, 'exemplars.objective': 'means'},
    'tuned at half the rate': {**TUNED, 'exemplars.outer_lr': '0.01'},
    'tuned in 50 steps': {**TUNED, 'exemplars.outer_steps': '50'},
    'herding of quality 25': {**HERDING, 'exemplars.quality': '25'},
    'herding of quality 75': {**HERDING, 'exemplars.quality': '75'},
    'tuned of quality 25': {**TUNED, 'exemplars.quality': '25'},
    'tuned of quality 75': {**TUNED, 'exemplars.quality': '75'},
    'herding of stored images': {'exemplars.strategy': 'herding_stored'},
    'selected by weights': {'exemplars.strategy': 'weighted_selection'},
    'tuned from those by weights': {
        **TUNED,
        'exemplars.init': 'weighted_selection',
    },
    'herding with soft targets 0.25': {**HERDING, **with_soft_targets('0.25')},
    'herding with soft targets 0.5': {**HERDING, **with_soft_targets('0.5')},
    'herding with soft targets 1': {**HERDING, **with_soft_targets('1.0')},
    'tuned with soft targets 0.5': {**TUNED, **with_soft_targets('0.5')},
}
REFERENCES = {
    'herding': {'case': 'herding'},
    'tuned': {'case': 'tuned'},
}


def cases(data: str) -> list[runner.Case]:
    """All cases on `data`: 'digits', or the name of a folder of images."""
    each = by_the_byte.RAW_BYTES.get(data, by_the_byte.RAW_BYTES_OF_IMAGES)
    num_bytes = {'exemplars.bytes_per_class': str(int(RAW_IMAGES) * each)}
    return [
        runner.Case({'case': name}, {**COMMON, **num_bytes, **changes})
        for name, changes in CHANGES.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit status."""
    args = flags.parse(
        'full_memory', __doc__, argv, seeds='100,101', part='choose'
    )
    every = cases(args.data.name)
    chosen = runner.select(args, every)
    if args.quick:
        names = ('herding', 'tuned', 'selected by weights')
        chosen = [case for case in chosen if case.labels['case'] in names]
        args.seeds = args.seeds[:1]
    records = runner.run(args, chosen, every)
    found = comparison.rows(records, REFERENCES)
    remark = (
        'LUCIR; a class has the bytes of two raw images. Two seeds screen, '
        'they do not confirm.'
    )
    text = comparison.page(
        'Full compressed memories, one thing changed at a time',
        args,
        remark,
        records,
        found,
    )
    runner.write(args, 'full_memory', {'rows': found, 'runs': records}, text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
