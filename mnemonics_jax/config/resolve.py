"""Checking a configuration, and filling in what presets and methods say."""

import json
from typing import Any

from ml_collections import config_dict

from mnemonics_jax import backbones, methods, train
from mnemonics_jax.backbones import heads
from mnemonics_jax.bilevel import hypergradients
from mnemonics_jax.config import presets
from mnemonics_jax.config.fields import default_config as default_config
from mnemonics_jax.core import plugins, rules
from mnemonics_jax.data import sources
from mnemonics_jax.data.loader import FEEDS
from mnemonics_jax.data.sources import folder
from mnemonics_jax.exemplars import inner_problem, objectives, strategies
from mnemonics_jax.exemplars.memory import STORAGES

OUTER_OPTIMIZERS = ('sgd', 'adam')


def field_rules() -> dict[str, rules.Rule]:
    """A rule for each field that has one of its own."""
    return {
        # JAX keeps 32 bits of a seed.
        'seed': rules.SEED,
        'plugins': rules.FILES,
        **data_rules(),
        'protocol.base_classes': rules.or_none(rules.at_least(0)),
        'protocol.phases': rules.or_none(rules.at_least(0)),
        'protocol.class_order_seed': rules.SEED,
        'protocol.stop_after_phase': rules.or_none(rules.at_least(0)),
        'steps_per_dispatch': rules.or_none(rules.at_least(1)),
        'precision': rules.one_of(backbones.PRECISIONS),
        'weight_transfer': rules.BOOLEAN,
        'report': rules.BOOLEAN,
        'backbone.name': rules.one_of(backbones.backbone_names()),
        'backbone.head': rules.one_of(heads.HEADS),
        'method.name': rules.one_of(methods.method_names()),
        'method.imprint': rules.BOOLEAN,
        'method.freeze_old_rows': rules.BOOLEAN,
        **{
            f'method.{name}.{setting}': rule
            for name in methods.method_names()
            for setting, (_, rule) in methods.settings_of(name).items()
        },
        **train_rules(),
        **exemplar_rules(),
        'finetune.epochs': rules.at_least(1),
        'finetune.batch_size': rules.at_least(1),
        'finetune.lr': rules.POSITIVE,
        'finetune.momentum': rules.number(0, 1),
        'finetune.carry': rules.BOOLEAN,
        'evaluate.batch_size': rules.at_least(1),
        'evaluate.oracle': rules.BOOLEAN,
        'checkpoint.keep': rules.at_least(1),
        'checkpoint.every_steps': rules.at_least(0),
        'checkpoint.every_seconds': rules.NOT_NEGATIVE,
    }


def data_rules() -> dict[str, rules.Rule]:
    """Those of the section `data`; its sources check the rest."""
    return {
        'data.source': rules.one_of(sources.source_names()),
        'data.pad': rules.at_least(0),
        'data.flip': rules.BOOLEAN,
        'data.random_resized_crop': rules.BOOLEAN,
        'data.brightness': rules.number(0, 1),
        'data.feed': rules.one_of(FEEDS),
        'data.memory_mb': rules.at_least(0),
        'data.read_ahead_mb': rules.at_least(1),
        'data.on_bad_image': rules.one_of(folder.POLICIES),
        'data.subset_seed': rules.SEED,
    }


def train_rules() -> dict[str, rules.Rule]:
    """Those of the section `train`."""
    return {
        'train.base_run': rules.or_none(rules.FOLDER),
        'train.epochs': rules.at_least(1),
        'train.batch_size': rules.at_least(1),
        'train.lr': rules.POSITIVE,
        'train.momentum': rules.number(0, 1),
        'train.weight_decay': rules.NOT_NEGATIVE,
        'train.schedule': rules.one_of(train.SCHEDULES),
        'train.milestones': rules.Rule(
            lambda v: (
                isinstance(v, tuple | list)
                and all(type(m) is int and m > 0 for m in v)
            ),
            'whole numbers >= 1',
        ),
        'train.gamma': rules.POSITIVE,
    }


def exemplar_rules() -> dict[str, rules.Rule]:
    """Those of the section `exemplars`."""
    return {
        'exemplars.strategy': rules.one_of(strategies.strategy_names()),
        'exemplars.preset': rules.one_of(presets.PRESETS),
        'exemplars.per_class': rules.at_least(0),
        'exemplars.total': rules.at_least(0),
        'exemplars.storage': rules.one_of(STORAGES),
        'exemplars.adjust': rules.BOOLEAN,
        'exemplars.init': rules.one_of(strategies.init_names()),
        'exemplars.outer_epochs': rules.at_least(0),
        'exemplars.outer_steps': rules.at_least(0),
        'exemplars.outer_optimizer': rules.one_of(OUTER_OPTIMIZERS),
        'exemplars.outer_lr': rules.POSITIVE,
        'exemplars.adjust_steps': rules.at_least(0),
        'exemplars.adjust_lr': rules.POSITIVE,
        'exemplars.inner_steps': rules.at_least(1),
        'exemplars.inner_lr': rules.POSITIVE,
        'exemplars.inner_batch': rules.at_least(0),
        'exemplars.inner_scope': rules.one_of(inner_problem.SCOPES),
        'exemplars.inner_start': rules.one_of(inner_problem.STARTS),
        'exemplars.query_batch': rules.at_least(1),
        'exemplars.objective': rules.one_of(objectives.OBJECTIVES),
        'exemplars.hypergradient': rules.one_of(hypergradients.NAMES),
        'exemplars.hypergradient_terms': rules.at_least(1),
        'exemplars.means_weight': rules.NOT_NEGATIVE,
        'exemplars.inner_augment': rules.BOOLEAN,
        'exemplars.microbatch': rules.or_none(rules.at_least(1)),
    }


def resolve(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Checks a configuration and fills in the preset.

    Args:
        config: as a user wrote it; not changed.

    Returns:
        A frozen configuration in which no field that a preset or a method
        fills is None.

    Raises:
        ValueError: one line that names the field, its value and what is
            allowed.
    """
    config = config_dict.ConfigDict(config.to_dict())
    config.plugins = plugins.load_all(config.plugins)
    checks = field_rules()
    check_field(config, 'method.name', checks)
    add_settings(config)
    drop_other_methods(config, checks)
    for field, value in methods.defaults_of(config.method.name).items():
        section = config.backbone if field == 'head' else config.method
        if section[field] is None:
            section[field] = value
    check_field(config, 'exemplars.strategy', checks)
    check_field(config, 'exemplars.preset', checks)
    given = dict(config.exemplars)
    config.exemplars = config_dict.ConfigDict(presets.resolve(given))
    for field in checks:
        check_field(config, field, checks)
    check_together(config)
    return config_dict.FrozenConfigDict(config)


def add_settings(config: config_dict.ConfigDict) -> None:
    """Gives the method's section the settings that it lacks their defaults.

    Those of a plug-in were not known when the configuration was made.
    """
    section = config.method.get(config.method.name, config_dict.ConfigDict())
    for name, (value, _) in methods.settings_of(config.method.name).items():
        if name not in section:
            section[name] = value
    config.method[config.method.name] = section


def drop_other_methods(
    config: config_dict.ConfigDict, checks: dict[str, rules.Rule]
) -> None:
    """Removes the settings of methods that this run does not use.

    They are no part of what it is: a work directory can be resumed after
    methods have been added to the package.
    """
    for name in methods.method_names():
        if name != config.method.name:
            if name in config.method:
                del config.method[name]
            for setting in methods.settings_of(name):
                del checks[f'method.{name}.{setting}']


def check_field(
    config: config_dict.ConfigDict, field: str, checks: dict[str, rules.Rule]
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
    if not strategies.keeps(ex.strategy):
        check_without_memory(config)
    elif bool(ex.per_class) == bool(ex.total):
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
    if ex.adjust and not (ex.adjust_steps or ex.outer_epochs):
        raise ValueError(
            'exemplars.adjust_steps=0 with exemplars.outer_epochs=0: allowed: '
            'one of the two >= 1'
        )
    if ex.adjust and ex.per_class == 1:
        raise ValueError(
            'exemplars.adjust=True with exemplars.per_class=1: adjustment '
            'splits a class into halves; allowed: per_class >= 2'
        )
    if ex.hypergradient != 'unroll' and not objectives.unrolls(ex.objective):
        raise ValueError(
            f'exemplars.hypergradient={ex.hypergradient!r} with '
            f'exemplars.objective={ex.objective}: has no inner steps; allowed: '
            'unroll'
        )
    if config.data.pad and config.data.random_resized_crop:
        raise ValueError(
            f'data.pad={config.data.pad} with data.random_resized_crop=True: '
            'allowed: 0'
        )
    allowed = methods.heads_of(config.method.name)
    if head not in allowed:
        raise ValueError(
            f'backbone.head={head!r}: allowed with method.name='
            f'{config.method.name}: {", ".join(allowed)}'
        )
    if head == 'linear' and config.method.imprint:
        raise ValueError(
            'method.imprint=True: allowed with backbone.head=linear: false'
        )


def check_without_memory(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if a field needs the memory that there is not."""
    needs = {
        'exemplars.adjust': config.exemplars.adjust,
        'finetune.carry': config.finetune.carry,
        'method.name': config.method.name == 'bic' and 'bic',
    }
    for field, value in needs.items():
        if value:
            raise ValueError(
                f'{field}={value} with exemplars.strategy='
                f'{config.exemplars.strategy}: needs exemplars'
            )


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
    """The configuration as JSON types (tuples become lists)."""
    return json.loads(config.to_json_best_effort())
