"""Runs on one and on eight devices, also begun on some and ended on others.

And from damaged checkpoints. Whole runs in one process: those of a placement
share their functions.
"""

import os
import shutil
import sys
from typing import NamedTuple

import numpy as np
import pytest

from mnemonics_jax import experiment
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import (
    components,
)
from mnemonics_jax.train.checkpoint import Checkpointer, whole
from tests import conftest

sys.path.insert(0, str(conftest.CACHE.parent / 'benchmarks'))

import compare_runs
import faulty_run

EVERY_STEPS = 2
# A run is killed in phase 1, when of five steps of learning so many are done.
PLACE = faulty_run.Place(1, faulty_run.STAGES.index('learn'), 4)


class KillError(Exception):
    """Stands for a process that ends at once."""


class Runs(NamedTuple):
    """What runs on some devices.

    Attributes:
        parts: of all of them.
        whole: work directory of a run that nothing disturbed.
        killed: of one that was killed.
    """

    parts: components.Components
    whole: os.PathLike
    killed: os.PathLike


def make_runs(folder, placement):
    config = conftest.tiny_config.__wrapped__()
    config.protocol.phases = 1
    config.exemplars.update(outer_steps=5, adjust_steps=2, storage='float32')
    config.checkpoint.every_steps = EVERY_STEPS
    parts = experiment.prepare(config, folder / 'whole', placement)
    experiment.run(parts, folder / 'whole')
    experiment.prepare(config, folder / 'killed', placement)
    save = Checkpointer.save_within

    def save_and_die(self, position, states):
        save(self, position, states)
        if (position.phase, position.stages.get('learn')) == (1, PLACE.step):
            self.wait()
            raise KillError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, 'save_within', save_and_die)
        with pytest.raises(KillError):
            experiment.run(parts, folder / 'killed')
    return Runs(parts, folder / 'whole', folder / 'killed')


@pytest.fixture(scope='module')
def on_one(tmp_path_factory, one_device):
    return make_runs(tmp_path_factory.mktemp('one'), one_device)


@pytest.fixture(scope='module')
def on_eight(tmp_path_factory):
    parallel.avoid_cached_collectives()
    yield make_runs(tmp_path_factory.mktemp('eight'), parallel.make_placement())
    parallel.use_compilation_cache(True)


def go_on(parts, killed, workdir, capsys):
    """Runs what is left of a killed run's copy; returns where it went on."""
    if not workdir.exists():
        shutil.copytree(killed, workdir)
    capsys.readouterr()
    experiment.run(parts, workdir)
    output = capsys.readouterr().out
    return faulty_run.resumed_at(output), output


def assert_within_an_image(ours, theirs):
    """Of all classifiers and phases; and learned pixels moved as far."""
    found = [compare_runs.comparable(path)['phases'] for path in (ours, theirs)]
    for this, that in zip(*found, strict=True):
        assert set(this['confusion']) == {'cnn', 'nme', 'finetuned'}
        for head, counts in that['confusion'].items():
            gap = np.trace(this['confusion'][head]) - np.trace(counts)
            assert abs(gap) <= 1
        for name in ('drift_grey_levels', 'held_out_loss_after'):
            assert this['exemplars'][name] == pytest.approx(
                that['exemplars'][name], rel=1e-2
            )


def test_a_run_on_eight_devices_gives_what_one_gives(on_one, on_eight):
    """Within a test image: the sums of a batch are rounded otherwise."""
    assert_within_an_image(on_eight.whole, on_one.whole)


def test_a_run_begun_on_one_device_resumes_on_eight(
    on_one, on_eight, tmp_path, capsys
):
    place, _ = go_on(on_eight.parts, on_one.killed, tmp_path / 'run', capsys)
    assert place == PLACE
    assert_within_an_image(tmp_path / 'run', on_one.whole)


def test_a_run_begun_on_eight_devices_resumes_on_one(
    on_one, on_eight, tmp_path, capsys
):
    place, _ = go_on(on_one.parts, on_eight.killed, tmp_path / 'run', capsys)
    assert place == PLACE
    assert_within_an_image(tmp_path / 'run', on_eight.whole)


def draw_byte(folder, random):
    """A file and an offset in it, each byte of a folder being as likely."""
    files = sorted(f for f in folder.rglob('*') if f.is_file())
    ends = np.cumsum([f.stat().st_size for f in files])
    byte = random.integers(ends[-1])
    number = int(np.searchsorted(ends, byte, side='right'))
    return files[number], int(
        byte - ends[number] + files[number].stat().st_size
    )


def truncate(file, offset, random):
    os.truncate(file, offset)


def flip_a_bit(file, offset, random):
    content = bytearray(file.read_bytes())
    content[offset] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


@pytest.mark.parametrize('damage', [truncate, flip_a_bit])
def test_a_damaged_checkpoint_costs_a_line_and_changes_no_bit(
    on_one, tmp_path, capsys, damage
):
    newest = whole(on_one.killed)[-1]
    num_moved = 0
    for seed in range(3):
        workdir = tmp_path / str(seed)
        shutil.copytree(on_one.killed, workdir)
        random = np.random.default_rng(seed)
        folder = workdir / 'checkpoints' / newest
        damage(*draw_byte(folder, random), random)
        place, output = go_on(on_one.parts, None, workdir, capsys)
        said = [
            line for line in output.splitlines() if 'moved to damaged' in line
        ]
        if said:
            (line,) = said
            assert line.startswith(f'checkpoint {newest} cannot be read')
            assert place == PLACE._replace(step=PLACE.step - EVERY_STEPS)
        else:  # Of a byte that reading does not need.
            assert place == PLACE
        num_moved += bool(said)
        assert compare_runs.differences(workdir, on_one.whole) == []
    # Which bytes are drawn varies with the sizes of compressed arrays. Were
    # none of them read, the test would say nothing.
    assert num_moved >= 1
