"""Bad input of every kind to the real command: one line, nothing lost."""

import io
import json
import shutil

import numpy as np
import pytest
from command import assert_refused, run
from data_arrays_test import write as write_arrays
from data_folder_test import CLASSES, photo, spoil, write_folder
from data_tfds_test import write_set

# `--config.x=y` on top of configs/folder.py: the least that runs.
TINY = {
    'data.image_size': 8,
    'data.pad': 1,
    'protocol.base_classes': 2,
    'protocol.phases': 1,
    'backbone.name': 'convnet_tiny',
    'method.name': 'finetune',
    'weight_transfer': False,
    'train.epochs': 1,
    'train.batch_size': 8,
    'exemplars.strategy': 'none',
    'evaluate.batch_size': 8,
}


def run_fields(workdir, config, fields, **limits):
    """Runs a configuration with fields changed."""
    flags = [f'--config.{name}={value}' for name, value in fields.items()]
    return run(f'--config={config}', f'--workdir={workdir}', *flags, **limits)


def run_folder(root, workdir, **fields):
    """Runs on a folder; `a__b` for the field `a.b`."""
    changes = {name.replace('__', '.'): v for name, v in fields.items()}
    fields = {**TINY, 'data.dir': root, **changes}
    return run_fields(workdir, 'configs/folder.py', fields)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


# What is done to a folder of three classes, and what is said of it.
BAD_FOLDERS = {
    'a missing directory': (
        shutil.rmtree,
        ['data.dir=', '{root}', 'no such directory'],
    ),
    'a class without images': (
        lambda root: empty(root / 'train' / 'bee'),
        ['{root}/train/bee: no image, but'],
    ),
    'classes that differ': (
        lambda root: (root / 'validation' / 'cow').rename(
            root / 'validation' / 'dog'
        ),
        ['data.dir=', "class 'cow' is in train, not in validation"],
    ),
}


@pytest.mark.parametrize('name', BAD_FOLDERS)
def test_a_bad_folder_is_refused(name, tmp_path):
    spoil_folder, words = BAD_FOLDERS[name]
    root = write_folder(tmp_path / 'photos')
    spoil_folder(root)
    done = run_folder(root, tmp_path / 'run')
    assert_refused(done, *(word.format(root=root) for word in words))
    assert not (tmp_path / 'run').exists()


# Fields that do not go with a folder of three classes of three images.
BAD_FIELDS = {
    'more exemplars than a class has': (
        {'exemplars__strategy': 'herding', 'exemplars__per_class': 3},
        ['exemplars.per_class=3', 'at most 2', "'cow'"],
    ),
    'more phases than classes': (
        {'protocol__phases': 7},
        ['protocol.phases=7', 'must be a divisor of 1'],
    ),
    'crops of originals on the device': (
        {
            'data__feed': 'device',
            'data__pad': 0,
            'data__random_resized_crop': True,
        },
        ['data.feed=device', 'data.random_resized_crop=True', 'tfdata'],
    ),
    'little memory to read ahead': (
        {'data__image_size': 224, 'data__read_ahead_mb': 1},
        ['data.read_ahead_mb=1', 'must be >= ', 'batches of ', '224x224'],
    ),
    'a crop larger than the image': (
        {'data__image_size': 32, 'data__eval_resize': 31},
        ['data.eval_resize=31', '>= data.image_size=32'],
    ),
    'padding and crops of originals': (
        {'data__random_resized_crop': True},
        ['data.pad=1', 'data.random_resized_crop=True', 'must be 0'],
    ),
}


@pytest.mark.parametrize('name', BAD_FIELDS)
def test_fields_that_do_not_fit_a_folder_are_refused(name, tmp_path):
    fields, words = BAD_FIELDS[name]
    root = write_folder(tmp_path / 'photos')
    (root / 'train' / 'cow' / '1.png').unlink()
    assert_refused(run_folder(root, tmp_path / 'run', **fields), *words)
    assert not (tmp_path / 'run').exists()


BAD_ARRAYS = {
    'dtype': (
        {'train_images': np.zeros((12, 5, 4, 3), np.float32)},
        ['train_images', 'float32', 'uint8'],
    ),
    'rank': (
        {'train_images': np.zeros((12, 5, 4), np.uint8)},
        ['train_images', 'rank 3', 'must be 4'],
    ),
    'labels': (
        {'test_labels': np.array([0, 1, 2, 3, 0, 0])},
        ['test_labels', 'label 3', '0..2'],
    ),
    'missing': ({'test_labels': None}, ['test_labels: missing']),
    'no npz': (None, ['no .npz file']),
}


@pytest.mark.parametrize('name', BAD_ARRAYS)
def test_bad_arrays_are_refused(name, tmp_path):
    changes, words = BAD_ARRAYS[name]
    path = tmp_path / 'images.npz'
    if changes is None:
        path.write_text('train_images: none')
    else:
        write_arrays(path, **changes)
    done = run_fields(
        tmp_path / 'run',
        'configs/digits.py',
        {'data.source': 'arrays', 'data.dir': path},
    )
    assert_refused(done, f"data.dir='{path}'", *words)
    assert not (tmp_path / 'run').exists()


def test_a_field_that_does_not_exist_is_refused_in_a_file(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        'from mnemonics_jax.config import default_config\n'
        'def get_config():\n'
        '    config = default_config()\n'
        '    config.data.nmae = "cifar100"\n'
        '    return config\n'
    )
    done = run(f'--config={path}', f'--workdir={tmp_path / "run"}')
    assert_refused(done, f'--config={path}', "no field 'nmae'", 'nearest: name')
    assert not (tmp_path / 'run').exists()


def test_a_damaged_work_directory_is_refused(tmp_path):
    path = tmp_path / 'run' / 'config.json'
    path.parent.mkdir()
    path.write_text('{"config"')
    done = run(f'--workdir={path.parent}')
    assert_refused(done, str(path), 'no configuration of a run')
    assert path.read_text() == '{"config"'


BAD_ARGUMENTS = {
    'configs/cifar100.py:phasess=5': ["'phasess'", 'one of phases, method'],
    'configs/cifar100.py:phases=x': ["phases='x'", 'an integer >= 0'],
    'configs/digits.py:phases=5': ['configs/digits.py:phases=5', 'argument'],
    'README.md': ['README.md', 'line'],
}


@pytest.mark.parametrize('config', BAD_ARGUMENTS)
def test_a_bad_configuration_file_is_refused(config, tmp_path):
    workdir = tmp_path / 'run'
    done = run(f'--config={config}', f'--workdir={workdir}')
    assert_refused(done, *BAD_ARGUMENTS[config])
    assert not workdir.exists()


def test_a_missing_configuration_file_with_a_field_is_refused():
    done = run('--config=configs/absent.py', '--config.seed=1')
    assert_refused(done, '--config=configs/absent.py')


def test_a_configuration_file_may_follow_a_blank():
    """Had it been taken for none, the default's fields would be in the way."""
    done = run('--config', 'configs/folder.py', '--config.train.epochs=many')
    assert_refused(done, 'flag --config.train.epochs=many')


def test_a_misspelt_name_of_tfds_is_refused_with_the_nearest(tmp_path):
    done = run_fields(
        tmp_path / 'run',
        'configs/cifar100.py',
        {'data.name': 'cifar1000', 'data.dir': tmp_path},
    )
    assert_refused(done, "data.name='cifar1000'", 'nearest: cifar100, cifar10')
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_full_for_the_labels_is_refused(tmp_path):
    """They are kept for sets that are not held in memory."""
    file = io.BytesIO()
    photo().save(file, 'PNG')
    examples = [
        {'image': io.BytesIO(file.getvalue()), 'label': number % 101}
        for number in range(505)
    ]
    splits = {'train': examples, 'validation': examples[:101]}
    builder = write_set('food101', tmp_path, splits, 'array_record')
    done = run_fields(
        tmp_path / 'run',
        'configs/cifar100.py',
        {'data.name': 'food101', 'data.dir': tmp_path, 'data.image_size': 8},
        largest_file=1500,
    )
    path = builder.data_path / 'mnemonics_labels_train.npy'
    assert_refused(done, f'{path}: cannot be written: File too large')
    assert not list(builder.data_path.glob('mnemonics_labels_train*'))
    assert not (tmp_path / 'run').exists()


def image_of_last_class(root):
    """A training image of the only class of phase 1."""
    order = np.arange(3)
    np.random.RandomState(1993).shuffle(order)
    return root / 'train' / CLASSES[order[-1]] / '1.png'


def test_a_bad_image_stops_a_run_that_goes_on_once_it_is_mended(tmp_path):
    root, workdir = write_folder(tmp_path / 'photos'), tmp_path / 'run'
    path = image_of_last_class(root)
    good = path.read_bytes()
    path.write_bytes(good[:-30])
    done = run_folder(root, workdir, data__feed='device')
    assert_refused(done, f'{path}: broken: ')
    results = json.loads((workdir / 'results.json').read_text())
    assert len(results['phases']) == 1
    path.write_bytes(good)
    done = run_folder(root, workdir, data__feed='device')
    assert done.returncode == 0, done.stderr
    assert 'resuming after phase 0' in done.stdout
    finished = json.loads((workdir / 'results.json').read_text())
    assert finished['complete']
    assert finished['phases'][:1] == results['phases']
    assert len(finished['phases']) == 2


def test_a_bad_image_stops_a_run_that_streams(tmp_path):
    root, workdir = write_folder(tmp_path / 'photos'), tmp_path / 'run'
    for folder in (root / 'train').glob('*/'):
        spoil(folder / '2.png', 'empty')
    done = run_folder(root, workdir, data__memory_mb=0)
    assert_refused(done, f'{root}/train/', '/2.png: empty')
    assert not (workdir / 'results.json').exists()


def test_bad_images_are_left_out_counted_and_listed(tmp_path):
    root, workdir = write_folder(tmp_path / 'photos'), tmp_path / 'run'
    for name, how in zip(CLASSES, ('empty', 'text', 'PNG'), strict=True):
        spoil(root / 'train' / name / '1.png', how)
    done = run_folder(
        root,
        workdir,
        data__feed='device',
        data__on_bad_image='skip',
        protocol__base_classes=3,
        protocol__phases=0,
    )
    assert done.returncode == 0, done.stderr
    assert 'skipped 3 images that cannot be read' in done.stdout
    results = json.loads((workdir / 'results.json').read_text())
    assert results['complete']
    assert [entry.split(': ')[:2] for entry in results['skipped_images']] == [
        [f'{root}/train/ant/1.png', 'empty'],
        [f'{root}/train/bee/1.png', 'no JPEG, PNG, BMP, GIF image'],
        [f'{root}/train/cow/1.png', 'broken'],
    ]
