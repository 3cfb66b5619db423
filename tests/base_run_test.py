"""Runs that take the model of phase 0 from another one."""

import json
import shutil

import numpy as np
import pytest
from ml_collections import config_dict

from mnemonics_jax import experiment
from mnemonics_jax.core import manifest
from mnemonics_jax.core.workdir import read_records


@pytest.fixture(scope='module')
def base(tmp_path_factory, one_device):
    """A run that ends after phase 0 and keeps no exemplars."""
    config = tiny()
    config.exemplars.strategy = 'none'
    config.exemplars.adjust = False
    config.protocol.stop_after_phase = 0
    return run(config, tmp_path_factory.mktemp('base'), one_device)


@pytest.fixture(scope='module')
def alone(tmp_path_factory, one_device):
    """A run that trains in all phases."""
    return run(tiny(), tmp_path_factory.mktemp('alone'), one_device)


def tiny():
    from tests import conftest

    config = conftest.tiny_config.__wrapped__()
    config.data.feed = 'device'
    return config


def run(config, workdir, placement):
    experiment.run(experiment.prepare(config, workdir, placement), workdir)
    return workdir


def phases_of(workdir):
    phases = json.loads((workdir / 'results.json').read_text())['phases']
    for phase in phases:
        del phase['seconds']
    return phases


def exemplars_of(workdir, phase):
    return np.load(workdir / 'exemplars' / f'phase_{phase}.npz')['images']


def stages(workdir, phase):
    lines = read_records(workdir / 'metrics.jsonl')
    return {line['stage'] for line in lines if line['phase'] == phase}


def test_a_run_with_a_base_is_the_run_without(
    base, alone, tmp_path, one_device
):
    """Bit for bit, and nothing is trained in phase 0 again."""
    config = tiny()
    config.train.base_run = str(base)
    based = run(config, tmp_path, one_device)
    assert phases_of(based) == phases_of(alone)
    for phase in range(3):
        np.testing.assert_array_equal(
            exemplars_of(based, phase), exemplars_of(alone, phase)
        )
    assert stages(alone, 0) - stages(based, 0) == {'train'}
    assert stages(based, 1) == stages(alone, 1)


def test_of_a_run_that_carries_on_fine_tuned_the_trained_model_is_taken(
    alone, tmp_path, one_device
):
    """Runs with `finetune.carry` are bases of those without, too."""
    config = tiny()
    config.protocol.stop_after_phase = 0
    config.finetune.carry = True
    base = run(config, tmp_path / 'base', one_device)
    config.finetune.carry = False
    config.train.base_run = str(base)
    based = run(config, tmp_path / 'based', one_device)
    assert phases_of(based) == phases_of(alone)[:1]
    np.testing.assert_array_equal(
        exemplars_of(based, 0), exemplars_of(alone, 0)
    )


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('train.lr', 0.2, 'train.lr: 0.2 here, 0.1 there'),
        ('seed', 1, 'seed: 1 here, 0 there'),
        ('method.name', 'icarl', "method.name: 'icarl' here, 'lucir' there"),
    ],
)
def test_another_phase_0_is_refused(
    base, tmp_path, one_device, field, value, said
):
    config = tiny()
    config.train.base_run = str(base)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=said) as error:
        experiment.prepare(config, tmp_path / 'run', one_device)
    assert str(error.value).startswith('train.base_run: ')
    assert 'must be a run that differs only in' in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_base_run_on_other_images_is_refused(base, tmp_path, one_device):
    folder = tmp_path / 'base'
    shutil.copytree(base, folder)
    (folder / manifest.NAME).unlink()  # It vouches for what the run wrote.
    content = json.loads((folder / 'config.json').read_text())
    later = content['plan']['classes'][2]
    content['images']['train'][later] = 7
    config = tiny()
    config.train.base_run = str(folder)
    (folder / 'config.json').write_text(json.dumps(content))
    experiment.prepare(config, tmp_path / 'one', one_device)
    first = content['plan']['classes'][0]
    content['images']['train'][first] = 7
    (folder / 'config.json').write_text(json.dumps(content))
    message = f'same images.*{first}.: 12 training images instead of 7'
    with pytest.raises(ValueError, match=message):
        experiment.prepare(config, tmp_path / 'two', one_device)


def test_a_folder_without_a_run_is_refused(tmp_path, one_device):
    config = tiny()
    config.train.base_run = str(tmp_path)
    with pytest.raises(ValueError, match=r'no config\.json'):
        experiment.prepare(config, tmp_path / 'run', one_device)


def test_a_run_that_kept_later_phases_alone_is_refused(
    tmp_path, one_device, saved_run
):
    """The message says which phases are there."""
    config = config_dict.ConfigDict(saved_run.parts.config)
    config.train.base_run = str(saved_run.workdir)
    with pytest.raises(ValueError, match='the phases saved in') as error:
        experiment.prepare(config, tmp_path / 'run', one_device)
    assert 'checkpoint.keep' in str(error.value)
