"""Two ways of feeding, one result: whole runs of the real command."""

import json
import pathlib
import subprocess
import sys

import compiling
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
# TensorFlow cannot be imported: whoever tries fails.
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None
runpy.run_module('mnemonics_jax.main', run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def npz(tmp_path_factory):
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
    path = tmp_path_factory.mktemp('data') / 'images.npz'
    np.savez(path, **arrays)
    return path


def results_of(workdir):
    results = json.loads((workdir / 'results.json').read_text())
    del results['config']
    for phase in results['phases']:
        del phase['seconds']
    return results


def run(config, workdir, *start):
    done = subprocess.run(
        [
            *(sys.executable, *start),
            f'--config={config}',
            f'--workdir={workdir}',
            f'--config.data.feed={workdir.name}',
        ],
        cwd=ROOT,
        # With kernels that round as those of users do.
        env=compiling.one_device(XLA_FLAGS=compiling.UNOPTIMIZED),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_device_feeds_the_same_and_without_tensorflow(
    tiny_config, npz, tmp_path
):
    """Equal results and exemplars, bit for bit."""
    for field in ('num_classes', 'train_per_class', 'test_per_class'):
        tiny_config.data[field] = None
    tiny_config.data.image_size = tiny_config.data.channels = None
    tiny_config.data.source = 'arrays'
    tiny_config.data.dir = str(npz)
    config = tmp_path / 'config.py'
    config.write_text(
        'from ml_collections import config_dict\n'
        'from mnemonics_jax.config import default_config\n'
        'def get_config():\n'
        '    config = default_config()\n'
        f'    values = {tiny_config.to_dict()!r}\n'
        '    config.update(values)\n'
        '    return config\n'
    )
    run(config, tmp_path / 'device', '-c', WITHOUT_TENSORFLOW)
    run(config, tmp_path / 'tfdata', '-m', 'mnemonics_jax.main')
    assert results_of(tmp_path / 'device') == results_of(tmp_path / 'tfdata')
    for phase in range(3):
        one, other = (
            np.load(tmp_path / feed / 'exemplars' / f'phase_{phase}.npz')
            for feed in ('device', 'tfdata')
        )
        assert set(one.files) == {'images', 'mask', 'classes', 'class_names'}
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
