"""Study B: which recipe makes exemplars that work for later models.

    python -m experiments.recipe --data=runs/images [--jobs=2]

changes one setting of the bilevel recipe `BASE` at a time and screens on two
seeds, on classes used for nothing else. It writes `results/recipe_<data>.json`
and `.md`. The best settings become the preset `tuned`, which
`experiments.replication` tests on other classes.
"""

import sys
from collections.abc import Sequence

from experiments import comparison, flags, runner

# Written out, so that later changes of presets do not affect the study.
BASE = {
    'exemplars.strategy': 'mnemonics',
    'exemplars.init': 'herding',
    'exemplars.adjust': 'false',
    'exemplars.outer_epochs': '0',
    'exemplars.outer_steps': '150',
    'exemplars.outer_optimizer': 'adam',
    'exemplars.outer_lr': '0.02',
    'exemplars.inner_steps': '20',
    'exemplars.inner_lr': '3.0',
    'exemplars.inner_batch': '0',
    'exemplars.inner_scope': 'head',
    'exemplars.inner_start': 'redraw',
    'exemplars.query_batch': '128',
    'exemplars.objective': 'unroll',
    'exemplars.means_weight': '50.0',
    'exemplars.inner_augment': 'false',
}
WHOLE = {'inner_scope': 'all', 'inner_steps': '5', 'inner_lr': '0.1'}
# Changes of each candidate to BASE.
CANDIDATES: dict[str, dict[str, str]] = {
    'base': {},
    'start: current model': {'inner_start': 'current'},
    'K = 1': {'inner_steps': '1'},
    'K = 5': {'inner_steps': '5'},
    'K = 50': {'inner_steps': '50'},
    'all variables (K = 5)': WHOLE,
    'augmented inside': {'inner_augment': 'true'},
    'augmented inside + means': {
        'inner_augment': 'true',
        'objective': 'unroll+means',
    },
    'augmented inside (400 steps)': {
        'inner_augment': 'true',
        'outer_steps': '400',
    },
    'from random': {'init': 'random'},
    '50 steps': {'outer_steps': '50'},
    '400 steps': {'outer_steps': '400'},
    'adjusted': {'adjust': 'true'},
    'means': {'objective': 'means'},
    'means (400 steps)': {'objective': 'means', 'outer_steps': '400'},
    'prototypes': {'objective': 'prototypes'},
    'unroll + means': {'objective': 'unroll+means'},
}
REAL = {
    name: {'exemplars.strategy': name, 'exemplars.adjust': 'false'}
    for name in ('random', 'herding')
}
# Candidates on images, where runs take a minute; on digits all are screened.
ON_IMAGES = (
    'base',
    'means',
    'unroll + means',
    'K = 50',
    'start: current model',
    'K = 5',
    'all variables (K = 5)',
    'augmented inside',
    'augmented inside + means',
    'augmented inside (400 steps)',
    'from random',
    'adjusted',
)
PER_CLASS = '2'
REFERENCES = {
    'herding': {'recipe': 'herding'},
    'base': {'recipe': 'base'},
}


def settings_of(name: str) -> dict[str, str]:
    """Settings of a candidate or of a strategy with real exemplars."""
    if name in REAL:
        return REAL[name]
    changed = CANDIDATES[name]
    return {**BASE, **{f'exemplars.{k}': v for k, v in changed.items()}}


def cases(data: str) -> list[runner.Case]:
    """All cases on `data`, 'digits' or 'images', for LUCIR."""
    names = CANDIDATES if data == 'digits' else ON_IMAGES
    return [
        runner.Case(
            {'recipe': name, 'a class': PER_CLASS},
            {**settings_of(name), 'exemplars.per_class': PER_CLASS},
        )
        for name in (*REAL, *names)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit status."""
    args = flags.parse('recipe', __doc__, argv, seeds='100,101', part='choose')
    every = cases(args.data.name)
    chosen = runner.select(args, every)
    if args.quick:
        names = ('herding', 'base', 'means')
        chosen = [c for c in chosen if c.labels['recipe'] in names]
        args.seeds = args.seeds[:1]
    records = runner.run(args, chosen, every)
    found = comparison.rows(records, REFERENCES)
    text = comparison.page(
        'Recipes, one thing changed at a time',
        args,
        'Two seeds screen, they do not confirm.',
        records,
        found,
    )
    runner.write(args, 'recipe', {'rows': found, 'runs': records}, text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
