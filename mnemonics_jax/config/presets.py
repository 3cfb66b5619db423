"""The presets of exemplar learning; a field set by the user wins over them.

Outer rates are in units of normalised pixels, 1 being one standard deviation of
the data, which is the space the paper's and the authors' numbers refer to.
"""

from typing import Any

from mnemonics_jax.exemplars import strategies

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's constants (its section 5.1). Where it is silent: K = 5 inner
    # steps, minibatches and queries of 128. Measured, this moves pixels by
    # hundredths of a grey level: exemplars stay what they were drawn as.
    'paper': {
        'init': 'random',
        'adjust': True,
        'outer_epochs': 50,
        'outer_steps': 0,
        'outer_optimizer': 'sgd',
        'outer_lr': 0.01,
        'adjust_steps': 0,
        'adjust_lr': 0.01,
        'inner_steps': 5,
        'inner_lr': 0.01,
        'inner_batch': 128,
        'inner_scope': 'all',
        'inner_start': 'current',
        'query_batch': 128,
        'objective': 'unroll',
        'means_weight': 50.0,
        'inner_augment': False,
    },
    # The paper's problem, with a start and rates that move pixels to some end.
    'bilevel': {
        'init': 'herding',
        'adjust': False,
        'outer_epochs': 0,
        'outer_steps': 150,
        'outer_optimizer': 'adam',
        'outer_lr': 0.02,
        # Half a memory judges the other half: more of it overfits.
        'adjust_steps': 40,
        'adjust_lr': 0.005,
        'inner_steps': 20,
        'inner_lr': 3.0,
        'inner_batch': 0,
        'inner_scope': 'head',
        'inner_start': 'redraw',
        'query_batch': 128,
        'objective': 'unroll',
        'means_weight': 50.0,
        'inner_augment': False,
    },
}
# The best recipe measured so far: that problem with exemplars augmented where
# they teach, and means of features matched beside it (see objectives.py).
PRESETS['tuned'] = {
    **PRESETS['bilevel'],
    'objective': 'unroll+means',
    'inner_augment': True,
}


def resolve(exemplars: dict[str, Any]) -> dict[str, Any]:
    """The section `exemplars` with every None replaced by its preset's value.

    Adjustment is the preset's choice for learned exemplars only; real ones stay
    as they are unless `adjust` is set.

    Args:
        exemplars: the section, `preset` being a key of `PRESETS`.
    """
    values = dict(PRESETS[exemplars['preset']])
    values['adjust'] &= strategies.learns(exemplars['strategy'])
    given = {
        name: value
        for name, value in exemplars.items()
        if value is not None or name not in values
    }
    if given.get('outer_steps') and 'outer_epochs' not in given:
        values['outer_epochs'] = 0
        values['adjust_steps'] = values['adjust_steps'] or given['outer_steps']
    if given.get('outer_epochs') and 'outer_steps' not in given:
        values['outer_steps'] = 0
    return {**values, **given}
