"""Two ways of feeding, one result: whole runs."""

import json
import pathlib
import subprocess
import sys

import compiling
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
# During the first run TensorFlow cannot be imported: whoever tries fails.
BOTH = """
import sys
blocked = ('tensorflow', 'tensorflow_datasets')
sys.modules.update(dict.fromkeys(blocked))
from mnemonics_jax import config as config_lib, experiment
config = config_lib.default_config()
config.update(eval(sys.argv[2]))
def run(feed):
    config.data.feed, workdir = feed, f'{sys.argv[1]}/{feed}'
    experiment.run(experiment.prepare(config, workdir), workdir)
run('device')
for name in blocked:
    del sys.modules[name]
run('tfdata')
assert 'tensorflow' in sys.modules
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
        timeout=300,
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
