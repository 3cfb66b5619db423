"""Study A: random, herding and learned exemplars at equal bytes.

    python -m experiments.replication [--data=runs/images] [--jobs=2]
    python -m experiments.replication --data=runs/cifar100 [--only=paper]

Cases are strategies and presets, with and without adjustment, for two methods
and several numbers of exemplars per class. A seed draws class order, classes
and weights. It writes `results/replication_<data>.json` and `.md`.

On CIFAR-100, which only confirms, cases are fewer, and `paper`, whose 50 epochs
take long, runs only if `--only` names it.
"""

import sys
from collections.abc import Sequence

from experiments import comparison, flags, runner

# Exemplars per class, on digits and on images.
PER_CLASS = {'digits': ('1', '2', '5')}
PER_CLASS_OF_IMAGES = ('2', '5', '10')
METHODS = ('lucir', 'icarl')
STRATEGIES = {
    'random': {'exemplars.strategy': 'random'},
    'herding': {'exemplars.strategy': 'herding'},
    'paper': {'exemplars.strategy': 'mnemonics', 'exemplars.preset': 'paper'},
    'bilevel': {
        'exemplars.strategy': 'mnemonics',
        'exemplars.preset': 'bilevel',
    },
    'tuned': {'exemplars.strategy': 'mnemonics', 'exemplars.preset': 'tuned'},
}
# Real exemplars are adjusted with one preset: the paper's hardly moves them.
ADJUSTED = {
    'random': {'exemplars.preset': 'bilevel'},
    'herding': {'exemplars.preset': 'bilevel'},
}
# Cases with `bilevel`, which only show the benefit of `tuned` over it.
BILEVEL_AT = {
    ('digits', 'lucir', '1'),
    ('digits', 'lucir', '2'),
    ('digits', 'lucir', '5'),
    ('digits', 'icarl', '2'),
    ('images', 'lucir', '2'),
}
# The paper's 50 epochs of outer steps through all variables would take hours
# on two cores for all cases on images; they are run for one case on CIFAR-100.
EPOCHS = {
    'images': {'exemplars.outer_epochs': '2'},
    'cifar100': {'exemplars.outer_epochs': '50'},
}
# Data that took no part in any choice, with the cases that confirm it.
CONFIRMS = 'cifar100'
CONFIRMED = ('random', 'herding', 'tuned')
PAPER_AT = ('lucir', '2')
REFERENCES = {
    'herding': {'exemplars': 'herding', 'adjusted': 'no'},
    'random': {'exemplars': 'random', 'adjusted': 'no'},
    'unadjusted': {'adjusted': 'no'},
}
# Holm's correction is over the rows that share these labels.
FAMILY = ('exemplars', 'adjusted')


def cases(data: str) -> list[runner.Case]:
    """All cases on `data`: 'digits', or the name of a folder of images."""
    sizes = PER_CLASS.get(data, PER_CLASS_OF_IMAGES)
    if data == CONFIRMS:
        chosen = [
            (method, size, name)
            for method in METHODS
            for size in sizes
            for name in CONFIRMED
        ]
        chosen.append((*PAPER_AT, 'paper'))
        return [case_of(data, *each, 'no') for each in chosen]
    return [
        case_of(data, method, size, name, adjusted)
        for method in METHODS
        for size in sizes
        for name in STRATEGIES
        if name != 'bilevel' or (data, method, size) in BILEVEL_AT
        # Adjustment needs two exemplars per class.
        for adjusted in (('no',) if size == '1' else ('no', 'yes'))
    ]


def case_of(
    data: str, method: str, size: str, name: str, adjusted: str
) -> runner.Case:
    """A case; `size` is exemplars per class, `adjusted` is 'no' or 'yes'."""
    settings = {
        **STRATEGIES[name],
        **(EPOCHS.get(data, {}) if name == 'paper' else {}),
        **(ADJUSTED.get(name, {}) if adjusted == 'yes' else {}),
        'method.name': method,
        'exemplars.per_class': size,
        'exemplars.adjust': str(adjusted == 'yes').lower(),
    }
    labels = {
        'exemplars': name,
        'adjusted': adjusted,
        'method': method,
        'a class': size,
    }
    return runner.Case(labels, settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit status."""
    args = flags.parse(
        'replication', __doc__, argv, seeds='0,1,2,3,4', part='confirm'
    )
    every = cases(args.data.name)
    chosen = runner.select(args, every)
    if args.data.name == CONFIRMS and not args.only:
        chosen = [c for c in chosen if c.labels['exemplars'] != 'paper']
    if args.quick:
        chosen = [
            case
            for case in chosen
            if case.labels['a class'] == '2'
            and case.labels['method'] == 'lucir'
        ]
        args.seeds = args.seeds[:1]
    records = runner.run(args, chosen, every)
    found = comparison.rows(records, REFERENCES, FAMILY)
    text = comparison.page(
        'Random, herding and learned exemplars', args, '', records, found
    )
    runner.write(args, 'replication', {'rows': found, 'runs': records}, text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
