"""Whether a run fits is known before it begins, and costs no compilation."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from extras import needs_tfds

from mnemonics_jax import config as config_lib
from mnemonics_jax import experiment, main
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components, memory_check
from tests import conftest

ENOUGH = 2**40


@pytest.fixture
def small(tiny_config):
    """Two phases of different sizes."""
    tiny_config.protocol.update(base_classes=4, phases=1)
    tiny_config.train.update(epochs=1, milestones=())
    tiny_config.exemplars.update(outer_steps=1, adjust_steps=1)
    return tiny_config


def build(config, placement):
    return components.build(config_lib.resolve(config), placement)


@pytest.mark.parametrize(
    ('feed', 'objective'),
    [
        pytest.param('tfdata', 'unroll', marks=needs_tfds),
        ('device', 'prototypes'),
    ],
)
def test_what_is_compiled_to_be_measured_is_what_the_run_takes(
    small, feed, objective, tmp_path, one_device, compiled
):
    """Learning in phase 0, or in phase 1 if old exemplars take part."""
    small.exemplars.objective = objective
    small.data.feed = feed
    parts = experiment.prepare(small, tmp_path, one_device)
    line = memory_check.check(parts, 1, ENOUGH)
    assert line.startswith('largest step: ')
    assert line.endswith(' of 1,024.0 GiB on each device')
    # Training and fine-tuning have one name.
    assert sorted(compiled) == sorted([*conftest.STEPS, 'jit(train)'])
    compiled.clear()
    experiment.run(parts, tmp_path)
    # Training in phase 0, and learning in the other phase; there are as many
    # images on the device as in a phase, so that all but fine-tuning differ.
    differ = ['jit(count)', 'jit(embed)'] if feed == 'device' else []
    assert sorted(compiled) == [*differ, 'jit(learn)', 'jit(train)']


def test_a_device_of_unknown_size_is_not_judged(small, one_device, compiled):
    assert parallel.room_on_device() is None  # On CPU.
    parts = build(small, one_device)
    assert memory_check.check(parts, 1, parallel.room_on_device()) is None
    assert not compiled


def by_size(program):
    """Fake compiler: a GiB per image, in microbatches while learning."""
    if program.name == 'training':
        _, inputs, _ = program.arguments
        return inputs[0].columns['label'].shape[1] * 2**30
    if not program.name.endswith('exemplars'):
        return 0
    microbatch = MICROBATCHES[program.function]
    return (microbatch or 100) * 2**30


MICROBATCHES = {}


@pytest.mark.parametrize(
    ('room', 'words'),
    [
        (
            40,
            'exemplars.microbatch=None: learning exemplars needs 100.0 GiB of '
            'the 40.0 GiB on each device, must be at most 4',
        ),
        (
            9,
            'train.batch_size=16: training needs 16.0 GiB of the 9.0 GiB on '
            'each device, must be at most 8',
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_a_setting_that_does(
    small, one_device, monkeypatch, room, words, tmp_path
):
    """Refused before anything is written."""
    make_learner = memory_check.make_learner

    def remember(backbone, settings, placement):
        learner = make_learner(backbone, settings, placement)
        MICROBATCHES.update(dict.fromkeys(learner, settings.microbatch))
        return learner

    MICROBATCHES.clear()
    monkeypatch.setattr(components, 'make_learner', remember)
    monkeypatch.setattr(memory_check, 'make_learner', remember)
    monkeypatch.setattr(memory_check, 'needed', by_size)
    monkeypatch.setattr(parallel, 'room_on_device', lambda: room * 2**30)
    with pytest.raises(ValueError) as caught:
        experiment.prepare(small, tmp_path / 'run', one_device)
    assert str(caught.value) == words
    assert not (tmp_path / 'run').exists()


def test_what_fits_no_setting_says_so(small, one_device, monkeypatch):
    parts = build(small, one_device)
    monkeypatch.setattr(memory_check, 'needed', lambda program: float('inf'))
    with pytest.raises(ValueError, match=r'needs more of .* than 1 devices'):
        memory_check.check(parts, 1, 2**30)


def test_a_begun_run_resumes_with_another_microbatch(
    small, one_device, monkeypatch, tmp_path, capsys
):
    """And what was measured when it began is not measured again."""
    measured = []
    monkeypatch.setattr(parallel, 'room_on_device', lambda: ENOUGH)
    monkeypatch.setattr(
        memory_check, 'needed', lambda program: measured.append(program) or 0.0
    )
    experiment.prepare(small, tmp_path, one_device)
    assert len(measured) == 6
    assert capsys.readouterr().out.startswith('largest step: ')
    small.exemplars.microbatch = 4
    parts = experiment.prepare(small, tmp_path, one_device)
    assert parts.config.exemplars.microbatch == 4
    assert len(measured) == 6
    assert not capsys.readouterr().out


def test_no_room_in_the_middle_of_a_run_is_one_line(
    monkeypatch, tmp_path, capsys
):
    """An array of a pebibyte, which the system refuses for real."""

    def run(parts, workdir):
        jnp.zeros(2**50, np.uint8).block_until_ready()

    monkeypatch.setattr(experiment, 'prepare', lambda *a, **k: None)
    monkeypatch.setattr(experiment, 'run', run)
    flags.FLAGS(['main', f'--workdir={tmp_path}'])
    with pytest.raises(SystemExit) as caught:
        main.main([])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ')
    assert len(message.splitlines()) == 1
    assert 'exemplars.microbatch' in message
    assert 'train.batch_size' in message


def test_a_microbatch_is_a_multiple_of_the_devices(small, all_devices):
    small.update_from_flattened_dict(
        {'train.batch_size': 16, 'exemplars.microbatch': 12}
    )
    with pytest.raises(ValueError) as caught:
        build(small, all_devices)
    assert str(caught.value) == (
        'exemplars.microbatch=12: must be a multiple of 8, the number of '
        'devices'
    )
