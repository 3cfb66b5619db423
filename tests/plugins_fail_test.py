"""A plug-in whose functions fail or break their contract: one line each."""

import json

import numpy as np
import pytest
from command import assert_refused, call_main
from plugins_test import BACKBONE, SOURCE, STRATEGY

from mnemonics_jax import config as config_lib
from mnemonics_jax.config.fields import default_config
from mnemonics_jax.core import plugins
from mnemonics_jax.data import sources
from mnemonics_jax.exemplars import strategies

# What `select` does -> what is said of it, and the line of the mistake.
SELECTS = {
    'return np.zeros((1, 1), np.float32)': (
        'returned float32[1, 1], must be int32[2, 4]',
        7,
    ),
    'return None': ('returned NoneType, must be int32[2, 4]', 7),
    'return np.zeros((2, 4), np.int32)': ('a row must hold different', 7),
    'return candidates.feature()': ('AttributeError: ', 8),
    'return 1 // 0': ('ZeroDivisionError: ', 8),
}


def select_that(does):
    head, _, _ = STRATEGY.rpartition('    counts')
    return f'{head}    {does}\n'


@pytest.mark.parametrize('does', SELECTS)
@pytest.mark.parametrize('field', ['strategy', 'init'])
def test_a_strategy_is_tried_on_made_up_images_first(does, field, tmp_path):
    said, line = SELECTS[does]
    path = tmp_path / 'own.py'
    path.write_text(select_that(does))
    config = default_config()
    config.plugins, config.exemplars[field] = str(path), 'own'
    with pytest.raises(ValueError) as error:
        config_lib.resolve(config)
    assert str(error.value).startswith(f'own.select: {said}')
    assert str(error.value).endswith(f' ({path}:{line})')
    path.with_name('good.py').write_text(STRATEGY)
    config.plugins, config.exemplars[field] = (
        str(path.parent / 'good.py'),
        'good',
    )
    config_lib.resolve(config)


def test_what_learn_takes_and_returns_is_checked(tmp_path, monkeypatch):
    path = tmp_path / 'own.py'
    path.write_text(STRATEGY.replace('learn = None', 'def learn(images): 0'))
    config = default_config()
    config.plugins, config.exemplars.strategy = str(path), 'own'
    with pytest.raises(ValueError, match=r'own\.learn: .*: must take .learner'):
        config_lib.resolve(config)
    module = plugins.registered('strategies')['own']
    images = np.zeros((2, 3, 4, 4, 1), np.float32)
    for learned, found in ((images[0], 'float32[3, 4, 4, 1]'), (0, 'int')):
        monkeypatch.setattr(module, 'learn', lambda *_, it=learned: it)
        with pytest.raises(plugins.PluginError) as error:
            strategies.learn('own', None, None, images, None, None)
        assert f'own.learn: returned {found}, must be' in str(error.value)


SOURCES = {
    'make': (
        ('options):\n', "options):\n    {}['x']\n"),
        "make: KeyError: 'x'",
    ),
    'no file': (
        ('options):\n', "options):\n    open('/nowhere/x')\n"),
        'make: FileNotFoundError: ',
    ),
    'another type': (('return Source', 'return dict'), 'make: returned dict: '),
    'read': (
        ('images[positions]', 'pictures[positions]'),
        "read('train', [0]): NameError: ",
    ),
}


@pytest.mark.parametrize('name', SOURCES)
def test_a_source_that_fails_is_named_with_its_line(name, tmp_path):
    change, said = SOURCES[name]
    path = tmp_path / 'steps.py'
    path.write_text(SOURCE.replace(*change))
    plugins.load(path)
    with pytest.raises(ValueError) as error:
        sources.make_source('steps', {})
    assert str(error.value).startswith(f"data.source='steps': {said}")
    assert f' ({path}:' in str(error.value)


def test_a_number_of_classes_that_cannot_be_told_is_one_line(tmp_path):
    path = tmp_path / 'steps.py'
    for body, said in (
        ('options.no', 'AttributeError: '),
        ("'four'", 'returned str: must be'),
    ):
        text = f'{SOURCE}\ndef num_classes(options): return {body}\n'
        path.with_name(f'{len(body)}.py').write_text(text)
        plugins.load(path.with_name(f'{len(body)}.py'))
        with pytest.raises(ValueError, match=f': num_classes: {said}'):
            sources.count_classes(f'{len(body)}', default_config().data)


# What only fails in a run: on more images, or in another process's words.
LATE = {
    'select': ('', "candidates.features()['x']", 'plug-in IndexError: '),
    'exit': ('', "__import__('sys').exit()", 'plug-in SystemExit ('),
    'wrong': ('', 'return 0', 'own.select: returned int, must be'),
    'read': ('len(positions) > 1 and 1 / 0', '', 'ZeroDivisionError: '),
}


@pytest.mark.parametrize('name', LATE)
def test_what_fails_in_the_run_is_one_line_too(name, tmp_path):
    read, select, said = LATE[name]
    texts = {
        'own.py': STRATEGY.replace(
            '    counts',
            f'    if candidates.num < 3:\n        {select or 0}\n    counts',
        ),
        'flat.py': BACKBONE.replace("'flat'", "'flat_net'"),
        'steps.py': SOURCE.replace(
            'images[positions]', f'({read or 0}, images[positions])[1]'
        ),
    }
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    fields = {
        'plugins': ','.join(str(tmp_path / file) for file in texts),
        'backbone.name': 'flat_net',
        'data.source': 'steps',
        'data.feed': 'device',
        'protocol.base_classes': 2,
        'protocol.phases': 1,
        'train.epochs': 1,
        'train.batch_size': 16,
        'train.milestones': '()',
        'exemplars.strategy': 'own',
        'exemplars.per_class': 2,
        'finetune.epochs': 1,
        'evaluate.batch_size': 16,
    }
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    done = call_main(f'--workdir={tmp_path}/run', *flags)
    assert_refused(done, said, str(tmp_path), '.py:')
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())
