"""Damaged files of a finished run: what each command says and does."""

import json
import os
import shutil
import sys

import pytest
from command import ROOT, assert_refused, call

from mnemonics_jax import evaluate, experiment, export, predict
from mnemonics_jax.core import manifest
from mnemonics_jax.core.workdir import Workdir, phase_files
from mnemonics_jax.experiment import finished, run_config
from mnemonics_jax.report import page, runs
from tests.manifest_test import DAMAGE, KillError, flip, harm

sys.path.insert(0, str(ROOT / 'benchmarks'))

import compare_runs

# Whole JSON, but of nothing.
OTHER = {text: lambda _, text=text: text.encode() for text in ('null', '{}')}
KINDS = {**DAMAGE, **OTHER}
FILES = ('results.json', 'metrics.jsonl', *phase_files(0), *phase_files(2))


@pytest.fixture
def copied(saved_run, tmp_path):
    """A copy of the run, to damage."""
    return shutil.copytree(saved_run.workdir, tmp_path / 'run')


def contents(folder):
    """The files that the manifest names, but for its own."""
    return {name: (folder / name).read_bytes() for name in FILES}


def test_every_file_that_readers_read_has_an_entry(saved_run):
    names = ['config.json', 'results.json', 'metrics.jsonl']
    for phase in range(3):
        names += phase_files(phase)
    assert manifest.read(saved_run.workdir).keys() == set(names)


def test_rerunning_writes_again_what_checkpoints_have_and_names_the_rest(
    saved_run, copied, capsys
):
    before = contents(saved_run.workdir)
    kinds = {
        'results.json': 'flip',
        'exemplars/phase_2.npz': 'cut',
        'metrics.jsonl': 'zero',
        'exemplars/phase_0.npz': 'flip',
        'features/phase_2.npz': 'gone',
    }
    for name, kind in kinds.items():
        harm(copied / name, DAMAGE[kind])
    lost = (
        'lost, in no checkpoint: metrics.jsonl is damaged: not what the run '
        'wrote; exemplars/phase_0.npz is damaged: not what the run wrote; '
        'features/phase_2.npz is missing'
    )
    assert experiment.run(saved_run.parts, copied) == saved_run.results
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    restored = 'results.json, exemplars/phase_2.npz'
    assert first == f'written again from a checkpoint: {restored}'
    assert second == lost
    assert third.startswith('already finished')
    for name in ('results.json', 'exemplars/phase_2.npz', *phase_files(2)[1:2]):
        assert (copied / name).read_bytes() == before[name]
    # What is lost is named each time.
    experiment.run(saved_run.parts, copied)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith('lost, in no checkpoint: metrics.jsonl is damaged')
    assert first.partition('; ')[2] == lost.partition('; ')[2]
    assert second.startswith('already finished')


def test_a_last_phase_without_its_checkpoint_runs_again(
    saved_run, copied, capfd
):
    shutil.rmtree(copied / 'checkpoints' / 'phases' / '2' / 'results')
    experiment.run(saved_run.parts, copied)
    assert compare_runs.differences(copied, saved_run.workdir) == []
    out, err = capfd.readouterr()
    assert 'checkpoint phases/2 cannot be read, moved to damaged' in out
    assert 'Traceback' not in out + err


@pytest.mark.parametrize('kind', KINDS)
def test_a_damaged_configuration_is_written_again(
    saved_run, copied, capsys, kind
):
    harm(copied / 'config.json', KINDS[kind])
    with Workdir(copied) as place:
        run_config.repair(place)
        assert run_config.read(place).plan == saved_run.parts.plan
    said = capsys.readouterr().out
    assert said.count('\n') == 1
    assert said.startswith('config.json is ')
    assert said.endswith('; written again\n')
    ours, theirs = copied / 'config.json', saved_run.workdir / 'config.json'
    assert ours.read_bytes() == theirs.read_bytes()
    assert manifest.read(copied) == manifest.read(saved_run.workdir)


@pytest.mark.parametrize('kind', KINDS)
def test_without_its_configuration_a_run_is_refused_in_one_line(
    saved_run, copied, kind
):
    """Also by the run, if no checkpoint has it: those of early versions."""
    for place in (copied / 'checkpoints' / 'phases').glob('*/setup'):
        shutil.rmtree(place)
    harm(copied / 'config.json', KINDS[kind])
    before = sorted(copied.rglob('*'))
    image = next((saved_run.data / 'train').rglob('*.png'))
    out = copied.parent / 'out'
    for command in (
        lambda: predict.main([str(copied), str(image)]),
        lambda: evaluate.main([str(copied)]),
        lambda: export.main([str(copied), f'--out={out}']),
    ):
        done = call(command)
        assert_refused(done, f'{copied}/config.json: no configuration of a run')
        assert done.stdout == ''
    with pytest.raises(ValueError, match=r'config\.json: no configuration of'):
        experiment.prepare(saved_run.parts.config, copied)
    assert sorted(copied.rglob('*')) == before
    assert not out.exists()


@pytest.mark.parametrize('older', [False, True])
def test_a_field_of_another_type_is_named(saved_run, copied, older):
    """With a manifest by its digest, without one by the field's rule."""
    path = copied / 'config.json'
    content = json.loads(path.read_text())
    content['config']['train']['lr'] = 'fast'
    path.write_text(json.dumps(content))
    if older:
        (copied / manifest.NAME).unlink()
    done = call(lambda: evaluate.main([str(copied)]))
    words = "train.lr='fast': must be a number > 0" if older else 'is damaged: '
    assert_refused(done, 'config.json: ', words)


def test_a_damaged_manifest_is_a_warning(saved_run, copied):
    harm(copied / manifest.NAME, flip)
    said = 'files.json is damaged: the files of the run are not checked'
    assert finished.restore_phase(copied, -1).warning == said
    assert runs.read(copied, 'a').missing == [f'{said}.']
    assert finished.restore_phase(saved_run.workdir, -1).warning is None


@pytest.mark.parametrize('how', ['older', 'damaged'])
def test_a_run_without_a_manifest_gets_one(saved_run, copied, how, capsys):
    harm(copied / manifest.NAME, flip if how == 'damaged' else None)
    harm(copied / 'features/phase_1.npz', flip)
    experiment.run(saved_run.parts, copied)
    expected = manifest.read(saved_run.workdir)
    del expected['features/phase_1.npz']
    assert manifest.read(copied) == expected
    said = capsys.readouterr().out.splitlines()
    lost = 'lost, in no checkpoint: features/phase_1.npz cannot be read'
    assert said[how == 'damaged'] == lost
    assert ('files.json is damaged' in said[0]) == (how == 'damaged')


@pytest.mark.parametrize('kind', DAMAGE)
@pytest.mark.parametrize(
    'name', ['config.json', 'results.json', 'metrics.jsonl']
)
def test_a_report_names_a_file_and_does_without(copied, name, kind):
    harm(copied / name, DAMAGE[kind])
    run = runs.read(copied, runs.ALONE)
    why = 'is missing' if kind == 'gone' else 'is damaged: '
    (said,) = run.missing
    assert said.startswith(f'{name} {why}')
    read = {
        'config.json': run.setup,
        'results.json': run.results,
        'metrics.jsonl': run.records,
    }
    assert not read.pop(name)
    assert all(read.values())


def test_a_report_names_arrays_and_draws_the_others(copied):
    names = (*phase_files(0), *phase_files(2)[1:])
    for name in names:
        harm(copied / name, flip)
    drawn, notes = page.draw([runs.read(copied, runs.ALONE)])
    words = ' '.join([*notes['exemplars'], *notes['features']])
    told = [name for name in names if f'{name} is damaged: not what' in words]
    # Of exemplars at selection the first file that is damaged.
    assert told == [
        name for name in names if name != 'exemplars/selected_2.npz'
    ]
    figures = {'accuracy', 'confusion', 'losses', 'exemplars_last', 'border'}
    assert drawn.keys() == figures | {'phases'}


def test_a_kill_between_a_file_and_its_entry_accuses_no_file(
    saved_run, copied, monkeypatch
):
    """The last phase runs again, is killed there, and runs to its end."""
    before = contents(copied)
    for kind, number in (('phases', 2), ('steps', 0)):
        place = copied / 'checkpoints' / kind / str(number)
        shutil.rmtree(place, ignore_errors=True)
    add = manifest.add

    def kill(folder, names):
        if 'features/phase_2.npz' in names:
            raise KillError
        add(folder, names)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, 'add', kill)
        with pytest.raises(KillError):
            experiment.run(saved_run.parts, copied)
    for name in before:
        assert manifest.damage(copied, name) is None
    assert 'features/phase_2.npz' not in manifest.read(copied)
    experiment.run(saved_run.parts, copied)
    after = contents(copied)
    for name in before.keys() - {'results.json'}:  # It has times.
        assert after[name] == before[name], name
    entries = manifest.read(copied)
    assert entries.keys() == manifest.read(saved_run.workdir).keys()
    assert not any(manifest.damage(copied, name) for name in entries)


@pytest.mark.parametrize('name', ['files.json', *FILES])
def test_a_pipe_in_place_of_a_file_holds_nobody_up(saved_run, copied, name):
    (copied / name).unlink()
    os.mkfifo(copied / name)
    if name == 'files.json':
        with pytest.raises(ValueError, match='damaged'):
            manifest.read(copied)
    else:
        assert manifest.damage(copied, name)
    assert experiment.run(saved_run.parts, copied) == saved_run.results


def test_a_report_does_without_pipes(copied):
    for name in phase_files(2):
        (copied / name).unlink()
        os.mkfifo(copied / name)
    drawn, _ = page.draw([runs.read(copied, runs.ALONE)])
    assert 'exemplars_last' not in drawn
