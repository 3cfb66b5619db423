"""Study G: the paper's protocol, 50 + 5 x 10 classes of CIFAR-100.

    python -m experiments.protocol --data=runs/cifar100_all [--seeds=0]

A class has 20 exemplars, or as many compressed ones as fit into their bytes.
Cases are strategies and presets, for two methods, with and without weight
transfer. The preset `paper`, whose 50 epochs of outer steps take days on two
cores, runs only if `--only` names it. It writes `results/protocol_<data>.json`
and `.md`.
"""

import sys
from collections.abc import Sequence

from experiments import by_the_byte, comparison, flags, runner

CONFIG = 'experiments/small_images.py:all'
METHODS = by_the_byte.METHODS
PER_CLASS = 20
RAW = {'exemplars.storage': 'uint8', 'exemplars.per_class': str(PER_CLASS)}
# Without the number of exemplars: as many as fit.
COMPRESSED = {
    'exemplars.storage': 'jpeg',
    'exemplars.quality': '50',
    'exemplars.per_class': '0',
}
LEARNED = {'exemplars.strategy': 'mnemonics'}
EXEMPLARS = {
    'random': {**RAW, 'exemplars.strategy': 'random'},
    'herding': {**RAW, 'exemplars.strategy': 'herding'},
    'tuned': {**RAW, **LEARNED, 'exemplars.preset': 'tuned'},
    'paper': {**RAW, **LEARNED, 'exemplars.preset': 'paper'},
    'herding jpeg': {**COMPRESSED, 'exemplars.strategy': 'herding'},
    'compact': {**COMPRESSED, **LEARNED, 'exemplars.preset': 'compact'},
}
REFERENCES = {
    'herding': {'exemplars': 'herding'},
    'herding jpeg': {'exemplars': 'herding jpeg'},
    'no transfer': {'transfer': 'no'},
}
# Holm's correction is over the rows that share this label.
FAMILY = ('exemplars',)


def cases(data: str) -> list[runner.Case]:
    """All cases on `data`: 'digits', or the name of a folder of images."""
    raw = by_the_byte.RAW_BYTES.get(data, by_the_byte.RAW_BYTES_OF_IMAGES)
    num_bytes = {'exemplars.bytes_per_class': str(PER_CLASS * raw)}
    return [
        runner.Case(
            {'exemplars': name, 'method': method, 'transfer': transfer},
            {
                **settings,
                **(num_bytes if COMPRESSED.items() <= settings.items() else {}),
                'method.name': method,
                'weight_transfer': str(transfer == 'yes').lower(),
                'exemplars.adjust': 'false',
            },
        )
        for transfer in ('no', 'yes')
        for method in METHODS
        for name, settings in EXEMPLARS.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit status."""
    args = flags.parse(
        'protocol',
        __doc__,
        argv,
        seeds='0,1,2',
        part='confirm',
        config=CONFIG,
    )
    every = cases(args.data.name)
    chosen = runner.select(args, every)
    if not args.only:
        chosen = [c for c in chosen if c.labels['exemplars'] != 'paper']
    if args.quick:
        chosen = [
            case
            for case in chosen
            if case.labels['method'] == 'lucir'
            and case.labels['transfer'] == 'no'
        ]
        args.seeds = args.seeds[:1]
    records = runner.run(args, chosen, every)
    found = comparison.rows(records, REFERENCES, FAMILY)
    remark = (
        f'A class has {PER_CLASS} raw exemplars or compressed ones in their '
        'bytes, quality 50. Learned exemplars were not adjusted.'
    )
    text = comparison.page("The paper's protocol", args, remark, records, found)
    runner.write(args, 'protocol', {'rows': found, 'runs': records}, text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
