"""Tests of mnemonics_jax.config, presets, and what components.build checks."""

import importlib.util
import json
import pathlib
import pkgutil

import ml_collections
import pytest

from mnemonics_jax import backbones, config, methods
from mnemonics_jax.config import presets
from mnemonics_jax.data import sources
from mnemonics_jax.experiment import components, run_config

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'

# Checked by the source that reads them.
OF_SOURCES = {
    'data.name',
    'data.dir',
    'data.num_classes',
    'data.image_size',
    'data.eval_resize',
    'data.channels',
    'data.train_per_class',
    'data.test_per_class',
    # And None is "all classes", "no file".
    'data.subset_classes',
    'protocol.class_order_file',
}

COUNT = 'a whole number >= 1'
COUNT_OR_0 = 'a whole number >= 0'
SEED = 'a whole number in 0..2**32 - 1'
RATE = 'a number > 0'
WEIGHT = 'a number >= 0'
MOMENTUM = 'a number >= 0 and < 1'
SWITCH = 'true, false'
INFINITE = float('inf')

# Bad values of each field, and what is allowed in words; None where the words
# depend on what files there are.
BAD = {
    'seed': ([-1], SEED),
    'plugins': (['no_file.py'], None),
    'data.source': (['mnist', ''], None),
    'data.pad': ([-1], COUNT_OR_0),
    'data.flip': ([], SWITCH),
    'data.random_resized_crop': ([], SWITCH),
    'data.brightness': ([-0.1, 1.0], MOMENTUM),
    'data.feed': (['tf.data'], 'tfdata, device'),
    'data.memory_mb': ([-1], COUNT_OR_0),
    'data.read_ahead_mb': ([0], COUNT),
    'protocol.base_classes': ([-1], COUNT_OR_0),
    'protocol.phases': ([-2], COUNT_OR_0),
    'protocol.class_order_seed': ([-1], SEED),
    'backbone.name': (['resnet33'], None),
    'backbone.head': (['Cosine'], 'cosine, linear, local_similarity'),
    'method.name': (['finetune2'], None),
    'method.imprint': ([], SWITCH),
    'method.freeze_old_rows': ([], SWITCH),
    'train.epochs': ([0], COUNT),
    'train.batch_size': ([0, -8], COUNT),
    'train.lr': ([0.0, -0.1, INFINITE, float('nan')], RATE),
    'train.momentum': ([-0.1, 1.0, 1.5], MOMENTUM),
    'train.weight_decay': ([-5e-4], WEIGHT),
    'train.schedule': (['Step', 'linear'], 'step, cosine'),
    'train.milestones': ([(0, 10), (10.5,), (-3,)], 'whole numbers >= 1'),
    'train.gamma': ([0.0], RATE),
    'exemplars.strategy': (['icarl'], 'random, herding, mnemonics, none'),
    'exemplars.preset': (['Paper', 'best'], 'paper, bilevel, tuned'),
    'exemplars.per_class': ([-1], COUNT_OR_0),
    'exemplars.total': ([-2000], COUNT_OR_0),
    'exemplars.storage': (['float16'], 'uint8, float32'),
    'exemplars.adjust': ([], SWITCH),
    'exemplars.init': (['mnemonics'], 'random, herding'),
    'exemplars.outer_epochs': ([-1], COUNT_OR_0),
    'exemplars.outer_steps': ([-1], COUNT_OR_0),
    'exemplars.outer_optimizer': (['rmsprop'], 'sgd, adam'),
    'exemplars.outer_lr': ([0.0], RATE),
    'exemplars.adjust_steps': ([-1], COUNT_OR_0),
    'exemplars.adjust_lr': ([0.0], RATE),
    'exemplars.inner_steps': ([0], COUNT),
    'exemplars.inner_lr': ([-1.0], RATE),
    'exemplars.inner_batch': ([-1], COUNT_OR_0),
    'exemplars.inner_scope': (['trunk'], 'all, head'),
    'exemplars.inner_start': (
        ['random'],
        'current, redraw',
    ),
    'exemplars.query_batch': ([0], COUNT),
    'exemplars.objective': (
        ['mean', 'means+unroll'],
        'unroll, means, prototypes, unroll+means, prototypes+means',
    ),
    'exemplars.hypergradient': (
        ['exact', 'CG'],
        'unroll, truncated, neumann, cg',
    ),
    'exemplars.hypergradient_terms': ([0], COUNT),
    'exemplars.means_weight': ([-1.0], WEIGHT),
    'exemplars.inner_augment': ([], SWITCH),
    'exemplars.microbatch': ([0], COUNT),
    'finetune.epochs': ([0], COUNT),
    'finetune.batch_size': ([0], COUNT),
    'finetune.lr': ([0.0], RATE),
    'finetune.momentum': ([1.0], MOMENTUM),
    'finetune.carry': ([], SWITCH),
    'evaluate.oracle': ([], SWITCH),
    'weight_transfer': ([], SWITCH),
    'report': ([], SWITCH),
    'data.on_bad_image': (['ignore'], 'fail, skip'),
    'data.subset_seed': ([-1], SEED),
    'evaluate.batch_size': ([0], COUNT),
    'checkpoint.keep': ([0], COUNT),
    'checkpoint.every_steps': ([-1], COUNT_OR_0),
    'checkpoint.every_seconds': ([-1.0], WEIGHT),
    'train.base_run': ([''], 'a work directory'),
    'protocol.stop_after_phase': ([-1], COUNT_OR_0),
    'steps_per_dispatch': ([0], COUNT),
    'precision': (['bfloat16', 'float64'], 'float32, bf16'),
}

# None is "as the preset says" in these, and a mistake in every other field.
OF_PRESETS = {f'exemplars.{field}' for field in presets.PRESETS['paper']}

# None is "as the method's paper has it" in these.
OF_METHODS = {
    'backbone.head',
    'method.imprint',
    'method.freeze_old_rows',
}
# And "as the classes of the data suggest" in these.
OF_DATA = {
    'protocol.base_classes',
    'protocol.phases',
    'protocol.stop_after_phase',
}
# And "as the devices suggest" in these.
OF_DEVICES = {'steps_per_dispatch', 'exemplars.microbatch'}
# And "not used" in these.
UNUSED = {'train.base_run'}
LEFT_OPEN = OF_PRESETS | OF_METHODS | OF_DATA | OF_DEVICES | UNUSED

# The ends of what is allowed.
GOOD = {
    'seed': 0,
    'data.pad': 0,
    'method.lucir.margin_weight': 0.0,
    'method.lucir.top_k': 1,
    'train.epochs': 1,
    'train.lr': 1e-12,
    'train.momentum': 0.0,
    'train.weight_decay': 0.0,
    'train.schedule': 'cosine',
    'train.milestones': (),
    'exemplars.storage': 'float32',
    'exemplars.inner_steps': 1,
    'exemplars.inner_batch': 0,
    'finetune.momentum': 0.999,
    'checkpoint.keep': 1,
}


def flattened(tree, prefix=''):
    """Fields of a nested dict by their names with dots."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flattened(value, f'{prefix}{name}.')
        else:
            found[f'{prefix}{name}'] = value
    return found


def changed(**values):
    """The default configuration with fields changed, `a__b` for `a.b`."""
    return with_fields({k.replace('__', '.'): v for k, v in values.items()})


def with_fields(values):
    found = config.default_config()
    found.update_from_flattened_dict(values)
    return found


def message_of(wrong):
    """The one line by which `resolve` refuses a configuration."""
    with pytest.raises(ValueError) as caught:
        config.resolve(wrong)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_every_field_has_a_rule_or_belongs_to_a_source():
    fields = set(flattened(config.default_config().to_dict()))
    checked = set(config.field_rules())
    assert fields - checked == OF_SOURCES
    assert checked <= fields


def test_the_fields_of_both_presets_are_those_left_open():
    default = flattened(config.default_config().to_dict())
    left_open = {field for field, value in default.items() if value is None}
    assert left_open - OF_SOURCES == LEFT_OPEN
    assert set(presets.PRESETS['paper']) == set(presets.PRESETS['tuned'])


def test_every_rule_has_a_bad_value_here():
    of_methods = {
        f'method.{name}.{setting}'
        for name in methods.method_names()
        for setting in methods.settings_of(name)
    }
    assert set(BAD) == set(config.field_rules()) - of_methods
    for field in of_methods:
        name = field.split('.')[1]
        message = message_of(with_fields({field: None, 'method.name': name}))
        assert message.startswith(f'{field}=None: allowed: ')
        assert not config.field_rules()[field].holds(float('nan'))


@pytest.mark.parametrize(
    ('field', 'value', 'allowed'),
    [(f, v, allowed) for f, (bad, allowed) in BAD.items() for v in bad],
)
def test_a_bad_value_is_named_with_what_is_allowed(field, value, allowed):
    message = message_of(with_fields({field: value}))
    assert message.startswith(f'{field}={value!r}: allowed: ')
    if allowed is not None:
        assert message.endswith(f': allowed: {allowed}')


@pytest.mark.parametrize('field', sorted(set(BAD) - LEFT_OPEN))
def test_none_is_refused_in_one_line_too(field):
    message = message_of(with_fields({field: None}))
    assert message.startswith(f'{field}=None: allowed: ')


@pytest.mark.parametrize(
    'field', [f for f, (_, allowed) in BAD.items() if allowed is SWITCH]
)
def test_a_switch_takes_truth_values_alone(field):
    rule = config.field_rules()[field]
    assert rule.holds(True)
    assert rule.holds(False)
    assert not any(rule.holds(value) for value in (0, 1, 'true', None))


@pytest.mark.parametrize(('field', 'value'), GOOD.items())
def test_the_ends_of_the_ranges_are_allowed(field, value):
    found = config.resolve(with_fields({field: value}))
    assert flattened(found.to_dict())[field] == value


def folder_names(package):
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_unknown_names_are_answered_with_the_names_there_are():
    message = message_of(changed(method__name='bic2'))
    listed = message.split('allowed: ')[1].split(', ')
    assert set(listed) == folder_names(methods)
    assert {'finetune', 'icarl', 'lucir'} <= set(listed)
    message = message_of(changed(data__source='mnist'))
    listed = message.split('allowed: ')[1].split(', ')
    assert {'digits', 'synthetic'} <= set(listed) <= folder_names(sources)
    message = message_of(changed(backbone__name='vit'))
    listed = message.split('allowed: ')[1].split(', ')
    assert listed == backbones.backbone_names()
    assert {'convnet', 'resnet32', 'resnet18'} <= set(listed)


@pytest.mark.parametrize('seed', [2**32, 2**63])
def test_seeds_are_refused_beyond_those_that_differ(seed):
    """JAX reads 32 bits of a seed; beyond, streams repeat or it overflows."""
    message = message_of(changed(seed=seed))
    assert message.startswith(f'seed={seed}: allowed: ')


TOGETHER = {
    'no memory': (
        {'exemplars.per_class': 0},
        'exemplars.per_class=0 and exemplars.total=0: allowed: ',
    ),
    'two memories': (
        {'exemplars.total': 2000},
        'exemplars.per_class=20 and exemplars.total=2000: allowed: ',
    ),
    'no outer steps': (
        {'exemplars.outer_steps': 0},
        'exemplars.outer_steps=0 and exemplars.outer_epochs=0: allowed: ',
    ),
    'outer steps and epochs': (
        {'exemplars.outer_steps': 7, 'exemplars.outer_epochs': 2},
        'exemplars.outer_steps=7 and exemplars.outer_epochs=2: allowed: ',
    ),
    'halves of one': (
        {'exemplars.per_class': 1, 'exemplars.adjust': True},
        'exemplars.adjust=True with exemplars.per_class=1: ',
    ),
    **{
        f'{name} without inner steps': (
            {
                'exemplars.hypergradient': name,
                'exemplars.objective': objective,
            },
            f'exemplars.hypergradient={name!r} with exemplars.objective='
            f'{objective}: has no inner steps; allowed: unroll',
        )
        for name, objective in (
            ('truncated', 'means'),
            ('neumann', 'prototypes'),
            ('cg', 'prototypes+means'),
        )
    },
    'lucir without cosines': (
        {'backbone.head': 'linear', 'method.imprint': False},
        "backbone.head='linear': allowed with method.name=lucir: cosine",
    ),
    'imprinting without cosines': (
        {'backbone.head': 'linear', 'method.name': 'icarl'},
        'method.imprint=True: allowed with backbone.head=linear: false',
    ),
}


@pytest.mark.parametrize('name', TOGETHER)
def test_fields_that_do_not_go_together(name):
    fields, start = TOGETHER[name]
    message = message_of(with_fields(fields))
    assert message.startswith(start)
    assert 'allowed' in message


@pytest.mark.parametrize(
    'fields',
    [
        {'exemplars.per_class': 0, 'exemplars.total': 2000},
        {'exemplars.per_class': 2, 'exemplars.adjust': True},
        {'exemplars.per_class': 1},
        {
            'exemplars.hypergradient': 'cg',
            'exemplars.objective': 'unroll+means',
        },
        {
            'backbone.head': 'linear',
            'method.name': 'icarl',
            'method.imprint': False,
        },
    ],
)
def test_fields_that_go_together(fields):
    found = flattened(config.resolve(with_fields(fields)).to_dict())
    assert fields.items() <= found.items()


def test_the_default_resolves_to_a_frozen_configuration_without_gaps():
    found = config.resolve(config.default_config())
    assert isinstance(found, ml_collections.FrozenConfigDict)
    with pytest.raises(AttributeError):
        found.seed = 3
    gaps = {k for k, v in flattened(found.to_dict()).items() if v is None}
    assert gaps == OF_SOURCES | OF_DATA | OF_DEVICES | UNUSED


@pytest.mark.parametrize(
    'path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem
)
def test_the_configurations_of_the_repository_resolve(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = config.resolve(module.get_config())
    fields = flattened(config.default_config().to_dict()).keys()
    others = set(methods.method_names()) - {found.method.name}
    expected = {
        f for f in fields if f.split('.')[1:2] not in [[o] for o in others]
    }
    assert set(flattened(found.to_dict())) == expected


def test_resolve_does_not_change_its_argument():
    given = changed(exemplars__outer_epochs=3, seed=5)
    before = given.to_dict()
    found = config.resolve(given)
    assert found.exemplars.inner_steps == 20
    assert given.to_dict() == before
    assert before['exemplars']['inner_steps'] is None
    given.seed = 6
    assert found.seed == 5


def test_what_is_resolved_resolves_to_itself():
    found = config.resolve(changed(exemplars__preset='paper'))
    assert config.resolve(found) == found


def test_the_paper_preset_holds_the_papers_constants():
    found = config.resolve(changed(exemplars__preset='paper')).exemplars
    assert found.init == 'random'
    assert found.adjust is True
    assert (found.outer_optimizer, found.outer_lr) == ('sgd', 0.01)
    assert (found.outer_epochs, found.outer_steps) == (50, 0)
    assert found.inner_lr == 0.01
    assert (found.inner_scope, found.inner_start) == ('all', 'current')
    assert found.per_class == 20


def test_the_defaults_of_training_are_the_papers():
    found = config.resolve(config.default_config())
    train = found.train
    assert (train.epochs, train.batch_size) == (160, 128)
    assert (train.lr, train.momentum, train.weight_decay) == (0.1, 0.9, 5e-4)
    assert train.schedule == 'step'
    assert (tuple(train.milestones), train.gamma) == ((80, 120), 0.1)
    assert (found.finetune.epochs, found.finetune.lr) == (50, 0.01)
    assert found.protocol.class_order_seed == 1993
    method = config.default_config().method
    assert tuple(method.icarl.values()) == (1.0, 2.0)
    assert (method.lucir.lambda_base, method.lucir.margin) == (5.0, 0.5)
    assert method.lucir.top_k == 2


@pytest.mark.parametrize('preset', sorted(presets.PRESETS))
def test_a_users_value_wins_over_the_preset(preset):
    default = config.resolve(changed(exemplars__preset=preset)).exemplars
    other = {
        'adjust': not default.adjust,
        'init': 'random' if default.init == 'herding' else 'herding',
        'outer_optimizer': 'sgd'
        if default.outer_optimizer == 'adam'
        else 'adam',
        'outer_lr': 0.5,
        'adjust_steps': 7,
        'adjust_lr': 0.125,
        'inner_steps': 3,
        'inner_lr': 0.25,
        'inner_batch': 16,
        'inner_scope': 'all' if default.inner_scope == 'head' else 'head',
        'inner_start': 'current'
        if default.inner_start == 'redraw'
        else 'redraw',
        'query_batch': 64,
        'objective': 'prototypes+means',
        'means_weight': 2.0,
        'inner_augment': not default.inner_augment,
    }
    assert set(other) == set(presets.PRESETS[preset]) - {
        'outer_steps',
        'outer_epochs',
    }
    for field, value in other.items():
        given = {'exemplars.preset': preset, f'exemplars.{field}': value}
        found = config.resolve(with_fields(given)).exemplars
        assert value != default[field]
        expected = {**default.to_dict(), field: value}
        assert found.to_dict() == expected


@pytest.mark.parametrize('preset', sorted(presets.PRESETS))
@pytest.mark.parametrize(
    ('given', 'other'),
    [('outer_steps', 'outer_epochs'), ('outer_epochs', 'outer_steps')],
)
def test_outer_steps_or_epochs_replace_the_presets_count(preset, given, other):
    fields = {'exemplars.preset': preset, f'exemplars.{given}': 7}
    found = config.resolve(with_fields(fields)).exemplars
    assert (found[given], found[other]) == (7, 0)


@pytest.mark.parametrize('strategy', ['random', 'herding'])
def test_real_exemplars_are_adjusted_on_request_alone(strategy):
    fields = {'exemplars.preset': 'paper', 'exemplars.strategy': strategy}
    assert config.resolve(with_fields(fields)).exemplars.adjust is False
    fields['exemplars.adjust'] = True
    assert config.resolve(with_fields(fields)).exemplars.adjust is True


def test_presets_stay_as_they_are():
    before = json.dumps(presets.PRESETS, sort_keys=True)
    presets.resolve({'preset': 'paper', 'strategy': 'random', 'outer_steps': 3})
    assert json.dumps(presets.PRESETS, sort_keys=True) == before


def test_to_json_is_json_and_the_same_after_a_round_trip():
    found = config.to_json(config.resolve(config.default_config()))
    assert found['train']['milestones'] == [80, 120]
    assert json.loads(json.dumps(found)) == found
    assert flattened(found)['exemplars.inner_steps'] == 20
    assert run_config.differences(found, json.loads(json.dumps(found))) == []


def test_differences_name_the_fields():
    ours = {'a': 1, 'b': {'c': [1, 2], 'd': 'x'}, 'e': {'f': 1}}
    theirs = {'a': 1, 'b': {'c': [1, 3], 'd': 'x'}, 'g': 0.5}
    assert run_config.differences(ours, theirs) == [
        'b.c: [1, 2] here, [1, 3] there',
        "e: {'f': 1} here, None there",
        'g: None here, 0.5 there',
    ]
    assert run_config.differences(ours, ours) == []


def small(**values):
    """Ten synthetic classes of 12 images each, resolved."""
    fields = {
        'data.source': 'synthetic',
        'data.num_classes': 10,
        'data.train_per_class': 12,
        'data.image_size': 4,
        'protocol.base_classes': 4,
        'protocol.phases': 3,
        'exemplars.per_class': 5,
        **{name.replace('__', '.'): value for name, value in values.items()},
    }
    return config.resolve(with_fields(fields))


def test_build_of_a_configuration_that_fits(all_devices):
    fitting = small(exemplars__per_class=12, train__batch_size=8)
    parts = components.build(fitting, all_devices)
    assert parts.bounds == ((0, 4), (4, 6), (6, 8), (8, 10))
    assert [parts.slots(i) for i in range(4)] == [12] * 4
    shared = small(exemplars__per_class=0, exemplars__total=44)
    parts = components.build(shared, all_devices)
    assert [parts.slots(i) for i in range(4)] == [11, 7, 5, 4]


@pytest.mark.parametrize(
    'field',
    [
        'train.batch_size',
        'finetune.batch_size',
        'evaluate.batch_size',
        'exemplars.query_batch',
    ],
)
def test_batches_divide_over_the_devices(one_device, all_devices, field):
    uneven = small(**{field: 12})
    with pytest.raises(ValueError) as caught:
        components.build(uneven, all_devices)
    assert str(caught.value).startswith(
        f'{field}=12: allowed: a multiple of 8, '
    )
    assert components.build(uneven, one_device).config == uneven


@pytest.mark.parametrize(
    ('fields', 'start'),
    [
        (
            {'exemplars.per_class': 13},
            'exemplars.per_class=13: allowed: at most 12, ',
        ),
        (
            {'exemplars.per_class': 0, 'exemplars.total': 9},
            'exemplars.total=9: allowed: at least 10, ',
        ),
        (
            {
                'exemplars.per_class': 0,
                'exemplars.total': 15,
                'exemplars.adjust': True,
            },
            'exemplars.adjust=True with exemplars.total=15: ',
        ),
        ({'protocol.phases': 4}, 'protocol.phases=4: '),
        ({'protocol.phases': 0}, 'protocol.phases=0: '),
        ({'protocol.base_classes': 11}, 'protocol.base_classes=11: '),
        ({'protocol.class_order_seed': 2**32}, 'protocol.class_order_seed='),
        ({'data.num_classes': 0}, 'data.num_classes=0: '),
    ],
)
def test_build_refuses_what_does_not_fit(one_device, fields, start):
    with pytest.raises(ValueError) as caught:
        components.build(small(**fields), one_device)
    message = str(caught.value)
    assert message.startswith(start)
    assert len(message.splitlines()) == 1


def test_adjustment_needs_two_exemplars_of_each_old_class(one_device):
    fields = {'exemplars.per_class': 0, 'exemplars.adjust': True}
    # 8 classes are old in the last phase.
    parts = components.build(
        small(**fields, **{'exemplars.total': 16}), one_device
    )
    assert parts.slots(2) == 2
    with pytest.raises(ValueError, match=r'allowed: total >= 16$'):
        components.build(small(**fields, **{'exemplars.total': 15}), one_device)


def test_one_phase_is_a_protocol_too(one_device):
    whole = small(protocol__base_classes=10, protocol__phases=0)
    assert components.build(whole, one_device).bounds == ((0, 10),)
