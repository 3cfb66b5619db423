"""Images that cannot be read: one line, nothing lost."""

import json

import numpy as np
from command import assert_refused, call_main
from data_bad_files_test import spoil
from data_folder_test import CLASSES, write_folder

from mnemonics_jax.data.pillow import FORMATS

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
    'train.milestones': '()',
    'train.batch_size': 8,
    'exemplars.strategy': 'none',
    'evaluate.batch_size': 8,
}


def run_folder(root, workdir, **fields):
    """Runs on a folder; `a__b` for the field `a.b`."""
    changes = {name.replace('__', '.'): v for name, v in fields.items()}
    fields = {**TINY, 'data.dir': root, **changes}
    return call_main(
        '--config=configs/folder.py',
        f'--workdir={workdir}',
        *(f'--config.{name}={value}' for name, value in fields.items()),
    )


def image_of_last_class(root):
    """A training image of the only class of phase 1."""
    order = np.arange(3)
    np.random.RandomState(1993).shuffle(order)
    return root / 'train' / CLASSES[order[-1]] / '1.png'


def test_a_bad_image_stops_a_run_that_resumes_once_it_is_mended(tmp_path):
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


def test_a_link_that_leads_nowhere_stops_a_run_before_it_trains(tmp_path):
    root, workdir = write_folder(tmp_path / 'photos'), tmp_path / 'run'
    link = root / 'train' / 'ant' / 'link.png'
    link.symlink_to('/nowhere')
    done = run_folder(root, workdir, data__feed='device')
    assert_refused(done, f'{link}: cannot be read: No such file or directory')
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
        [f'{root}/train/bee/1.png', f'no {", ".join(FORMATS)} image'],
        [f'{root}/train/cow/1.png', 'broken'],
    ]
