"""Tests of mnemonics_jax.config, presets, and what components.build checks."""

import importlib.util
import json
import pathlib
import pkgutil
import re

import ml_collections
import pytest

from mnemonics_jax import backbones, config, methods
from mnemonics_jax.config import fields, presets
from mnemonics_jax.data import sources
from mnemonics_jax.experiment import components, data, run_config
from mnemonics_jax.methods import finetune

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'

INFINITE = float('inf')

# What fields must be, but for their upper bounds, and values that are not.
RULES = {
    'an integer >= 1': (
        'data.read_ahead_mb train.epochs train.batch_size finetune.epochs '
        'finetune.batch_size evaluate.batch_size exemplars.inner_steps '
        'exemplars.query_batch exemplars.hypergradient_terms checkpoint.keep',
        [0, -8],
    ),
    'an integer >= 1 or None': (
        'steps_per_dispatch exemplars.microbatch data.image_size '
        'data.eval_resize data.subset_classes data.num_classes data.channels '
        'data.train_per_class data.test_per_class',
        [0, -8],
    ),
    'an integer >= 0': (
        'data.pad data.memory_mb exemplars.per_class exemplars.total '
        'exemplars.outer_epochs exemplars.outer_steps exemplars.adjust_steps '
        'exemplars.inner_batch checkpoint.every_steps',
        [-1, -2000],
    ),
    'an integer >= 0 or None': (
        'protocol.base_classes protocol.phases protocol.stop_after_phase',
        [-1],
    ),
    # JAX reads 32 bits of a seed; beyond, streams repeat or it overflows.
    'an integer in 0..2**32 - 1': (
        'seed data.subset_seed protocol.class_order_seed',
        [-1, 2**32, 2**63],
    ),
    'a number > 0': (
        'train.lr train.gamma exemplars.outer_lr exemplars.adjust_lr '
        'exemplars.inner_lr finetune.lr',
        [0.0, -0.1, INFINITE],
    ),
    'a number >= 0': (
        'train.weight_decay exemplars.means_weight checkpoint.every_seconds',
        [-5e-4, INFINITE],
    ),
    'a number >= 0 and < 1': (
        'train.momentum finetune.momentum data.brightness',
        [-0.1, 1.0, 1.5],
    ),
    'a number > 0 and < 1 or None': ('data.test_fraction', [0.0, 1.0, -0.2]),
    'integers >= 1': (
        'train.milestones',
        [(0, 10), (10.5,), (-3,)],
    ),
    'integers >= 1 or None': (
        'protocol.phase_sizes',
        [(), (3, 0), (2.5,)],
    ),
    'last or None': ('protocol.remainder', ['first', '']),
    'one of stop, continue': ('data.on_changed', ['fail']),
    'a work directory or None': ('train.base_run', ['']),
    'one of auto, device, tfdata': ('data.feed', ['tf.data']),
    'one of fail, skip': ('data.on_bad_image', ['ignore']),
    'one of float32, bf16, float64': ('precision', ['bfloat16', 'double']),
    'one of cosine, linear, local_similarity': ('backbone.head', ['Cosine']),
    'one of step, cosine': ('train.schedule', ['Step', 'linear']),
    'one of herding, mnemonics, none, random': (
        'exemplars.strategy',
        ['icarl'],
    ),
    'one of paper, bilevel, tuned, compact': (
        'exemplars.preset',
        ['Paper', 'best'],
    ),
    'one of float32, jpeg, uint8, webp': ('exemplars.storage', ['float16']),
    'one of 4:2:0, 4:4:4': ('exemplars.subsampling', ['4:2:2', None]),
    'an integer from 1 to 100': ('exemplars.quality', [0, 101]),
    'one of herding, random': ('exemplars.init', ['mnemonics']),
    'one of sgd, adam': ('exemplars.outer_optimizer', ['rmsprop']),
    'one of all, head': ('exemplars.inner_scope', ['trunk']),
    'one of current, redraw': (
        'exemplars.inner_start',
        ['random'],
    ),
    'one of unroll, means, prototypes, unroll+means, prototypes+means': (
        'exemplars.objective',
        ['mean', 'means+unroll'],
    ),
    'one of unroll, truncated, neumann, cg': (
        'exemplars.hypergradient',
        ['exact', 'CG'],
    ),
}
# Values that most rules refuse, by the type that a field takes.
STRANGE = {
    bool: [],
    int: [-1, 2**70],
    float: [-1.0, float('nan'), INFINITE],
    str: ['', 'no such name'],
    tuple: [('a',), (0,)],
}
ALL = fields.with_settings(methods.method_names())
# The upper bound in the words of a rule.
UPPER = re.compile(r' and (<= \d+|< 1e\+09)( separated by commas)?')

# The ends of ranges.
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


@pytest.mark.parametrize('name', ALL)
def test_an_entry_goes_together(name):
    default, rule, text = ALL[name]
    is_late = isinstance(default, presets.Presets | presets.ByMethod)
    for value in default if is_late else [default]:
        assert value is None or rule.holds(value)
        assert value is None or type(value) is rule.kind
    assert re.fullmatch(r'[A-Z].{,78}[.]', text)
    found = flattened(config.default_config().to_dict())[name]
    assert found == (None if is_late else default)


def test_a_method_changes_only_what_is_left_to_it(monkeypatch):
    monkeypatch.setitem(finetune.DEFAULTS, 'train.lr', 0.2)
    wrong = config.default_config()
    wrong.method.name = 'finetune'
    assert message_of(wrong).startswith(
        "method.name='finetune': DEFAULTS has 'train.lr', must be one of "
        'backbone.head, method.imprint, '
    )


def test_the_entries_are_all_fields():
    assert set(flattened(config.default_config().to_dict())) == set(ALL)


@pytest.mark.parametrize('words', RULES)
def test_a_field_has_its_rule(words):
    names, bad = RULES[words]
    for name in names.split():
        for value in bad:
            message = UPPER.sub('', message_of(with_fields({name: value})))
            assert message == f'{name}={value!r}: must be {words}'


@pytest.mark.parametrize('name', ALL)
def test_a_value_that_breaks_the_rule_of_any_field_is_one_line(name):
    _, rule, _ = ALL[name]
    # Of a method, those fields are checked that are its own.
    method = name.split('.')[1] if name.count('.') == 2 else 'lucir'
    none = [None] if flattened(fields.default_config().to_dict())[name] else []
    for value in (*STRANGE[rule.kind], *none):
        if not rule.holds(value):
            given = {'method.name': method, name: value}
            message = message_of(with_fields(given))
            assert message == f'{name}={value!r}: must be {rule.must_be()}'
    assert not rule.holds(float('nan'))
    # Nothing past reason begins: it would hang, or fail for lack of memory.
    beyond = {int: 10**15, float: 1e15, tuple: (10**9,)}.get(rule.kind)
    assert beyond is None or not rule.holds(beyond)
    assert rule.kind is not bool or not any(map(rule.holds, (0, 1, 'true')))


@pytest.mark.parametrize(('field', 'value'), GOOD.items())
def test_the_ends_of_the_ranges_are_taken(field, value):
    given = {'train.milestones': (), field: value}
    found = config.resolve(with_fields(given))
    assert flattened(found.to_dict())[field] == value


def folder_names(package):
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_unknown_names_are_answered_with_the_names_there_are():
    def listed(**given):
        return message_of(changed(**given)).split('must be one of ')[1]

    names = listed(method__name='bic2').split(', ')
    assert set(names) == folder_names(methods)
    assert {'finetune', 'icarl', 'lucir'} <= set(names)
    names = set(listed(data__source='mnist').split(', '))
    assert {'digits', 'synthetic'} <= names <= folder_names(sources)
    names = listed(backbone__name='vit').split(', ')
    assert names == backbones.backbone_names()
    assert {'convnet', 'resnet32', 'resnet18'} <= set(names)


TOGETHER = {
    'no memory': (
        {'exemplars.per_class': 0},
        'exemplars.per_class=0, exemplars.total=0, exemplars.bytes_per_class=0,'
        ' exemplars.bytes_total=0: one must be >= 1 and the others 0',
    ),
    'two memories': (
        {'exemplars.total': 2000},
        'exemplars.per_class=20, exemplars.total=2000, '
        'exemplars.bytes_per_class=0, exemplars.bytes_total=0: one must be >= '
        '1 and the others 0',
    ),
    'two budgets of bytes': (
        {
            'exemplars.per_class': 0,
            'exemplars.bytes_per_class': 100,
            'exemplars.bytes_total': 1000,
        },
        'exemplars.per_class=0, exemplars.total=0, '
        'exemplars.bytes_per_class=100, exemplars.bytes_total=1000: one must '
        'be >= 1 and the others 0',
    ),
    'learning through a codec without gradients': (
        {'exemplars.storage': 'webp'},
        "exemplars.storage='webp': must be uint8, float32 or jpeg with "
        'exemplars.strategy=mnemonics, which learns pixels',
    ),
    'adjusting what is compressed': (
        {'exemplars.storage': 'jpeg', 'exemplars.adjust': True},
        'exemplars.adjust=True: must be false with exemplars.storage=jpeg: '
        'adjusted images would be compressed once more in each phase',
    ),
    'no outer steps': (
        {'exemplars.outer_steps': 0},
        'exemplars.outer_steps=0, exemplars.outer_epochs=0: one must be >= 1 '
        'and the other 0',
    ),
    'outer steps and epochs': (
        {'exemplars.outer_steps': 7, 'exemplars.outer_epochs': 2},
        'exemplars.outer_steps=7, exemplars.outer_epochs=2: one must be >= 1 '
        'and the other 0',
    ),
    'halves of one': (
        {'exemplars.per_class': 1, 'exemplars.adjust': True},
        'exemplars.per_class=1: must be an integer >= 2 with '
        'exemplars.adjust=True, which splits a class into halves',
    ),
    **{
        f'{name} without inner steps': (
            {
                'exemplars.hypergradient': name,
                'exemplars.objective': objective,
            },
            f'exemplars.hypergradient={name!r}: must be unroll with '
            f'exemplars.objective={objective}, which has no inner steps',
        )
        for name, objective in (
            ('truncated', 'means'),
            ('neumann', 'prototypes'),
            ('cg', 'prototypes+means'),
        )
    },
    **{
        f'sizes and {name}': (
            {'protocol.phase_sizes': (3, 2, 4, 1), f'protocol.{name}': value},
            f'protocol.{name}={value}: must be None{either} with '
            'protocol.phase_sizes=3,2,4,1',
        )
        for name, value, either in (
            ('base_classes', 4, ' or 3'),
            ('phases', 4, ' or 3'),
            ('remainder', 'last', ''),
        )
    },
    'lucir without cosines': (
        {'backbone.head': 'linear', 'method.imprint': False},
        "backbone.head='linear': must be cosine with method.name=lucir",
    ),
    'imprinting without cosines': (
        {'backbone.head': 'linear', 'method.name': 'icarl'},
        'method.imprint=True: must be false with backbone.head=linear',
    ),
}


@pytest.mark.parametrize('name', TOGETHER)
def test_fields_that_do_not_go_together(name):
    given, message = TOGETHER[name]
    assert message_of(with_fields(given)) == message


@pytest.mark.parametrize(
    'fields',
    [
        {'exemplars.per_class': 0, 'exemplars.total': 2000},
        {'exemplars.per_class': 2, 'exemplars.adjust': True},
        {'exemplars.per_class': 1},
        {'protocol.phase_sizes': (3, 7), 'protocol.base_classes': 3},
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
    gaps = [k for k, v in flattened(found.to_dict()).items() if v is None]
    assert all(fields.FIELDS[name].rule.holds(None) for name in gaps)


@pytest.mark.parametrize(
    'path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem
)
def test_the_configurations_of_the_repository_resolve(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = config.resolve(module.get_config())
    expected = fields.with_settings([found.method.name])
    assert set(flattened(found.to_dict())) == set(expected)


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


@pytest.mark.parametrize('preset', presets.Presets._fields)
def test_a_users_value_wins_over_the_preset(preset):
    default = config.resolve(changed(exemplars__preset=preset)).exemplars
    tried = 0
    for field in set(fields.preset(preset)) - {'outer_steps', 'outer_epochs'}:
        choices = fields.FIELDS[f'exemplars.{field}'].default
        others = {choices.value(name) for name in presets.Presets._fields}
        if isinstance(default[field], bool):
            others = {False, True}
        for value in others - {default[field]}:
            expected = {**default.to_dict(), field: value}
            if expected['adjust'] and expected['storage'] == 'jpeg':
                continue  # Compressed exemplars are not adjusted.
            given = {'exemplars.preset': preset, f'exemplars.{field}': value}
            found = config.resolve(with_fields(given)).exemplars
            assert found.to_dict() == expected
            tried += 1
    assert tried > 10


@pytest.mark.parametrize('preset', presets.Presets._fields)
@pytest.mark.parametrize(
    ('given', 'other'),
    [('outer_steps', 'outer_epochs'), ('outer_epochs', 'outer_steps')],
)
def test_outer_steps_or_epochs_replace_the_presets_count(preset, given, other):
    values = {'exemplars.preset': preset, f'exemplars.{given}': 7}
    found = config.resolve(with_fields(values)).exemplars
    assert (found[given], found[other]) == (7, 0)


@pytest.mark.parametrize('strategy', ['random', 'herding'])
def test_real_exemplars_are_adjusted_on_request_alone(strategy):
    given = {'exemplars.preset': 'paper', 'exemplars.strategy': strategy}
    assert config.resolve(with_fields(given)).exemplars.adjust is False
    given['exemplars.adjust'] = True
    assert config.resolve(with_fields(given)).exemplars.adjust is True


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
    # No class has more than 12 images.
    parts = components.build(small(exemplars__per_class=13), all_devices)
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
        f'{field}=12: must be a multiple of 8, '
    )
    built = components.build(uneven, one_device).config
    assert built == data.with_feed(uneven, 'device')


@pytest.mark.parametrize(
    ('fields', 'start'),
    [
        (
            {'exemplars.per_class': 0, 'exemplars.total': 9},
            'exemplars.total=9: must be at least 10, ',
        ),
        (
            {
                'exemplars.per_class': 0,
                'exemplars.total': 15,
                'exemplars.adjust': True,
            },
            'exemplars.total=15: ',
        ),
        ({'protocol.phases': 4}, 'protocol.phases=4: '),
        ({'protocol.phases': 0}, 'protocol.phases=0: '),
        (
            {
                'protocol.base_classes': None,
                'protocol.phases': None,
                'protocol.phase_sizes': (3, 2, 4),
            },
            'protocol.phase_sizes=3,2,4: must add up to 10, ',
        ),
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
    with pytest.raises(ValueError, match='must be at least 16 with'):
        components.build(small(**fields, **{'exemplars.total': 15}), one_device)


def test_one_phase_is_a_protocol_too(one_device):
    whole = small(protocol__base_classes=10, protocol__phases=0)
    assert components.build(whole, one_device).bounds == ((0, 10),)


@pytest.mark.parametrize(
    'made', [3, None, ml_collections.ConfigDict({'seed': 1})]
)
def test_what_is_no_configuration_is_refused(made):
    with pytest.raises(ValueError, match=r'must be default_config\(\) with'):
        config.resolve(made)
