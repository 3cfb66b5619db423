"""A method, a strategy, a backbone and a source, each a file of a user's."""

import json

import ml_collections
import numpy as np
import pytest

from mnemonics_jax import backbones, methods, run_experiment
from mnemonics_jax import config as config_lib
from mnemonics_jax.config.fields import default_config
from mnemonics_jax.core import plugins
from mnemonics_jax.data import sources
from mnemonics_jax.exemplars import strategies
from mnemonics_jax.experiment import finished
from tests.command import run_module

METHOD = """
import jax.numpy as jnp
from mnemonics_jax import losses, rules
from mnemonics_jax.types import Method

SETTINGS = {'weight': (1.0, rules.NOT_NEGATIVE, 'Weight of the loss.')}
DEFAULTS = {}
HEADS = ('cosine',)


def make(settings):
    def loss(outputs, ref_outputs, labels, phase):
        values = losses.cross_entropy(outputs.logits, labels, phase.num_seen)
        return {'scaled': (settings.weight * values, jnp.ones_like(values))}

    return Method(loss=loss, uses_reference=False, predictor='cnn')
"""
STRATEGY = """
import numpy as np

learn = None


def select(candidates):
    counts = [len(members) for members in candidates.members()]
    return candidates.take([np.arange(n)[: candidates.num] for n in counts])
"""
BACKBONE = """
from flax import linen as nn


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask):
        return nn.Dense(8)(x.reshape(len(x), -1)), ()


BACKBONES = {'flat': Flat}
"""
SOURCE = """
import numpy as np
from mnemonics_jax.data.sources import Source


def make(options):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4, dtype=np.int32), 12)
    levels = 60 * labels[:, None, None, None]
    images = (random.integers(0, 60, (48, 4, 4, 1)) + levels).astype(np.uint8)
    return Source(
        num_classes=4, image_shape=(4, 4, 1), mean=(0.5,), std=(0.3,),
        class_names=('a', 'b', 'c', 'd'),
        labels={'train': labels, 'test': labels},
        read=lambda split, positions: images[positions],
    )
"""


@pytest.fixture
def files(tmp_path):
    """The four files."""
    texts = {
        'scaled': METHOD,
        'first': STRATEGY,
        'flat_file': BACKBONE,
        'steps': SOURCE,
    }
    paths = [tmp_path / f'{name}.py' for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    return paths


def test_each_is_found_by_its_name_among_the_others(files):
    loaded = plugins.load_all(', '.join(map(str, files)))
    assert loaded == ','.join(map(str, files))
    assert {'scaled', 'lucir'} <= set(methods.method_names())
    assert {'first', 'herding'} <= set(strategies.init_names())
    assert {'flat', 'resnet32'} <= set(backbones.backbone_names())
    assert {'steps', 'digits'} <= set(sources.source_names())
    before = dict(plugins.registered('methods'))
    plugins.load(files[0])
    assert plugins.registered('methods') == before


def test_settings_of_a_method_get_defaults_and_are_checked(files):
    config = default_config()
    config.plugins, config.method.name = str(files[0]), 'scaled'
    assert config_lib.resolve(config).method.scaled.weight == 1.0
    with config.unlocked():
        config.method.scaled = {'weight': -1.0}
    with pytest.raises(ValueError, match=r'method\.scaled\.weight=-1\.0'):
        config_lib.resolve(config)


@pytest.mark.parametrize(
    ('name', 'text', 'said'),
    [
        ('lost', None, 'must be a Python file'),
        ('broken', 'import no_such_module', 'ModuleNotFoundError'),
        ('empty', 'x = 1', 'must be a method'),
        ('number', 'select = 3; learn = None', 'must be a function or None'),
        ('vain', 'select = None; learn = print', 'where select is None'),
        ('lucir', METHOD, 'must have another name'),
        (
            'bare',
            'SETTINGS = {}; make = print',
            'bare.DEFAULTS: must be a dict',
        ),
        (
            'rules',
            METHOD.replace('rules.NOT_NEGATIVE', '0'),
            "SETTINGS\\['weight'\\]: must be .default, rule, text",
        ),
        ('net', 'BACKBONES = {"a": 1}', 'net.BACKBONES: must be a dict'),
    ],
)
def test_what_is_no_plug_in_costs_a_line(files, name, text, said):
    path = files[0].with_name(f'{name}.py')
    if text:
        path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        plugins.load(path)
    assert '\n' not in str(error.value)


ONES = 'jnp.ones_like(values)'
METHODS = {
    'no weights': ((f', {ONES})', ')'), "loss: term 'scaled' is float32[4]"),
    'a mean': (
        ('values, jnp.ones_like(values)', f'values.mean(), {ONES}'),
        "loss: term 'scaled' is (float32[], float32[4]) for B=4 examples",
    ),
    'a sum': (
        ('return {', 'return values.sum()\n        return {'),
        'loss: returned float32',
    ),
    'a slip': (('outputs.logits', 'outputs.logit'), 'loss: AttributeError: '),
    'a predictor': (("'cnn'", "'ncm'"), "predictor='ncm': must be one of cnn"),
    'a head': (("('cosine',)", "('cosin',)"), "HEADS has 'cosin': must be one"),
    'nothing': (
        ('return Method', 'Method'),
        'make: returned NoneType: must be',
    ),
}


@pytest.mark.parametrize('name', METHODS)
def test_a_method_that_breaks_its_contract_is_named_before_data(files, name):
    change, said = METHODS[name]
    text = METHOD.replace(*change)
    assert text != METHOD
    files[0].write_text(text)
    config = default_config()
    config.plugins, config.method.name = str(files[0]), 'scaled'
    with pytest.raises(ValueError) as error:
        config_lib.resolve(config)
    assert str(error.value).startswith(f"method.name='scaled': {said}")


BACKBONES = {
    'one output': ((', ()', ''), 'returned float32[2, 8] for B=2 images: must'),
    'no mask': (
        (', train, mask', ', train'),
        'trunk(x, train=False, mask=None)',
    ),
    'images': (
        ('(x.reshape(len(x), -1))', '(x)'),
        'features are float32[2, 4, 4, 8] for B=2 images: must be [B, D]',
    ),
}


@pytest.mark.parametrize('name', BACKBONES)
def test_a_network_that_breaks_its_contract_is_named(files, name):
    change, said = BACKBONES[name]
    files[2].write_text(BACKBONE.replace(*change))
    plugins.load(files[2])
    with pytest.raises(ValueError) as error:
        backbones.make_backbone(
            'flat', num_classes=3, image_shape=(4, 4, 1), mean=(0,), std=(1,)
        )
    assert (
        str(error.value)
        .replace(': ', ' ', 1)
        .startswith(f"backbone.name='flat' {said}")
    )


SOURCES = {
    'classes': (('num_classes=4', 'num_classes=5'), 'class_names: 4 different'),
    'a split': ((", 'test': labels", ''), "labels: must have the split 'test'"),
    'a label': (
        ("'test': labels", "'test': labels + 1"),
        "labels['test']: values in 1..4: must be in 0..3",
    ),
    'floats': (
        ('images[positions]', 'images[positions] / 255'),
        "read('train', [0]) returned float64[1, 4, 4, 1]: must be uint8[1, 4",
    ),
    'a mean': (('mean=(0.5,)', 'mean=()'), 'mean=(): must have a number for'),
}


@pytest.mark.parametrize('name', SOURCES)
def test_a_source_that_breaks_its_contract_is_named(files, name):
    change, said = SOURCES[name]
    files[3].write_text(SOURCE.replace(*change))
    plugins.load(files[3])
    with pytest.raises(ValueError) as error:
        sources.make_source('steps', {})
    assert str(error.value).startswith(f"data.source='steps': {said}")


def content(path):
    """What a plug-in's file defines."""
    plugins.load(path)
    return next(
        group[path.stem]
        for group in plugins._registered.values()
        if path.stem in group
    )


def test_objects_take_the_place_of_files_and_are_asked_for_again(
    files, tmp_path, one_device
):
    method = content(files[0]).make(ml_collections.ConfigDict({'weight': 1.0}))
    objects = {
        'source': content(files[3]).make({}),
        'method': method,
        'backbone': content(files[2]).Flat(),
    }
    config = default_config()
    config.update_from_flattened_dict(
        {
            'data.feed': 'device',
            'report': False,
            'protocol.base_classes': 2,
            'protocol.phases': 1,
            'protocol.stop_after_phase': 0,
            'train.epochs': 1,
            'train.batch_size': 16,
            'train.milestones': (),
            'exemplars.strategy': 'herding',
            'exemplars.per_class': 2,
            'finetune.epochs': 1,
            'evaluate.batch_size': 16,
        }
    )
    before = config.to_json_best_effort()

    def run(**objects):
        return run_experiment(config, tmp_path / 'run', one_device, **objects)

    first = run(**objects)
    assert len(first['phases']) == 1
    # The same objects resume it, to the same end.
    assert run(**objects)['phases'] == first['phases']
    assert config.to_json_best_effort() == before
    assert not any(
        plugins.OBJECT in group for group in plugins._registered.values()
    )
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text())['config']
    assert saved['data']['source'] == plugins.OBJECT
    with pytest.raises(ValueError, match=r'data\.source: .*python_object'):
        run(method=method, backbone=objects['backbone'])
    config.data.source = plugins.OBJECT
    with pytest.raises(ValueError, match=r'must be given again.*source=\.\.\.'):
        run(method=method, backbone=objects['backbone'])
    with pytest.raises(
        ValueError, match=r'the method of this run was an object'
    ):
        finished.restore_phase(tmp_path / 'run', -1)


def test_an_object_that_does_not_fit_is_one_line(files, one_device):
    trunk = content(files[2]).Flat()
    model = backbones.from_trunk(
        trunk, num_classes=3, image_shape=(4, 4, 1), mean=(0,), std=(1,)
    )
    check = backbones.contract.check_backbone
    check(model, 3, (4, 4, 1), 'cosine')
    with pytest.raises(
        ValueError, match=r'logits are float32\[2, 3\] .* \[2, 4\]'
    ):
        check(model, 4, (4, 4, 1), 'cosine')
    with pytest.raises(ValueError, match='must be bias, kernel with backb'):
        check(model, 3, (4, 4, 1), 'linear')
    with pytest.raises(ValueError, match='source: Flat: must be a Source'):
        run_experiment(default_config(), 'never', one_device, source=trunk)


def succeed(*command):
    done = run_module(*command)
    assert done.returncode == 0, done.stderr


def test_a_run_of_all_four_by_the_command_and_its_model_again(files, tmp_path):
    """Real processes, in which this one has registered nothing."""
    workdir = tmp_path / 'run'
    fields = {
        'plugins': ','.join(map(str, files)),
        'method.name': 'scaled',
        'method.scaled.weight': 1.5,
        'backbone.name': 'flat',
        'data.source': 'steps',
        'data.feed': 'device',
        'protocol.base_classes': 2,
        'protocol.phases': 1,
        'train.epochs': 2,
        'train.batch_size': 16,
        'train.milestones': '(1,)',
        'exemplars.strategy': 'first',
        'exemplars.per_class': 2,
        'exemplars.adjust': False,
        'finetune.epochs': 1,
        'evaluate.batch_size': 16,
    }
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    succeed('main', f'--workdir={workdir}', *flags)
    results = json.loads((workdir / 'results.json').read_text())
    assert results['complete']
    out = tmp_path / 'counts.json'
    succeed('evaluate', workdir, f'--out={out}')
    counted = json.loads(out.read_text())['confusion']
    assert counted == results['phases'][-1]['confusion']
    # The images of a class only differ by noise: the first two were kept.
    kept = np.load(workdir / 'exemplars' / 'phase_1.npz')
    plugins.load(files[-1])
    source = sources.make_source('steps', {})
    for row, name in zip(kept['images'], kept['class_names'], strict=True):
        label = source.class_names.index(str(name))
        first = np.flatnonzero(source.labels['train'] == label)[:2]
        np.testing.assert_array_equal(row, source.read('train', first))
    phase = finished.restore_phase(workdir, -1)
    assert phase.config.method.scaled.weight == 1.5
