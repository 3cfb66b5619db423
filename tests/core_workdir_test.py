"""A work directory in a bucket, with a folder in the bucket's place."""

import contextlib
import json
import os
import shutil
import sys

import pytest
from etils import epath

from mnemonics_jax import experiment, report
from mnemonics_jax.core import workdir
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.experiment import finished
from mnemonics_jax.train import metric_writer

URL = 'gs://bucket/run'


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder where `URL` leads; addresses of other kinds are as ever."""
    folder, address = tmp_path / 'bucket', workdir.address
    # In a bucket there are files of any name, without folders made for them.
    for name in ('exemplars', 'features', 'figures'):
        (folder / name).mkdir(parents=True)

    def find(path):
        if os.fspath(path) == URL:
            return epath.Path(folder)
        return address(path)

    monkeypatch.setattr(workdir, 'address', find)
    return folder


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_a_directory_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with workdir.Workdir('run') as place:
        assert not place.local.exists()
        place.local.mkdir()
        (place.local / 'a').write_text('1')
        place.fetch('b')
        place.put('a')
        place.sync()
        assert os.fspath(place.root) == str(tmp_path / 'run')
        assert place.shown(place.local / 'a') == 'run/a'
    assert files(tmp_path) == {'run/a': '1'}


def test_what_changed_is_copied_and_nothing_else(bucket):
    with workdir.Workdir(URL) as place:
        (place.local / 'exemplars').mkdir()
        names = ('a', 'exemplars/b', 'c')
        for name in names:
            (place.local / name).write_text('old')
        place.sync()
        assert files(bucket) == dict.fromkeys(names, 'old')
        for name in names:
            (bucket / name).write_text('not copied again')
        (place.local / 'a').write_text('older')
        metric_writer.write_atomically(place.local / 'c', 'new')
        place.sync()
        expected = {'a': 'older', 'exemplars/b': 'not copied again', 'c': 'new'}
        assert files(bucket) == expected


def test_drafts_are_not_copied(bucket):
    with workdir.Workdir(URL) as place:
        for name in ('a.json.tmp', 'phase_0.tmp.npz', 'events.tmp0.vm', 'a'):
            (place.local / name).write_text('1')
    assert set(files(bucket)) == {'a', 'events.tmp0.vm'}


def test_a_file_is_fetched_if_it_is_there_and_not_copied_back(bucket):
    (bucket / 'exemplars' / 'a').write_text('1')
    with workdir.Workdir(URL) as place:
        place.fetch('exemplars/a')
        place.fetch('b')
        assert files(place.local) == {'exemplars/a': '1'}
        (bucket / 'exemplars' / 'a').write_text('2')
        place.sync()
        assert files(bucket) == {'exemplars/a': '2'}
        place.put('exemplars/a')
        assert files(bucket) == {'exemplars/a': '1'}


def test_the_other_processes_fetch_and_copy_nothing(bucket):
    (bucket / 'a').write_text('1')
    with workdir.Workdir(URL, uploads=False) as place:
        place.fetch('a')
        assert files(place.local) == {'a': '1'}
        (place.local / 'a').write_text('2')
        place.put('a')
        place.sync()
    assert files(bucket) == {'a': '1'}


@pytest.mark.parametrize('error', [None, KeyError])
def test_however_it_ends_all_is_copied_and_the_mirror_is_gone(bucket, error):
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected, workdir.Workdir(URL) as place:
        (place.local / 'a').write_text('1')
        if error:
            raise error
    assert files(bucket) == {'a': '1'}
    assert not place.local.exists()


def test_a_bucket_that_cannot_be_written_is_an_error_in_a_line(bucket):
    (bucket / 'a').mkdir()
    with pytest.raises(OSError) as caught, workdir.Workdir(URL) as place:
        (place.local / 'a').write_text('1')
    assert str(caught.value).startswith('IsADirectoryError: ')
    assert '\n' not in str(caught.value)
    assert not place.local.exists()


def test_what_ended_a_run_is_told_before_what_copying_says(bucket):
    (bucket / 'a').mkdir()
    with pytest.raises(KeyError), workdir.Workdir(URL) as place:
        (place.local / 'a').write_text('1')
        raise KeyError


@pytest.mark.parametrize('path', ['s3://bucket/run', 'gs://', 'gs:///run'])
def test_other_addresses_are_refused(path):
    with pytest.raises(ValueError) as caught:
        workdir.Workdir(path)
    assert str(caught.value) == (
        f'{path}: must be a directory or gs://BUCKET/FOLDER'
    )


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setenv('EPATH_USE_TF', 'false')
    monkeypatch.setitem(sys.modules, 'gcsfs', None)
    with pytest.raises(ValueError) as caught:
        workdir.address(URL)
    assert str(caught.value).startswith(f'{URL}: ')
    assert str(caught.value).endswith("pip install 'mnemonics-jax[gcs]'")


class KillError(BaseException):
    """Ends a run as a signal would that nothing catches."""


def kill_after(monkeypatch, title, steps):
    """Ends the next run there, and from then on nothing reaches a bucket."""
    seen = []
    step, put = metric_writer.StageProgress.step, workdir.Workdir.put

    def counted(stage, *arguments):
        step(stage, *arguments)
        seen.extend([stage.title] * stage.title.startswith(title))
        if len(seen) > steps:
            monkeypatch.setattr(workdir.Workdir, 'put', lambda *a: None)
            raise KillError

    monkeypatch.setattr(metric_writer.StageProgress, 'step', counted)
    yield
    monkeypatch.setattr(metric_writer.StageProgress, 'step', step)
    monkeypatch.setattr(workdir.Workdir, 'put', put)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, one_device):
    """A run in a directory that nothing disturbs."""
    folder = tmp_path_factory.mktemp('whole')
    run(tiny_config(), folder, one_device)
    return folder


def tiny_config(every_steps=0):
    from tests import conftest

    config = conftest.tiny_config.__wrapped__()
    config.protocol.base_classes, config.protocol.phases = 3, 1
    # Little to compile.
    config.method.name, config.exemplars.adjust = 'finetune', False
    config.checkpoint.every_steps = every_steps
    return config


def run(config, path, placement):
    return experiment.run(experiment.prepare(config, path, placement), path)


def results_of(folder):
    results = json.loads((folder / 'results.json').read_text())
    for phase in results['phases']:
        phase.pop('seconds')
    return {**results, 'config': None}


@pytest.mark.parametrize(
    ('every_steps', 'resumed'),
    [(0, 'after phase 0'), (2, 'in phase 1 of 0..1, learn, after step 2')],
)
def test_a_run_killed_and_resumed_without_its_disk_ends_the_same(
    bucket, whole, monkeypatch, capsys, one_device, every_steps, resumed
):
    config = tiny_config(every_steps)
    config.report = every_steps > 0
    killing = kill_after(monkeypatch, 'phase 1 learn', steps=2)
    next(killing)
    with pytest.raises(KillError):
        run(config, URL, one_device)
    next(killing, None)
    capsys.readouterr()
    run(config, URL, one_device)
    said = capsys.readouterr().out
    assert f'resuming {resumed}' in said
    assert (f'report: {URL}/report.html' in said) == config.report
    assert results_of(bucket) == results_of(whole)
    names = [*workdir.phase_files(0), *workdir.phase_files(1)]
    for name in ('metrics.jsonl', *names):
        assert (bucket / name).read_bytes() == (whole / name).read_bytes()
    steps = [r['global_step'] for r in read_records(bucket / 'metrics.jsonl')]
    assert steps == list(range(len(steps)))
    kept = {path.name for path in bucket.iterdir()}
    assert kept >= {'config.json', 'figures', 'checkpoints'}
    assert ('report.html' in kept) == config.report
    # Two runs, each with its own events.
    assert len([name for name in kept if 'tfevents' in name]) == 2


def test_a_finished_run_is_found_finished_and_reported_anew(
    bucket, whole, capsys, one_device
):
    shutil.copytree(whole, bucket, dirs_exist_ok=True)
    config = tiny_config()
    config.report = True
    run(config, URL, one_device)
    assert 'already finished' in capsys.readouterr().out
    page = (bucket / 'report.html').read_text()
    assert 'is missing' not in page
    end = finished.restore_phase(URL, -1)
    assert (end.phase, end.num_seen) == (1, 6)
    (bucket / 'report.html').unlink()
    assert report.main([URL]) == 0
    assert capsys.readouterr().out == f'{URL}/report.html\n'
    assert (bucket / 'report.html').read_text() == page
    with pytest.raises(ValueError, match=f'--workdir={URL}: must be the work'):
        config = tiny_config()
        config.train.lr = 0.2
        experiment.prepare(config, URL, one_device)


def test_a_report_of_no_run_is_refused_by_the_address(bucket, capsys):
    assert report.main([URL]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f'error: {URL}: must be the work directory of a run')
    assert said.count('\n') == 1


def test_a_bucket_that_cannot_be_written_is_found_before_work_begins(
    bucket, one_device
):
    experiment.prepare(tiny_config(), URL, one_device)
    assert json.loads((bucket / 'config.json').read_text())['config']
    (bucket / 'config.json').chmod(0o444)
    if os.access(bucket / 'config.json', os.W_OK):
        # Permissions do not stop the superuser; a folder in the way does.
        (bucket / 'config.json').unlink()
        (bucket / 'config.json').mkdir()
    with pytest.raises(OSError, match=r'config\.json'):
        experiment.prepare(tiny_config(), URL, one_device)
