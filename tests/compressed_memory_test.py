"""Runs whose exemplars are compressed: budgets, files, resuming, commands."""

import io
import json
import pathlib
import shlex
import shutil
import sys
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from command import assert_refused, call, call_main
from PIL import Image

from mnemonics_jax import config as config_lib
from mnemonics_jax import evaluate, experiment, export, predict
from mnemonics_jax.config import command_line
from mnemonics_jax.data import encoded, storage
from mnemonics_jax.experiment import (
    byte_budget,
    components,
    finished,
    phase_loop,
)
from mnemonics_jax.report import command as report
from mnemonics_jax.train.checkpoint import Checkpointer
from mnemonics_jax.types import EncodedImages
from tests import conftest

sys.path.insert(0, str(conftest.CACHE.parent / 'benchmarks'))

import compare_runs

BUDGET = 2000
FIELDS = {
    'data.channels': 3,
    'data.image_size': 16,
    'train.epochs': 1,
    'train.milestones': (),
    'exemplars.per_class': 0,
    'exemplars.bytes_total': BUDGET,
    'exemplars.storage': 'jpeg',
    'exemplars.quality': 40,
    'exemplars.adjust': False,
    'exemplars.objective': 'unroll+means',
    'exemplars.outer_steps': 4,
    'exemplars.outer_lr': 0.1,
    'checkpoint.every_steps': 2,
}
WITHOUT_LEARNING = {
    'exemplars.strategy': 'herding',
    'exemplars.storage': 'webp',
    'exemplars.bytes_total': 0,
}


class Ran(NamedTuple):
    """A run of three phases that nothing disturbed.

    Attributes:
        parts: of it.
        workdir: of it.
        phases: of `results.json`.
    """

    parts: components.Components
    workdir: pathlib.Path
    phases: list


def make_config(**fields):
    config = conftest.tiny_config.__wrapped__()
    config.update_from_flattened_dict({**FIELDS, **fields})
    return config


@pytest.fixture(scope='module')
def ran(tmp_path_factory, one_device):
    workdir = tmp_path_factory.mktemp('compressed') / 'run'
    parts = experiment.prepare(make_config(), workdir, one_device)
    return Ran(parts, workdir, experiment.run(parts, workdir)['phases'])


def file_of(ran, index, name='phase'):
    path = ran.workdir / 'exemplars' / f'{name}_{index}.npz'
    with np.load(path) as found:
        return dict(found)


def rows_of(ran, index):
    """The encoded images of each class after a phase."""
    found = file_of(ran, index)
    return encoded.split(EncodedImages(found['data'], found['lengths']))


def decoded(file):
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert('RGB'))


def call_command(ran, workdir, *more):
    """The command that resumes a run."""
    flags = shlex.split(' '.join(command_line.as_flags(ran.parts.config)))
    return call_main(f'--workdir={workdir}', *flags, *more)


# What a run stores.


def test_the_bytes_of_a_run_are_those_on_disk_and_within_its_budget(ran):
    header = ran.parts.storage.header
    counts = []
    for i, phase in enumerate(ran.phases):
        found, told = file_of(ran, i), phase['exemplars']
        assert told['bytes'] == len(header) + found['data'].nbytes <= BUDGET
        assert found['data'].nbytes == found['lengths'].sum()
        assert told['count'] == np.count_nonzero(found['lengths'])
        np.testing.assert_array_equal(found['mask'], found['lengths'] > 0)
        each = (BUDGET - len(header)) // phase['num_seen']
        assert 0 < found['lengths'].sum(axis=1).max() <= each
        counts.append(np.count_nonzero(found['lengths'], axis=1))
    assert [len(count) for count in counts] == [2, 4, 6]
    assert counts[0].min() > counts[2].max() > 1


def test_old_classes_lose_the_lowest_ranks_and_keep_the_others_to_the_bit(ran):
    for i in (1, 2):
        before, after = rows_of(ran, i - 1), rows_of(ran, i)
        each = (BUDGET - len(ran.parts.storage.header)) // len(after)
        for old, kept in zip(before, after, strict=False):
            assert 0 < len(kept) <= len(old)
            assert kept == old[: len(kept)]
            more = sum(map(len, old[: len(kept) + 1]))
            full = len(kept) == ran.parts.slots(i)
            assert full or len(kept) == len(old) or more > each
    assert sum(map(len, rows_of(ran, 2)[:2])) < sum(map(len, rows_of(ran, 0)))


@pytest.mark.parametrize('index', [1, 2])
def test_a_checkpoint_restores_what_pillow_reads_in_the_files(ran, index):
    end = finished.restore_phase(ran.workdir, index)
    images, mask = np.array(end.exemplars.images), np.array(end.exemplars.mask)
    header = ran.parts.storage.header
    for k, row in enumerate(rows_of(ran, index)):
        assert mask[k].sum() == len(row)
        for rank, stream in enumerate(row):
            np.testing.assert_array_equal(
                images[k, rank], decoded(header + stream)
            )
    assert not images[~mask].any()


def test_learning_changes_the_images_and_takes_about_as_many_bytes(ran):
    for i, phase in enumerate(ran.phases):
        told = phase['exemplars']
        selected = file_of(ran, i, 'selected')
        rows = rows_of(ran, i)[phase['num_old'] :]
        header = ran.parts.storage.header
        changes, sizes = [], []
        for k, row in enumerate(rows):
            start = selected['images'][k]
            for rank, stream in enumerate(row):
                found = decoded(header + stream).astype(float)
                changes.append(np.abs(found - start[rank]).mean())
                sizes.append(len(stream))
        drift = told['drift_grey_levels']
        assert drift == pytest.approx(np.mean(changes), rel=1e-3)
        assert drift > 1
        # Without learning, the same images take as much.
        number = int(selected['mask'].sum())
        assert len(sizes) == number - told['num_dropped']
        assert np.isfinite(told['held_out_loss_after'])


def test_the_psnr_of_a_run_is_that_to_the_real_images(tmp_path, one_device):
    """Of herding, whose images are found again in the data; as WebP."""
    fields = {**WITHOUT_LEARNING, 'exemplars.bytes_per_class': 500}
    config = make_config(**fields)
    parts = experiment.prepare(config, tmp_path, one_device)
    phases = experiment.run(parts, tmp_path)['phases']
    source = parts.source
    for i, phase in enumerate(phases):
        with np.load(tmp_path / 'exemplars' / f'phase_{i}.npz') as found:
            arrays = dict(found)
        assert arrays['lengths'].sum(axis=1).max() <= 500
        assert phase['exemplars']['bytes'] == arrays['data'].nbytes
        images, mask = encoded.from_arrays(arrays)
        values = []
        for k in range(phase['num_old'], phase['num_seen']):
            members = source.labels['train'] == parts.order[k]
            real = source.read('train', np.flatnonzero(members)) / 255
            for image in images[k][mask[k]] / 255:
                errors = np.mean((real - image) ** 2, axis=(1, 2, 3))
                values.append(-10 * np.log10(errors.min()))
        found = phase['exemplars']['psnr']
        assert found == pytest.approx(np.mean(values), rel=1e-5)
        assert phase['exemplars']['drift_grey_levels'] == 0


def test_without_a_memory_nothing_is_encoded(one_device):
    """Orbax saves no array without entries."""
    config = make_config(
        **{'exemplars.strategy': 'none', 'method.name': 'finetune'}
    )
    parts = components.build(config_lib.resolve(config), one_device)
    carry = experiment.first_carry(parts)
    assert carry.encoded is None
    assert not carry.exemplars.mask.any()


# Resuming.


class KillError(Exception):
    """Stands for a process that ends at once."""


def test_a_run_killed_while_it_learns_and_between_phases_resumes_bit_for_bit(
    ran, tmp_path, one_device, compiled
):
    within, between = Checkpointer.save_within, Checkpointer.save

    def die_within(self, position, states):
        within(self, position, states)
        if (position.phase, position.stages.get('learn')) == (1, 2):
            self.wait()
            raise KillError

    def die_between(self, phase, *arguments):
        between(self, phase, *arguments)
        if phase == 1:
            self.wait()
            raise KillError

    workdir = tmp_path / 'run'
    experiment.prepare(make_config(), workdir, one_device)
    for name, die in (('save_within', die_within), ('save', die_between)):
        with (
            mock.patch.object(Checkpointer, name, die),
            pytest.raises(KillError),
        ):
            experiment.run(ran.parts, workdir)
    experiment.run(ran.parts, workdir)
    assert 'jit(learn)' not in compiled
    starts = json.loads((workdir / 'config.json').read_text())['starts']
    places = [start['resumed'] for start in starts]
    assert [place and (place['phase'], place['stage']) for place in places] == [
        None,
        (1, 'learn'),
        (2, None),
    ]
    assert compare_runs.differences(workdir, ran.workdir) == []


def another_decoder(files, image_format, image_shape):
    images = decode_files(files, image_format, image_shape)
    images[-1, 0, 0, 0] ^= 1
    return images


decode_files = storage.decode_files


def test_a_damaged_file_is_written_again_byte_for_byte(ran, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(ran.workdir, workdir)
    before = (workdir / 'exemplars' / 'phase_1.npz').read_bytes()
    (workdir / 'exemplars' / 'phase_1.npz').write_bytes(before[:-1])
    experiment.run(ran.parts, workdir)
    assert (workdir / 'exemplars' / 'phase_1.npz').read_bytes() == before


def test_a_resume_with_another_decoder_is_one_line(ran, tmp_path):
    """And with the same one it goes on; other commands warn."""
    workdir = tmp_path / 'run'
    shutil.copytree(ran.workdir, workdir)
    with mock.patch.object(storage, 'decode_files', another_decoder):
        done = call_command(ran, workdir)
        read = call(lambda: export.main([str(workdir), f'--out={tmp_path}/x']))
    version = ran.phases[-1]['exemplars']['decoder']['pillow']
    assert_refused(done, 'other pixels', f'read with pillow {version}')
    assert read.returncode == 0
    assert read.stderr.startswith('warning: exemplars: decode to other pixels')
    done = call_command(ran, workdir)
    assert done.returncode == 0, done.stderr
    assert 'already finished' in done.stdout


# Mistakes: each one line.


def test_too_few_bytes_for_an_image_are_refused_before_the_run(ran, tmp_path):
    done = call_command(
        ran,
        tmp_path / 'run',
        '--config.exemplars.bytes_total=0',
        '--config.exemplars.bytes_per_class=5',
    )
    assert_refused(done, 'exemplars.bytes_per_class=5: ', 'has 5 bytes, must')
    assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_total_below_the_header_is_refused(ran, tmp_path):
    done = call_command(
        ran, tmp_path / 'run', '--config.exemplars.bytes_total=400'
    )
    assert_refused(done, 'exemplars.bytes_total=400: ', 'has 0 bytes')


def test_a_class_that_gets_no_image_is_named(tmp_path, one_device):
    """Its images are larger than the sizes that the run was checked with."""
    config = make_config(
        **WITHOUT_LEARNING, **{'exemplars.bytes_per_class': 500}
    )
    parts = experiment.prepare(config, tmp_path, one_device)
    few = int(np.ceil(parts.plan.slot_bytes))
    config.exemplars.bytes_per_class = few
    flags = command_line.as_flags(config_lib.resolve(config))
    done = call_main(f'--workdir={tmp_path}/few', *shlex.split(' '.join(flags)))
    assert_refused(
        done, f'a class has {few} bytes', "exemplar of 'class ", 'more bytes'
    )


def test_classes_that_leave_others_too_few_bytes_are_refused(ran, tmp_path):
    """As if so many had been added that a class has 14 bytes."""
    workdir = shutil.copytree(ran.workdir, tmp_path / 'run')
    plan = ran.parts.plan
    end = plan.bounds[-1][1]
    more = ran.parts._replace(
        plan=plan._replace(bounds=(*plan.bounds, (end, 100)))
    )
    with (
        Checkpointer(workdir, keep=3) as checkpointer,
        pytest.raises(byte_budget.TooFewBytesError, match='has 14 bytes'),
    ):
        phase_loop.restore(more, checkpointer)


# Commands on the work directory.


def test_an_export_has_the_files_themselves_which_predict_reads(ran, tmp_path):
    out = tmp_path / 'export'
    done = call(lambda: export.main([str(ran.workdir), f'--out={out}']))
    assert done.returncode == 0, done.stderr
    end = finished.restore_phase(ran.workdir, -1)
    rows = rows_of(ran, 2)
    folders = sorted((out / 'exemplars').iterdir())
    assert len(folders) == len(rows) == 6
    images = np.asarray(end.exemplars.images)
    for k, folder in enumerate(folders):
        files = sorted(folder.iterdir())
        names = [f'{rank:03}.jpg' for rank in range(len(rows[k]))]
        assert [file.name for file in files] == names
        for rank, file in enumerate(files):
            content = file.read_bytes()
            assert content == ran.parts.storage.header + rows[k][rank]
            np.testing.assert_array_equal(decoded(content), images[k, rank])
    with np.load(out / 'exemplars.npz') as found:
        np.testing.assert_array_equal(
            found['images'], images[np.asarray(end.exemplars.mask)]
        )
    found = tmp_path / 'found.json'
    arguments = [str(ran.workdir), str(out / 'exemplars'), f'--out={found}']
    arguments += ['--classifier=nme', '--format=json', '--top=6']
    done = call(lambda: predict.main(arguments))
    assert done.returncode == 0, done.stderr
    guesses = json.loads(found.read_text())['images']
    assert len(guesses) == ran.phases[-1]['exemplars']['count']
    # The means are those of these very images: they are nearest on average.
    own = []
    for guess in guesses:
        name = guess['image'].rsplit('/', 2)[1].partition('_')[2]
        cosines = {
            export.folder_name(0, 1, one['class']).partition('_')[2]: one[
                'cosine'
            ]
            for one in guess['top']
        }
        own.append(cosines[name] - np.mean(list(cosines.values())))
    assert np.mean(own) > 0


def test_evaluate_counts_what_the_run_counted(ran, tmp_path):
    out = tmp_path / 'found.json'
    done = call(lambda: evaluate.main([str(ran.workdir), f'--out={out}']))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found['confusion'] == ran.phases[-1]['confusion']


def test_the_report_has_bytes_quality_and_psnr(ran, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(ran.workdir, workdir)
    done = call(lambda: exit(report.main([str(workdir)])))
    assert done.returncode == 0, done.stderr
    page = (workdir / 'report.html').read_text()
    assert f'{BUDGET:,} bytes' in page
    assert 'stored as jpeg of quality 40, 4:2:0' in page
    for phase in ran.phases:
        told = phase['exemplars']
        assert f'{told["bytes"]:,}' in page
        assert f'<td>{told["psnr"]:.1f}</td>' in page
    for stage in ('selected', 'learned', 'last', 'difference'):
        assert (workdir / 'figures' / f'exemplars_{stage}.png').is_file()
