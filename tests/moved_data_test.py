"""Runs whose data lie elsewhere, are fed otherwise, or have changed."""

import json
import os
import shutil
import signal

import numpy as np
from bad_images_test import image_of_last_class, run_folder
from command import assert_refused
from data_folder_test import write_folder
from data_labels_test import write_csv
from data_splits_test import pack

from mnemonics_jax.train.metric_writer import Recorder

HERDING = {'exemplars__strategy': 'herding', 'finetune__epochs': 1}


def outcome(workdir):
    """What a run has found, without times and its configuration."""
    results = json.loads((workdir / 'results.json').read_text())
    for phase in results['phases']:
        del phase['seconds']
    del results['config']
    files = sorted((workdir / 'exemplars').glob('*.npz'))
    arrays = [dict(np.load(file)) for file in files]
    return results, [{k: v.tolist() for k, v in a.items()} for a in arrays]


def stop_at(monkeypatch, num_records):
    """Asks the run to stop when so many records are written."""
    record = Recorder.record

    def stopping(self, *args, **kwargs):
        record(self, *args, **kwargs)
        if self.num_records == num_records:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, 'record', stopping)


def test_a_run_goes_on_with_moved_data_and_less_memory_bit_for_bit(
    tmp_path, monkeypatch
):
    """From the middle of phase 1, kept in memory, to decoding in each pass.

    The folder becomes an archive, and the CSV of its classes moves as well.
    For the feeds' programs, which the tests' flags have rounded in their own
    ways, `feeds_test` has the same.
    """
    root = write_folder(tmp_path / 'photos')
    rows = [
        (str(path.relative_to(root)), path.parent.name, path.parts[-3])
        for path in sorted(root.rglob('*.png'))
    ]
    write_csv(tmp_path / 'old.csv', rows, ('file', 'label', 'split'))
    begin = {
        **HERDING,
        'data__feed': 'tfdata',
        'data__labels': 'old.csv',
        'train__epochs': 3,
    }
    done = run_folder(root, tmp_path / 'whole', **begin)
    assert done.returncode == 0, done.stderr
    with monkeypatch.context() as patch:
        # Phase 0 has 3 epochs of training and one of fine-tuning.
        stop_at(patch, 5)
        done = run_folder(root, tmp_path / 'run', **begin)
    assert done.returncode == 75, done.stderr
    disk = tmp_path / 'another disk'
    disk.mkdir()
    begin['data__labels'] = shutil.move(tmp_path / 'old.csv', disk / 'new.csv')
    there = shutil.move(pack(root, 'tar.gz'), disk)
    done = run_folder(
        there,
        tmp_path / 'run',
        **begin,
        data__memory_mb=0,
        data__read_ahead_mb=8,
    )
    assert done.returncode == 0, done.stderr
    assert 'resuming in phase 1 of 0..1, train, after step' in done.stdout
    assert outcome(tmp_path / 'run') == outcome(tmp_path / 'whole')
    recorded = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert recorded['config']['data']['dir'] == str(there)
    assert recorded['images']['train'] == {'ant': 3, 'bee': 3, 'cow': 3}


def test_learned_classes_must_stay_what_they_were(tmp_path):
    root, workdir = write_folder(tmp_path / 'photos'), tmp_path / 'run'
    done = run_folder(root, workdir, protocol__stop_after_phase=0)
    assert done.returncode == 0, done.stderr
    before = (workdir / 'config.json').read_text()
    later = image_of_last_class(root)
    learned = sorted({'ant', 'bee', 'cow'} - {later.parent.name})
    first, second = (root / 'train' / name for name in learned)
    (first / '1.png').unlink()
    with (second / '2.png').open('ab') as file:
        file.write(b'more')
    later.unlink()
    done = run_folder(root, workdir)
    assert_refused(
        done,
        f"data.dir='{root}': must have",
        f"'{learned[0]}': 2 training images instead of 3, ",
        f"'{learned[1]}': as many images, but not the same; to go on ",
        'data.on_changed=continue',
    )
    assert later.parent.name not in done.stderr
    assert (workdir / 'config.json').read_text() == before
    done = run_folder(root, workdir, data__on_changed='continue')
    assert done.returncode == 0, done.stderr
    assert 'going on with changed data: class ' in done.stdout
    assert f"classes to come: class '{later.parent.name}': 2 tr" in done.stdout
    done = run_folder(root, workdir)
    assert 'already finished' in done.stdout


def test_images_that_vanish_in_the_middle_of_their_phase_stop_it(
    tmp_path, monkeypatch
):
    root, workdir = write_folder(tmp_path / 'photos'), tmp_path / 'run'
    fields = {'data__feed': 'device', 'train__epochs': 3}
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        assert run_folder(root, workdir, **fields).returncode == 75
    path = image_of_last_class(root)
    path.unlink()
    done = run_folder(root, workdir, **fields)
    assert_refused(done, f"class '{path.parent.name}': 2 training images")
    more = {'data__on_changed': 'continue', 'steps_per_dispatch': 2}
    done = run_folder(root, workdir, **fields | more | {'data__feed': 'tfdata'})
    assert done.returncode == 0, done.stderr
    assert 'resuming in phase 1' in done.stdout
