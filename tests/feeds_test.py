"""Two ways of feeding, one result, and which of them `data.feed=auto` is."""

import json
import pathlib
import subprocess
import sys

import compiling
import jax
import ml_collections
import numpy as np
import pytest
from command import assert_refused, call_main
from data_folder_test import write_folder
from extras import needs_tfds

from mnemonics_jax import config as config_lib
from mnemonics_jax.core import parallel
from mnemonics_jax.data import sources
from mnemonics_jax.experiment import data

ROOT = pathlib.Path(__file__).parent.parent
# During the first run TensorFlow cannot be imported: whoever tries fails.
BOTH = """
import sys
blocked = ('tensorflow', 'tensorflow_datasets')
sys.modules.update(dict.fromkeys(blocked))
from mnemonics_jax import config as config_lib, experiment
config = config_lib.default_config()
config.update(eval(sys.argv[2]))
def run(feed, name):
    config.data.feed, workdir = feed, f'{sys.argv[1]}/{name}'
    parts = experiment.prepare(config, workdir)
    assert parts.config.data.feed == name
    experiment.run(parts, workdir)
run('auto', 'device')
for name in blocked:
    del sys.modules[name]
run('tfdata', 'tfdata')
assert 'tensorflow' in sys.modules
run('auto', 'tfdata')  # As it began; it has finished.
"""


def write_stripes(path):
    """Six classes of stripes, 12 images each to train on."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, each in (('train', 12), ('test', 6)):
        labels = np.repeat(np.arange(6), each)
        phase = labels[:, None, None, None] + random.random((6 * each, 1, 1, 1))
        stripes = np.sin(phase + np.arange(8)[:, None] * (1 + phase / 4))
        noise = random.normal(0, 0.2, (6 * each, 8, 8, 1))
        pixels = 127 + 80 * (stripes[..., :] + noise)
        arrays[f'{split}_images'] = np.clip(pixels, 0, 255).astype(np.uint8)
        arrays[f'{split}_labels'] = labels
    np.savez(path, **arrays)


def results_of(workdir):
    results = json.loads((workdir / 'results.json').read_text())
    del results['config']
    for phase in results['phases']:
        del phase['seconds']
    return results


@needs_tfds
def test_the_device_feeds_the_same_and_without_tensorflow(
    tiny_config, tmp_path
):
    """Equal results and exemplars, bit for bit."""
    write_stripes(tmp_path / 'images.npz')
    for field in ('num_classes', 'train_per_class', 'test_per_class'):
        tiny_config.data[field] = None
    tiny_config.data.image_size = tiny_config.data.channels = None
    tiny_config.data.source = 'arrays'
    tiny_config.data.dir = str(tmp_path / 'images.npz')
    tiny_config.protocol.update(base_classes=3, phases=1)
    done = subprocess.run(
        [sys.executable, '-c', BOTH, tmp_path, repr(tiny_config.to_dict())],
        cwd=ROOT,
        # With kernels that round as those of users do.
        env=compiling.one_device(XLA_FLAGS=compiling.UNOPTIMIZED),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / 'device') == results_of(tmp_path / 'tfdata')
    for phase in range(2):
        one, other = (
            np.load(tmp_path / feed / 'exemplars' / f'phase_{phase}.npz')
            for feed in ('device', 'tfdata')
        )
        assert set(one.files) == {'images', 'mask', 'classes', 'class_names'}
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


SHAPE = (4, 4, 1)
LABELS = {'train': [0, 0, 0, 1, 1, 2], 'test': [0, 1, 2, 2]}


def a_source(*, encoded=False):
    return sources.Source(
        num_classes=3,
        image_shape=SHAPE,
        mean=(0.5,),
        std=(0.2,),
        class_names=('a', 'b', 'c'),
        labels={k: np.array(v, np.int32) for k, v in LABELS.items()},
        read=None,
        encoded=sources.Encoded(None, None) if encoded else None,
    )


def test_the_largest_phase_has_its_own_images_and_all_test_images():
    order, bounds = np.array([2, 1, 0]), ((0, 1), (1, 2), (2, 3))
    known = {'source': a_source(), 'order': order, 'bounds': bounds}
    assert data.most_images(**known, all_seen=False) == 3 + 4
    assert data.most_images(**known, all_seen=True) == 6 + 4
    whole = {**known, 'bounds': ((0, 2), (2, 3))}
    assert data.most_images(**whole, all_seen=False) == 3 + 4


class Accelerators:
    platform, num_devices, shard = 'gpu', 8, (0, 2)


MIB = 2**20 // int(np.prod(SHAPE))  # Images.


@pytest.mark.parametrize(
    ('images', 'where', 'room', 'fields', 'feed'),
    [
        (2 * MIB, 1, None, {}, 'device'),
        (2 * MIB + MIB, 1, None, {}, 'tfdata'),
        # Devices of one machine's memory have a copy each.
        (MIB, 2, None, {}, 'device'),
        (MIB, 3, None, {}, 'tfdata'),
        # Others have their own memory.
        (2 * MIB, Accelerators, 8 * 2**20, {}, 'device'),
        (2 * MIB, Accelerators, 8 * 2**20 - 4, {}, 'tfdata'),
        (1, 1, None, {'random_resized_crop': True}, 'tfdata'),
        (9 * MIB, 1, None, {'feed': 'device'}, 'device'),
        (1, 1, None, {'feed': 'tfdata'}, 'tfdata'),
    ],
)
def test_auto_is_the_device_where_the_images_fit(
    images, where, room, fields, feed, monkeypatch
):
    monkeypatch.setattr(data.tf_import, 'is_installed', lambda: True)
    monkeypatch.setattr(parallel, 'room_on_device', lambda: room)
    if isinstance(where, int):
        where = parallel.make_placement(jax.devices()[:where])
    config = config_lib.default_config()
    assert config.data.feed == 'auto'
    config.data.update(memory_mb=2, **fields)
    config = ml_collections.FrozenConfigDict(config)
    source = a_source(encoded=True)
    chosen = data.choose_feed(config, source, where, images)
    assert chosen.data.feed == feed
    rest = data.with_feed(chosen, config.data.feed)
    assert rest.to_dict() == config.to_dict()


EXTRA = "install the extra tfds: pip install 'mnemonics-jax[tfds]'"
FOLDER = '--config=configs/folder.py --config.data.dir={here}/photos'


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ('--config.data.feed=tfdata', 'data.feed=tfdata: needs TensorFlow'),
        (
            '--config.data.memory_mb=0',
            'data.feed=auto: the images of a phase take 1 MB, more than '
            'data.memory_mb=0: needs TensorFlow',
        ),
        (
            f'{FOLDER} --config.data.pad=0 --config.data.image_size=8 '
            '--config.data.random_resized_crop=True',
            'data.feed=auto: data.random_resized_crop=True crops the original '
            'images: needs TensorFlow',
        ),
        (
            '--config=configs/cifar100.py --config.data.dir={here}',
            'data.source=tfds: needs TensorFlow',
        ),
    ],
)
def test_what_needs_tensorflow_names_the_extra(
    flags, words, tmp_path, monkeypatch
):
    for name in ('tensorflow', 'tensorflow_datasets'):
        monkeypatch.setitem(sys.modules, name, None)
    write_folder(tmp_path / 'photos')
    flags = flags.format(here=tmp_path).split()
    done = call_main(*flags, f'--workdir={tmp_path}/run')
    assert_refused(done, words, EXTRA)
    assert not (tmp_path / 'run').exists()
