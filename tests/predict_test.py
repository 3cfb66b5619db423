"""Predictions for image files, by a saved phase."""

import csv
import io
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
from command import run_module

from mnemonics_jax import predict
from mnemonics_jax.core import cli, manifest
from tests import saved_runs


@pytest.fixture(autouse=True)
def as_loud_as_before(monkeypatch):
    """The commands quieten a process of their own, not this one."""
    monkeypatch.setattr(cli, 'quieten', lambda: None)


@pytest.fixture(scope='module')
def without_data(saved_run, tmp_path_factory):
    """The work directory alone, elsewhere, as a user may have it."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    shutil.copytree(saved_run.workdir, workdir)
    config = json.loads((workdir / 'config.json').read_text())
    config['config']['data']['dir'] = '/nowhere'
    (workdir / 'config.json').write_text(json.dumps(config))
    (workdir / manifest.NAME).unlink()  # It vouches for what the run wrote.
    return workdir


def counted(run, rows):
    """Confusion counts of the first guesses for files of the test split."""
    names = list(run.parts.plan.classes)
    counts = np.zeros((len(names), len(names)), int)
    for file, guess in rows:
        true = saved_runs.NAMES[pathlib.Path(file).parent.name]
        counts[names.index(true), names.index(guess)] += 1
    return counts.tolist()


@pytest.mark.parametrize('classifier', ['cnn', 'nme', 'finetuned'])
def test_guesses_are_those_that_evaluation_counts(
    saved_run, without_data, tmp_path, classifier
):
    out = tmp_path / 'found.json'
    predict.main(
        [
            str(without_data),
            str(saved_run.data / 'validation'),
            f'--classifier={classifier}',
            '--format=json',
            f'--out={out}',
        ]
    )
    found = json.loads(out.read_text())
    assert found['classifier'] == classifier
    assert found['phase'] == 2
    assert found['skipped'] == []
    rows = [(one['image'], one['top'][0]['class']) for one in found['images']]
    expected = saved_run.results['phases'][-1]
    assert counted(saved_run, rows) == expected['confusion'][classifier]
    hits = 0
    for one in found['images']:
        assert len(one['top']) == 5
        kind = 'cosine' if classifier == 'nme' else 'probability'
        scores = [guess[kind] for guess in one['top']]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] >= -1
        assert sum(scores[:1]) <= 1
        true = saved_runs.NAMES[pathlib.Path(one['image']).parent.name]
        hits += true in [guess['class'] for guess in one['top']]
    share = hits / len(found['images'])
    assert share == pytest.approx(expected['top5_accuracy'][classifier])


def test_probabilities_of_all_classes_add_up_to_one(saved_run, capsys):
    file = next((saved_run.data / 'validation').rglob('*.png'))
    predict.main([str(saved_run.workdir), str(file), '--top=99'])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row['rank'] for row in rows] == [str(i) for i in range(1, 7)]
    assert {row['image'] for row in rows} == {str(file)}
    assert {row['class'] for row in rows} == set(saved_runs.NAMES.values())
    total = sum(float(row['probability']) for row in rows)
    assert total == pytest.approx(1, abs=1e-5)


def test_several_images_are_told_in_the_order_of_their_names(saved_run, capsys):
    files = sorted((saved_run.data / 'validation').rglob('*.png'))
    found = []
    for given in ([files[4], '--top=1', files[0]], [files[0].parent]):
        predict.main([str(saved_run.workdir), *map(str, given), '--top=1'])
        found.append([*csv.DictReader(io.StringIO(capsys.readouterr().out))])
    named, folder = found
    assert [row['image'] for row in named] == [str(files[4]), str(files[0])]
    assert named[1] in folder


def test_the_command_takes_a_folder_and_the_head_that_judges(
    saved_run, without_data, tmp_path
):
    """Real names and files in folders; what is hidden or no image is not."""
    folder = tmp_path / 'some images'
    shutil.copytree(saved_run.data / 'validation', folder)
    (folder / 'notes.txt').write_text('no image')
    (folder / 'a.heic').write_text('of a phone')
    (folder / 'linked').symlink_to(saved_run.data)
    (folder / '.hidden').mkdir()
    (folder / '.hidden' / 'a.png').write_text('no image')
    done = run_module('predict', without_data, folder, '--top=1')
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f'skipped {folder}/{name}: not an image by its name'
        for name in ('a.heic', 'linked', 'notes.txt')
    ]
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ['image', 'rank', 'class', 'probability']
    guesses = [(row['image'], row['class']) for row in rows]
    assert guesses == sorted(guesses, key=lambda row: row[0])
    expected = saved_run.results['phases'][-1]['confusion']['cnn']
    assert counted(saved_run, guesses) == expected


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        predict.main([str(a) for a in arguments])
    assert left.value.code == 2
    found = capsys.readouterr()
    assert found.out == ''
    (line,) = found.err.splitlines()
    assert line.startswith('error: ')
    return line


def test_an_image_that_cannot_be_read_is_named(saved_run, tmp_path, capsys):
    (tmp_path / 'good.png').write_bytes(
        next((saved_run.data / 'train').rglob('*.png')).read_bytes()
    )
    whole = (tmp_path / 'good.png').read_bytes()
    (tmp_path / 'torn.png').write_bytes(whole[: len(whole) // 2])
    line = refused(capsys, saved_run.workdir, tmp_path)
    assert str(tmp_path / 'torn.png') in line
    (tmp_path / 'torn.png').unlink()
    (tmp_path / 'link.png').symlink_to('/nowhere')
    line = refused(capsys, saved_run.workdir, tmp_path)
    assert f'{tmp_path}/link.png: cannot be read: No such file' in line
    (tmp_path / 'text.txt').write_text('no image')
    line = refused(capsys, saved_run.workdir, tmp_path / 'text.txt')
    assert 'text.txt: no JPEG' in line


def unfinished(saved_run, tmp_path, what):
    """A work directory as it is missing, begun, or damaged."""
    workdir = tmp_path / 'run'
    if what == 'missing':
        return workdir
    workdir.mkdir()
    if what == 'empty':
        return workdir
    shutil.copy(saved_run.workdir / 'config.json', workdir)
    if what == 'torn config':
        path = workdir / 'config.json'
        path.write_text(path.read_text()[:-100])
    if what == 'killed while it saved':
        target = workdir / 'checkpoints' / 'phases' / '0.orbax-checkpoint-tmp'
        target.mkdir(parents=True)
    if what == 'damaged':
        target = workdir / 'checkpoints' / 'phases'
        shutil.copytree(
            saved_run.workdir / 'checkpoints' / 'phases' / '2', target / '2'
        )
        files = [f for f in (target / '2' / 'carry').rglob('*') if f.is_file()]
        for file in files:
            file.write_bytes(file.read_bytes()[:-7])
    return workdir


@pytest.mark.parametrize(
    ('what', 'words'),
    [
        ('missing', ['no config.json', 'of a run']),
        ('empty', ['no config.json', 'of a run']),
        ('torn config', ['config.json', 'no configuration of a run']),
        ('begun', ['no checkpoint of a finished phase']),
        ('killed while it saved', ['no checkpoint of a finished phase']),
        ('damaged', ['phases/2', 'cannot be read']),
    ],
)
def test_a_run_that_has_finished_no_phase_is_one_line(
    saved_run, tmp_path, capsys, what, words
):
    workdir = unfinished(saved_run, tmp_path, what)
    before = sorted(workdir.rglob('*'))
    image = next((saved_run.data / 'train').rglob('*.png'))
    line = refused(capsys, workdir, image)
    for word in words:
        assert word in line
    # Nothing is written, and nothing moved.
    assert sorted(workdir.rglob('*')) == before


def test_images_of_any_kind_are_seen_as_the_folder_sees_them(
    saved_run, tmp_path, capsys
):
    """Grey, large and turned by EXIF, beside what decoding makes of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    image = PIL.Image.fromarray(pixels)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned by 90 degrees.
    image.save(tmp_path / 'turned.png', exif=exif)
    side = image.rotate(-90, expand=True).crop((0, 10, 40, 50))
    plain = side.convert('RGB').resize((8, 8), PIL.Image.Resampling.BILINEAR)
    plain.save(tmp_path / 'plain.png')
    predict.main([str(saved_run.workdir), str(tmp_path)])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    half = len(rows) // 2
    for ours, theirs in zip(rows[:half], rows[half:], strict=True):
        assert ours['class'] == theirs['class']
        assert ours['probability'] == theirs['probability']
