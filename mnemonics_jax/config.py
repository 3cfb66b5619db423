"""The configuration: every field, its default, and what it may be.

Files in `configs/` start from `default_config()` and change it. None stands for
"the preset's value" in the section `exemplars` and "not used" elsewhere.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import config_dict

from mnemonics_jax import (
    backbones,
    exemplars,
    learner,
    methods,
    presets,
    train,
)
from mnemonics_jax.backbones import heads
from mnemonics_jax.data import sources
from mnemonics_jax.memory import STORAGES

OUTER_OPTIMIZERS = ('sgd', 'adam')


def default_config() -> config_dict.ConfigDict:
    """The fields and their defaults, for small images."""
    optional = config_dict.placeholder
    return config_dict.create(
        seed=0,
        data=config_dict.create(
            source='digits',
            # Augmentation: zero padding before a random crop, and mirroring;
            # with `flip`, exemplar means take mirror images in, too.
            pad=0,
            flip=False,
            # The synthetic source's own fields.
            num_classes=optional(int),
            image_size=optional(int),
            channels=optional(int),
            train_per_class=optional(int),
            test_per_class=optional(int),
        ),
        protocol=config_dict.create(
            base_classes=4, phases=3, class_order_seed=1993
        ),
        backbone=config_dict.create(name='convnet', head='cosine'),
        method=config_dict.create(
            name='lucir',
            # New head rows start as class means, old ones stay as they are.
            imprint=True,
            freeze_old_rows=True,
            # iCaRL: weight of distillation (beta T^2 = 1) and temperature T.
            distill_weight=1.0,
            temperature=2.0,
            # LUCIR: lambda = lambda_base sqrt(old / new), margin ranking.
            lambda_base=5.0,
            margin=0.5,
            margin_weight=1.0,
            top_k=2,
        ),
        train=config_dict.create(
            epochs=160,
            batch_size=128,
            lr=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            schedule='step',
            milestones=(80, 120),
            gamma=0.1,
        ),
        exemplars=config_dict.create(
            strategy='mnemonics',
            preset='tuned',
            # The memory: images a class, or images in all; the other is 0.
            per_class=20,
            total=0,
            storage='uint8',
            # None: as the preset says (see presets.py).
            adjust=optional(bool),
            init=optional(str),
            outer_epochs=optional(int),
            outer_steps=optional(int),
            outer_optimizer=optional(str),
            outer_lr=optional(float),
            inner_steps=optional(int),
            inner_lr=optional(float),
            inner_batch=optional(int),
            inner_scope=optional(str),
            inner_start=optional(str),
            query_batch=optional(int),
        ),
        finetune=config_dict.create(
            epochs=50, batch_size=128, lr=0.01, momentum=0.9, carry=False
        ),
        evaluate=config_dict.create(batch_size=256),
        checkpoint=config_dict.create(keep=2),
    )


class Rule(NamedTuple):
    """What a field may be, as a test and in words."""

    holds: Callable[[Any], bool]
    allowed: str


def at_least(least: int) -> Rule:
    """A whole number from `least` on."""
    return Rule(
        lambda v: type(v) is int and v >= least, f'a whole number >= {least}'
    )


def one_of(names: Any) -> Rule:
    """One of some names."""
    return Rule(lambda v: v in names, ', '.join(names))


def number(low: float, high: float, *, above: bool = False) -> Rule:
    """A number from `low` (or, with `above`, beyond it) and below `high`."""

    def holds(value):
        is_number = isinstance(value, int | float) and value is not True
        return is_number and low <= value < high and (value > low or not above)

    sign = '>' if above else '>='
    end = '' if high == float('inf') else f' and < {high:g}'
    return Rule(holds, f'a number {sign} {low:g}{end}')


POSITIVE = number(0, float('inf'), above=True)
NOT_NEGATIVE = number(0, float('inf'))
SEED = Rule(
    lambda v: type(v) is int and 0 <= v < 2**32,
    'a whole number in 0..2**32 - 1',
)
BOOLEAN = Rule(lambda v: type(v) is bool, 'true, false')


def rules() -> dict[str, Rule]:
    """A rule for each field that has one of its own."""
    return {
        # JAX keeps 32 bits of a seed.
        'seed': SEED,
        'data.source': one_of(sources.source_names()),
        'data.pad': at_least(0),
        'data.flip': BOOLEAN,
        'protocol.base_classes': at_least(0),
        'protocol.phases': at_least(0),
        'protocol.class_order_seed': SEED,
        'backbone.name': one_of(backbones.backbone_names()),
        'backbone.head': one_of(heads.HEADS),
        'method.name': one_of(methods.method_names()),
        'method.imprint': BOOLEAN,
        'method.freeze_old_rows': BOOLEAN,
        'method.distill_weight': NOT_NEGATIVE,
        'method.temperature': POSITIVE,
        'method.lambda_base': NOT_NEGATIVE,
        'method.margin': NOT_NEGATIVE,
        'method.margin_weight': NOT_NEGATIVE,
        'method.top_k': at_least(1),
        'train.epochs': at_least(1),
        'train.batch_size': at_least(1),
        'train.lr': POSITIVE,
        'train.momentum': number(0, 1),
        'train.weight_decay': NOT_NEGATIVE,
        'train.schedule': one_of(train.SCHEDULES),
        'train.milestones': Rule(
            lambda v: (
                isinstance(v, tuple | list)
                and all(type(m) is int and m > 0 for m in v)
            ),
            'whole numbers >= 1',
        ),
        'train.gamma': POSITIVE,
        'exemplars.strategy': one_of(exemplars.STRATEGIES),
        'exemplars.preset': one_of(presets.PRESETS),
        'exemplars.per_class': at_least(0),
        'exemplars.total': at_least(0),
        'exemplars.storage': one_of(STORAGES),
        'exemplars.adjust': BOOLEAN,
        'exemplars.init': one_of(exemplars.SELECTIONS),
        'exemplars.outer_epochs': at_least(0),
        'exemplars.outer_steps': at_least(0),
        'exemplars.outer_optimizer': one_of(OUTER_OPTIMIZERS),
        'exemplars.outer_lr': POSITIVE,
        'exemplars.inner_steps': at_least(1),
        'exemplars.inner_lr': POSITIVE,
        'exemplars.inner_batch': at_least(0),
        'exemplars.inner_scope': one_of(learner.SCOPES),
        'exemplars.inner_start': one_of(learner.STARTS),
        'exemplars.query_batch': at_least(1),
        'finetune.epochs': at_least(1),
        'finetune.batch_size': at_least(1),
        'finetune.lr': POSITIVE,
        'finetune.momentum': number(0, 1),
        'finetune.carry': BOOLEAN,
        'evaluate.batch_size': at_least(1),
        'checkpoint.keep': at_least(1),
    }


def resolve(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Checks a configuration and fills in the preset.

    Args:
        config: as a user wrote it; not changed.

    Returns:
        A frozen configuration in which no field of `exemplars` is None.

    Raises:
        ValueError: one line that names the field, its value and what is
            allowed.
    """
    config = config_dict.ConfigDict(config.to_dict())
    checks = rules()
    check_field(config, 'exemplars.preset', checks)
    given = dict(config.exemplars)
    config.exemplars = config_dict.ConfigDict(presets.resolve(given))
    for field in checks:
        check_field(config, field, checks)
    check_together(config)
    return config_dict.FrozenConfigDict(config)


def check_field(
    config: config_dict.ConfigDict, field: str, checks: dict[str, Rule]
) -> None:
    """Raises ValueError if a field breaks its rule."""
    value = config
    for name in field.split('.'):
        value = value[name]
    if not checks[field].holds(value):
        raise ValueError(f'{field}={value!r}: allowed: {checks[field].allowed}')


def check_together(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if fields do not go together."""
    ex, head = config.exemplars, config.backbone.head
    if bool(ex.per_class) == bool(ex.total):
        raise ValueError(
            f'exemplars.per_class={ex.per_class} and exemplars.total='
            f'{ex.total}: allowed: one of the two >= 1, the other 0'
        )
    if bool(ex.outer_steps) == bool(ex.outer_epochs):
        raise ValueError(
            f'exemplars.outer_steps={ex.outer_steps} and '
            f'exemplars.outer_epochs={ex.outer_epochs}: allowed: one of the '
            'two >= 1, the other 0'
        )
    if ex.adjust and ex.per_class == 1:
        raise ValueError(
            'exemplars.adjust=True with exemplars.per_class=1: adjustment '
            'splits a class into halves; allowed: per_class >= 2'
        )
    if head != 'cosine' and config.method.name == 'lucir':
        raise ValueError(
            f'backbone.head={head!r}: allowed with method.name=lucir: cosine'
        )
    if head != 'cosine' and config.method.imprint:
        raise ValueError(
            f'method.imprint=True: allowed with backbone.head={head}: false'
        )


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
    """The configuration as JSON types (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def differences(ours: Any, theirs: Any, prefix: str = '') -> list[str]:
    """Fields in which two JSON configurations differ, as 'a.b: 1, 2'."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        if ours == theirs:
            return []
        return [f'{prefix}: {ours!r} here, {theirs!r} there']
    found = []
    for name in sorted({*ours, *theirs}):
        path = f'{prefix}.{name}' if prefix else name
        found += differences(ours.get(name), theirs.get(name), path)
    return found
