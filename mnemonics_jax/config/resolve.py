"""Checking a configuration, and filling in what presets and methods say."""

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import config_dict

from mnemonics_jax import methods
from mnemonics_jax.config import arguments, presets
from mnemonics_jax.config.fields import FIELDS, preset, with_settings
from mnemonics_jax.config.presets import ByMethod
from mnemonics_jax.core import plugins
from mnemonics_jax.core.rules import Field, one_of
from mnemonics_jax.data import class_order, sources

# The fields that say how large the memory is.
BUDGETS = ('per_class', 'total', 'bytes_per_class', 'bytes_total')

if TYPE_CHECKING:  # Importing it loads jax, which `--help` does without.
    from mnemonics_jax.types import Method


def resolve(
    config: config_dict.ConfigDict, given: Collection[str] | None = None
) -> config_dict.ConfigDict:
    """Checks a configuration and fills in the preset.

    Args:
        config: as a user wrote it; not changed.
        given: names of the fields that the user set beyond a configuration
            file; None for all that differ from their defaults.

    Returns:
        A frozen configuration in which no field that a preset or a method
        fills is None.

    Raises:
        ValueError: one line with the field, its value and what it must be.
    """
    # Loads jax, which `--help` does without.
    from mnemonics_jax.config import method_contract, strategy_contract

    check_form(config)
    config = config_dict.ConfigDict(config.to_dict())
    check_field(config, 'plugins')
    config.plugins = plugins.load_all(config.plugins)
    for kind, name in (
        ('sources', config.data.source),
        ('methods', config.method.name),
        ('backbones', config.backbone.name),
    ):
        plugins.check_object(kind, name)
    check_field(config, 'method.name')
    add_settings(config)
    check_other_methods(config, given)
    drop_other_methods(config)
    fill_by_method(config)
    fields = with_settings([config.method.name])
    for name in fields.keys() - FIELDS.keys():
        check_field(config, name, fields)
    method_contract.check_method(config)
    check_field(config, 'exemplars.strategy')
    check_field(config, 'exemplars.preset')
    filled = presets.resolve(
        dict(config.exemplars), preset(config.exemplars.preset)
    )
    config.exemplars = config_dict.ConfigDict(filled)
    if config.weight_transfer is None:
        config.weight_transfer = transfers(config)
    for name in fields:
        check_field(config, name, fields)
    strategy_contract.check_strategies(config)
    check_together(config)
    check_milestones(config)
    check_groups(config)
    fill_by_sizes(config.protocol)
    check_protocol(config)
    return config_dict.FrozenConfigDict(config)


def check_form(config: Any) -> None:
    """Raises ValueError if a configuration does not have all fields."""
    for name in FIELDS:
        values, path = config, ''
        for part in name.split('.'):
            path += f'.{part}' if path else part
            if not hasattr(values, 'keys') or part not in values:
                raise ValueError(
                    f'{path}: missing; a configuration must be '
                    'default_config() with changes'
                )
            values = values[part]


def add_settings(config: config_dict.ConfigDict) -> None:
    """Gives the method's section the settings that it lacks their defaults.

    Those of a plug-in were not known when the configuration was made.
    """
    section = config.method.get(config.method.name, config_dict.ConfigDict())
    for name, field in methods.settings_of(config.method.name).items():
        if name not in section:
            section[name] = field.default
    config.method[config.method.name] = section


def fill_by_method(config: config_dict.ConfigDict) -> None:
    """Fills in the fields that are left to the method.

    Raises:
        ValueError: `DEFAULTS` of a method has a field that no method may
            change.
    """
    usual = {
        name: field.default.usual
        for name, field in FIELDS.items()
        if isinstance(field.default, ByMethod)
    }
    own = methods.defaults_of(config.method.name)
    for name in own:
        if name not in usual:
            raise ValueError(
                f'method.name={config.method.name!r}: DEFAULTS has {name!r}, '
                f'must be {one_of(usual).words}'
            )
    values = config.to_dict(preserve_field_references=False)
    for name, value in {**usual, **own}.items():
        section, field = name.split('.')
        if values[section][field] is None:
            config[section][field] = value


def transfers(config: config_dict.ConfigDict) -> bool:
    """Whether the paper uses weight transfer: with learned exemplars only."""
    from mnemonics_jax.exemplars import strategies

    method = methods.make_method(config.method.name, config.method)
    learned = strategies.learns(config.exemplars.strategy)
    return learned and not method.keeps_data


def check_other_methods(
    config: config_dict.ConfigDict, given: Collection[str] | None
) -> None:
    """Raises ValueError if a setting is given of a method that does not run.

    A configuration file may have settings of several methods, as for ImageNet:
    `method.name` is chosen after it.
    """
    own = config.method.name
    for name in methods.method_names():
        if name == own or name not in config.method:
            continue
        for key, field in methods.settings_of(name).items():
            setting = f'method.{name}.{key}'
            value = config.method[name].get(key, field.default)
            usual = arguments.IMAGENET_SETTINGS.get(setting, field.default)
            is_given = value not in (field.default, usual)
            if is_given if given is None else setting in given:
                raise ValueError(
                    f'{setting}={value!r}: must be left out with '
                    f'method.name={own}, which does not read it'
                )


def drop_other_methods(config: config_dict.ConfigDict) -> None:
    """Removes the settings of methods that this run does not use.

    They are no part of what it is: a work directory can be resumed after
    methods have been added to the package.
    """
    for name in methods.method_names():
        if name != config.method.name and name in config.method:
            del config.method[name]


def check_field(
    config: config_dict.ConfigDict,
    name: str,
    fields: Mapping[str, Field] = FIELDS,
) -> None:
    """Raises ValueError if the value of a field breaks its rule."""
    value = config
    for part in name.split('.'):
        value = value[part]
    rule = fields[name].rule
    if not rule.holds(value):
        raise ValueError(f'{name}={value!r}: must be {rule.must_be()}')


def check_together(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if fields do not go together."""
    from mnemonics_jax.exemplars import objectives, strategies

    ex, head = config.exemplars, config.backbone.head
    method = methods.make_method(config.method.name, config.method)
    if not strategies.keeps(ex.strategy):
        check_without_memory(config, method)
    else:
        check_budget(ex)
        check_storage(ex)
    if bool(ex.outer_steps) == bool(ex.outer_epochs):
        raise ValueError(
            f'exemplars.outer_steps={ex.outer_steps}, '
            f'exemplars.outer_epochs={ex.outer_epochs}: one must be >= 1 and '
            'the other 0'
        )
    if ex.adjust and not (ex.adjust_steps or ex.outer_epochs):
        raise ValueError(
            'exemplars.adjust_steps=0: must be an integer >= 1 with '
            'exemplars.adjust=True and exemplars.outer_epochs=0'
        )
    if ex.adjust and ex.per_class == 1:
        raise ValueError(
            'exemplars.per_class=1: must be an integer >= 2 with '
            'exemplars.adjust=True, which splits a class into halves'
        )
    if ex.hypergradient != 'unroll' and not objectives.unrolls(ex.objective):
        raise ValueError(
            f'exemplars.hypergradient={ex.hypergradient!r}: must be unroll '
            f'with exemplars.objective={ex.objective}, which has no inner steps'
        )
    if config.data.pad and config.data.random_resized_crop:
        raise ValueError(
            f'data.pad={config.data.pad}: must be 0 with '
            'data.random_resized_crop=True'
        )
    if config.weight_transfer and method.keeps_data:
        raise ValueError(
            'weight_transfer=True: must be false with '
            f'method.name={config.method.name}, which trains on all data'
        )
    allowed = one_of(methods.heads_of(config.method.name))
    if not allowed.holds(head):
        raise ValueError(
            f'backbone.head={head!r}: must be {allowed.words} with '
            f'method.name={config.method.name}'
        )
    if head == 'linear' and config.method.imprint:
        raise ValueError(
            'method.imprint=True: must be false with backbone.head=linear'
        )


def check_budget(ex: config_dict.ConfigDict) -> None:
    """Raises ValueError unless one field says how large the memory is."""
    given = {name: ex[name] for name in BUDGETS}
    if sum(map(bool, given.values())) != 1:
        values = ', '.join(f'exemplars.{n}={v}' for n, v in given.items())
        raise ValueError(f'{values}: one must be >= 1 and the others 0')


def check_storage(ex: config_dict.ConfigDict) -> None:
    """Raises ValueError if exemplars of a run cannot be stored as they are."""
    from mnemonics_jax.data import storage
    from mnemonics_jax.exemplars import strategies

    # Of some shape: that of the images is not known yet.
    codec = storage.make(ex.storage, (8, 8, 3), ex.quality, ex.subsampling)
    if strategies.learns(ex.strategy) and not codec.learnable:
        raise ValueError(
            f'exemplars.storage={ex.storage!r}: must be uint8, float32 or jpeg '
            f'with exemplars.strategy={ex.strategy}, which learns pixels'
        )
    if ex.adjust and codec.compresses:
        raise ValueError(
            'exemplars.adjust=True: must be false with '
            f'exemplars.storage={ex.storage}: adjusted images would be '
            'compressed once more in each phase'
        )


def check_milestones(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if the rate would not fall at each milestone."""
    epochs, given = config.train.epochs, tuple(config.train.milestones)
    ordered = sorted(set(given))
    fits = not given or max(given) < epochs
    if config.train.schedule != 'step' or (fits and list(given) == ordered):
        return
    # Else the shares of training that the defaults have.
    better = ordered if fits else {epochs // 2, epochs * 3 // 4} - {0}
    text = ','.join(map(str, sorted(better))) or '()'
    raise ValueError(
        f'train.milestones={given}: must rise and be less than '
        f'train.epochs={epochs}, or the rate does not fall there; for example '
        f'train.milestones={text}, or train.schedule=cosine, which has none'
    )


def check_groups(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if a batch does not consist of whole groups."""
    group, size = config.backbone.norm_group, config.train.batch_size
    if group and size % group:
        raise ValueError(
            f'backbone.norm_group={group}: must be 0 or a divisor of '
            f'train.batch_size={size}'
        )


def check_protocol(config: config_dict.ConfigDict) -> None:
    """Raises ValueError if phases do not fit classes that need no data."""
    ex, protocol, number = config.exemplars, config.protocol, None
    known = sources.count_classes(config.data.source, config.data)
    if config.data.subset_classes is not None:
        number = config.data.subset_classes
        class_order.choose_classes(
            number if known is None else known, number, config.data.subset_seed
        )
    elif known is not None:
        number = known
    if number is None:
        return
    class_order.planned_bounds(number, protocol)
    if 0 < ex.total < number:
        raise ValueError(
            f'exemplars.total={ex.total}: must be at least {number}, one for '
            'each class'
        )


def fill_by_sizes(protocol: config_dict.ConfigDict) -> None:
    """Fills in the number of phases where `phase_sizes` says it.

    Raises:
        ValueError: another field says otherwise.
    """
    sizes = protocol.phase_sizes
    if sizes is None:
        return
    follow = {'base_classes': sizes[0], 'phases': len(sizes) - 1}
    for name, value in {**follow, 'remainder': None}.items():
        if protocol[name] not in (None, value):
            either = '' if value is None else f' or {value}'
            raise ValueError(
                f'protocol.{name}={protocol[name]}: must be None{either} with '
                f'protocol.phase_sizes={",".join(map(str, sizes))}'
            )
    protocol.update(follow)


def check_without_memory(
    config: config_dict.ConfigDict, method: 'Method'
) -> None:
    """Raises ValueError if a field needs exemplars and none are kept."""
    from mnemonics_jax.exemplars import strategies

    needs = {
        'exemplars.adjust': config.exemplars.adjust,
        'finetune.carry': config.finetune.carry,
        'method.name': method.holdout > 0 and config.method.name,
    }
    given = config.exemplars.strategy
    names = filter(strategies.keeps, strategies.strategy_names())
    allowed = one_of(tuple(names)).words
    for field, value in needs.items():
        if value:
            raise ValueError(
                f'exemplars.strategy={given!r}: must be {allowed} with '
                f'{field}={value}, which needs exemplars'
            )


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
    """The configuration as JSON types (tuples become lists)."""
    return json.loads(config.to_json_best_effort())
