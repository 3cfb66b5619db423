"""A method, a strategy, a backbone and a source, each a file of a user's."""

import json

import numpy as np
import pytest

from mnemonics_jax import backbones, methods
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
    ],
)
def test_what_is_no_plug_in_costs_a_line(files, name, text, said):
    path = files[0].with_name(f'{name}.py')
    if text:
        path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        plugins.load(path)
    assert '\n' not in str(error.value)


def succeed(*command):
    done = run_module(*command)
    assert done.returncode == 0, done.stderr


def test_a_run_of_all_four_by_the_command_and_its_model_again(files, tmp_path):
    """Real processes, in which this one has registered nothing."""
    workdir = tmp_path / 'run'
    fields = {
        'plugins': ','.join(map(str, files)),
        'method.name': 'scaled',
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
    assert phase.config.method.scaled.weight == 1.0
