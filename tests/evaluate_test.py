"""A saved phase on data: the run's own, and others."""

import json
import shutil

import numpy as np
import pytest
from command import run_module
from ml_collections import config_dict

from mnemonics_jax import evaluate
from mnemonics_jax.core import cli
from mnemonics_jax.experiment import finished
from tests import saved_runs


@pytest.fixture(autouse=True)
def as_loud_as_before(monkeypatch):
    """The commands quieten a process of their own, not this one."""
    monkeypatch.setattr(cli, 'quieten', lambda: None)


def evaluated(tmp_path, *arguments):
    evaluate.main([*map(str, arguments), f'--out={tmp_path / "found.json"}'])
    return json.loads((tmp_path / 'found.json').read_text())


@pytest.mark.parametrize('index', [-1, 1])
def test_the_runs_own_data_give_its_own_counts(
    saved_run, tmp_path, capsys, index
):
    """Of every phase whose model is there, by all three classifiers."""
    found = evaluated(tmp_path, saved_run.workdir, f'--phase={index}')
    expected = saved_run.results['phases'][index]
    assert found['phase'] == expected['phase']
    assert set(found['confusion']) == {'cnn', 'nme', 'finetuned'}
    for name in ('confusion', 'accuracy', 'top5_accuracy'):
        assert found[name] == expected[name]
    assert found['num_images'] == saved_runs.NUM_TEST * expected['num_seen']
    said = capsys.readouterr().out
    for value in expected['accuracy'].values():
        assert f' {100 * value:.1f} %' in said


def test_other_data_are_matched_by_the_names_of_classes(
    saved_run, tmp_path, capsys
):
    """Other folders, another order, a class less, and one never seen."""
    data = tmp_path / 'other'
    moved = {'z': 'n02', 'y': 'n04', 'x': 'n06', 'w': 'n01', 'v': 'n03'}
    for split in ('train', 'validation'):
        for new, old in moved.items():
            shutil.copytree(saved_run.data / split / old, data / split / new)
    saved_runs.add_class(data, 'stranger', seed=9)
    lines = [f'{k}\t{saved_runs.NAMES[v]}\n' for k, v in moved.items()]
    (data / 'labels.txt').write_text(''.join(lines))
    found = evaluated(
        tmp_path,
        saved_run.workdir,
        '--data.source=folder',
        f'--data.dir={data}',
    )
    assert found['left_out'] == {'stranger': saved_runs.NUM_TEST}
    assert "'stranger'" in capsys.readouterr().out
    gone = found['class_names'].index(saved_runs.NAMES['n05'])
    expected = {
        name: np.array(counts)
        for name, counts in saved_run.results['phases'][-1]['confusion'].items()
    }
    for name, counts in expected.items():
        counts[gone] = 0
        np.testing.assert_array_equal(found['confusion'][name], counts)
    assert found['num_images'] == 5 * saved_runs.NUM_TEST
    share = np.trace(expected['nme']) / found['num_images']
    assert found['accuracy']['nme'] == pytest.approx(share)


def test_what_reads_the_images_is_chosen_for_them(saved_run):
    """Not taken from the run, which may have had TensorFlow."""
    phase = finished.restore_phase(saved_run.workdir, -1)
    config = config_dict.ConfigDict(phase.config.to_dict())
    config.data.update(feed='tfdata', random_resized_crop=True)
    phase = phase._replace(config=config_dict.FrozenConfigDict(config))
    data = evaluate.with_data(phase, []).data
    assert (data.feed, data.random_resized_crop) == ('auto', False)
    data = evaluate.with_data(phase, ['--data.feed=tfdata']).data
    assert (data.feed, data.random_resized_crop) == ('tfdata', False)


def test_batches_are_split_over_as_many_devices_as_divide_them():
    sizes = {16: 8, 20: 4, 7: 1, 256: 8}
    for batch_size, expected in sizes.items():
        assert evaluate.place(batch_size).num_devices == expected


def test_the_command_says_what_it_counts(saved_run):
    done = run_module('evaluate', saved_run.workdir)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    told = done.stdout.splitlines()
    assert told[0] == 'phase 2: 42 test images of 6 classes'
    (own,) = (line for line in told if 'is evaluated' in line)
    assert own.startswith('cnn ')
