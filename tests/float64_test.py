"""Runs in float64, on one and on eight devices, and with JAX's float64 on."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import assert_refused, call, call_main
from jax import export as jax_export
from safetensors.numpy import load_file

from mnemonics_jax import backbones, experiment, export
from mnemonics_jax.backbones import heads, logit_correction
from mnemonics_jax.core import rng
from mnemonics_jax.data import augment
from mnemonics_jax.experiment import finished
from tests import float64_runs
from tests.float64_runs import EIGHT, FLOAT32, ONE

# 1 device = 8 devices, relative to the largest entry of an array. The largest
# of all was 3e-15 when this was written.
BOUND = 1e-12
# Float32 against float64; the largest was 6e-7.
ROUNDING = 1e-4


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The runs of `float64_runs`, made by a process with JAX's float64 on."""
    folder = tmp_path_factory.mktemp('float64')
    done = subprocess.run(
        [sys.executable, float64_runs.__file__, str(folder)],
        env={**os.environ, 'JAX_ENABLE_X64': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def float64_off_again():
    yield
    jax.config.update('jax_enable_x64', False)


def arrays_of(folder, name):
    with np.load(folder / f'{name}.npz') as file:
        return dict(file)


def gap(ours, theirs):
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def test_a_float64_run_on_eight_devices_is_that_on_one(folder):
    one, eight = arrays_of(folder, ONE), arrays_of(folder, EIGHT)
    assert one.keys() == eight.keys()
    num_real = 0
    for name, expected in one.items():
        found = eight[name]
        if "['memory']" in name:  # The mask, and pixels of 8 bits.
            np.testing.assert_array_equal(found, expected, name)
            continue
        assert found.dtype == expected.dtype == np.float64, name
        assert gap(found, expected) <= BOUND, name
        # Float32 in between would leave no such array.
        num_real += np.any(expected != expected.astype(np.float32))
    assert num_real == len(one) - 4
    found, expected = (
        float64_runs.confusions(folder / name) for name in (EIGHT, ONE)
    )
    assert len(found) == 2
    assert found == expected


def test_a_float32_run_with_float64_on_is_the_float64_run_but_for_rounding(
    folder,
):
    found, expected = arrays_of(folder, FLOAT32), arrays_of(folder, ONE)
    assert len(found) > 20
    for name, array in found.items():
        if "['memory']" in name:
            assert array.dtype in (np.uint8, bool)
        else:
            assert array.dtype == np.float32, name
            assert gap(array, expected[name]) <= ROUNDING, name
    phases = [float64_runs.confusions(folder / name) for name in (FLOAT32, ONE)]
    assert phases[0] == phases[1][:1]


def test_no_draw_depends_on_whether_float64_is_on():
    """Initial parameters, minibatches, augmentation and directions of rows."""
    augmentation = augment.Augmentation(flip=True, brightness=0.3)
    padded = augmentation._replace(pad=2)
    cropped = augmentation._replace(resized_crop=True)
    backbone = backbones.make_backbone(
        'convnet_tiny',
        num_classes=3,
        image_shape=(8, 8, 1),
        mean=(0.5,),
        std=(0.25,),
    )

    def draw(key, images):
        variables = logit_correction.wrap(backbone).init(key)
        numbers = jnp.arange(len(images))
        return (
            variables,
            rng.draw_minibatches(key, images[:, 0, 0, 0] > 0.1, 2, 3),
            augment.augment(key, images, numbers, padded),
            augment.augment(key, images, numbers, cropped),
            heads.redraw_rows(key, variables.params['head'], 1, 3),
        )

    images = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    expected = jax.jit(draw)(jax.random.key(0), images)
    with jax.enable_x64(True):
        found = jax.jit(draw)(jax.random.key(0), images)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_from_python_a_float64_run_needs_float64_on(
    folder, tiny_config, tmp_path
):
    tiny_config.precision = 'float64'
    with pytest.raises(ValueError, match=r"precision='float64': must have"):
        experiment.prepare(tiny_config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ValueError, match=r"precision='float64': must have"):
        finished.restore_phase(folder / ONE, -1)


def test_the_command_turns_float64_on_and_off(
    tmp_path, monkeypatch, float64_off_again
):
    def prepare(config, place, **more):
        del more
        raise ValueError(f'{config.precision} {jnp.zeros(()).dtype}')

    monkeypatch.setattr(experiment, 'prepare', prepare)
    for precision in ('float32', 'float64', 'float32'):
        done = call_main(
            f'--workdir={tmp_path}', f'--config.precision={precision}'
        )
        assert_refused(done, f'{precision} {precision}')


def test_an_export_has_all_bits_of_a_float64_run(
    folder, tmp_path, float64_off_again
):
    out = tmp_path / 'export'
    done = call(lambda: export.main([str(folder / ONE), f'--out={out}']))
    assert done.returncode == 0, done.stderr
    kernel = load_file(out / 'model.safetensors')['params.head.kernel']
    assert kernel.dtype == np.float64
    name = "['phases'][1]['models'][0].params['head']['kernel']"
    np.testing.assert_array_equal(kernel, arrays_of(folder, ONE)[name])
    config = json.loads((out / 'model.json').read_text())['config']
    assert config['precision'] == 'float64'
    # The program runs in a process that has no float64, too.
    jax.config.update('jax_enable_x64', False)
    data = (out / 'inference.jax').read_bytes()
    info = json.loads((out / 'inference.json').read_text())
    images = np.zeros((3, *info['input_shape'][1:]), np.uint8)
    scores = np.asarray(jax_export.deserialize(data).call(images))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
