"""Tests of mnemonics_jax.train.checkpoint."""

import gc
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from mnemonics_jax.core import parallel
from mnemonics_jax.data import encoded
from mnemonics_jax.train import checkpoint
from mnemonics_jax.train.checkpoint import (
    Checkpointer,
    LoopPosition,
    read_end,
)
from mnemonics_jax.types import Carry, ExemplarSet, Variables

RESULTS = [
    {
        'phase': 0,
        'accuracy': {'cnn': 0.1 + 0.2, 'nme': 1 / 3},
        'confusion': [[3, 0], [1, 2]],
        'names': ['zwei', 'three \u00fc'],
        'nothing': None,
        'done': True,
    }
]


class Halves(NamedTuple):
    """As states of loops are made: tuples, lists and structs in each other."""

    a: Any
    b: Any


def make_carry(storage='uint8', seed=0):
    """A carry with values that rounding would show in."""
    random = np.random.default_rng(seed)

    def values(*shape):
        return random.normal(size=shape).astype(np.float32)

    kernel = values(3, 4)
    kernel[0] = [np.float32(1e-42), -0.0, np.inf, np.nextafter(1, 2)]
    pixels = random.integers(0, 256, (5, 2, 2, 2, 1)).astype(np.uint8)
    if storage == 'float32':
        pixels = (pixels / 300).astype(np.float32)
    return Carry(
        variables=Variables(
            params={
                'trunk': {'Conv_0': {'kernel': kernel, 'bias': values(4)}},
                'head': {'kernel': values(5, 4), 'sigma': values()},
            },
            batch_stats={'Norm_0': {'mean': values(4), 'var': values(4) ** 2}},
        ),
        exemplars=ExemplarSet(pixels, random.random((5, 2)) < 0.5),
    )


def zeros_like(carry):
    return jax.tree.map(np.zeros_like, carry)


def assert_same_bits(found, expected):
    def check(x, y):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()

    jax.tree.map(check, found, expected)


def save(workdir, placement, phases, *, keep=2, storage='uint8'):
    """Saves a carry, with the phase as its seed, at the end of each phase."""
    with Checkpointer(workdir, keep=keep) as checkpointer:
        for phase in phases:
            carry = parallel.replicate(placement, make_carry(storage, phase))
            checkpointer.save(phase, carry, RESULTS * (phase + 1))
        checkpointer.wait()


def restore(workdir, placement, phase=None, storage='uint8'):
    like = parallel.replicate(placement, zeros_like(make_carry(storage)))
    with Checkpointer(workdir, keep=2) as checkpointer:
        latest = checkpointer.latest()
        return checkpointer.restore(latest if phase is None else phase, like)


def numbers(workdir):
    """Names of what stands in the folder of the ends of phases."""
    folder = workdir / 'checkpoints' / 'phases'
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('storage', ['uint8', 'float32'])
@pytest.mark.parametrize(
    ('written_on', 'restored_on'),
    [
        ('one_device', 'one_device'),
        ('all_devices', 'all_devices'),
        ('one_device', 'all_devices'),
        ('all_devices', 'one_device'),
    ],
)
def test_a_carry_comes_back_bit_for_bit(
    request, tmp_path, written_on, restored_on, storage
):
    source = request.getfixturevalue(written_on)
    target = request.getfixturevalue(restored_on)
    save(tmp_path, source, [0], storage=storage)
    found, results = restore(tmp_path, target, storage=storage)
    expected = make_carry(storage)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_same_bits(found, expected)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(found)}
    assert dtypes == {'float32', 'bool', storage}
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_equivalent_to(target.replicated, leaf.ndim)
        assert len(leaf.sharding.device_set) == target.num_devices
    assert results == RESULTS


def test_latest_is_none_before_the_first_save(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.latest() is None


def test_the_newest_are_kept_and_the_latest_is_the_last(tmp_path, one_device):
    save(tmp_path, one_device, range(4), keep=2)
    folders = numbers(tmp_path)
    assert folders == ['2', '3']
    found, results = restore(tmp_path, one_device)
    assert_same_bits(found, make_carry(seed=3))
    assert results == RESULTS * 4
    # One before the last can be gone back to.
    found, results = restore(tmp_path, one_device, phase=2)
    assert_same_bits(found, make_carry(seed=2))
    assert results == RESULTS * 3


def killed_before_the_commit(workdir, placement, phase, monkeypatch):
    """Saves a phase; returns the work directory as a kill would leave it.

    A folder becomes a checkpoint when it is renamed to the phase's number.
    """
    rename, image = os.rename, workdir.with_name('killed')

    def copy_first(source, target, **kwargs):
        if pathlib.Path(target).name == str(phase):
            shutil.copytree(workdir, image)
        return rename(source, target, **kwargs)

    monkeypatch.setattr(os, 'rename', copy_first)
    save(workdir, placement, [phase])
    monkeypatch.undo()
    return image


def test_a_write_that_was_cut_off_leaves_the_one_before_in_force(
    tmp_path, one_device, monkeypatch
):
    workdir = tmp_path / 'whole'
    save(workdir, one_device, [0])
    image = killed_before_the_commit(workdir, one_device, 1, monkeypatch)
    folders = numbers(image)
    assert len(folders) == 2
    assert folders[0] == '0'
    assert folders[1].startswith('1.')
    with Checkpointer(image, keep=2) as checkpointer:
        assert checkpointer.latest() == 0
    found, results = restore(image, one_device)
    assert_same_bits(found, make_carry(seed=0))
    assert results == RESULTS
    # The phase runs again, and is saved under the same number.
    save(image, one_device, [1])
    with Checkpointer(image, keep=2) as checkpointer:
        assert checkpointer.latest() == 1
    found, results = restore(image, one_device)
    assert_same_bits(found, make_carry(seed=1))
    assert results == RESULTS * 2


def test_what_is_saved_is_what_was_there_when_save_was_called(
    tmp_path, one_device
):
    """Saving continues in the background while the next phase begins."""
    carry = parallel.replicate(one_device, make_carry())
    results = [dict(RESULTS[0])]
    change = jax.jit(
        lambda tree: jax.tree.map(
            lambda x: x ^ True if x.dtype == bool else x + 1, tree
        ),
        donate_argnums=0,
    )
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save(0, carry, results)
        change(carry)
        for leaf in jax.tree.leaves(carry):
            leaf.delete()  # Not every version of JAX has done so by now.
        checkpointer.wait()
    found, results = restore(tmp_path, one_device)
    assert_same_bits(found, make_carry())
    assert results == RESULTS


@pytest.mark.parametrize('seed', range(8))
def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    tmp_path, one_device, seed
):
    """At a random byte of a random file; never is a wrong number read."""
    save(tmp_path, one_device, [3, 4])
    random = np.random.default_rng(seed)
    newest = tmp_path / 'checkpoints' / 'phases' / '4'
    files = sorted(f for f in newest.rglob('*') if f.is_file())
    file = files[random.integers(len(files))]
    os.truncate(file, random.integers(file.stat().st_size + 1))
    like = parallel.replicate(one_device, zeros_like(make_carry()))
    said = []
    with Checkpointer(tmp_path, keep=2, say=said.append) as checkpointer:
        found, results = checkpointer.restore_latest(like)
    gc.collect()  # Here, where they are expected.
    if not said:  # Not a file that reading needs.
        assert_same_bits(found, make_carry(seed=4))
        assert results == RESULTS * 5
        return
    assert_same_bits(found, make_carry(seed=3))
    assert results == RESULTS * 4
    assert len(said) == 1
    assert said[0].startswith(
        'checkpoint phases/4 cannot be read, moved to damaged/phases_4: '
    )
    assert (tmp_path / 'checkpoints' / 'damaged' / 'phases_4').is_dir()
    # The phase runs again, and is saved under the same number.
    save(tmp_path, one_device, [4])
    assert numbers(tmp_path) == ['3', '4']


@pytest.mark.parametrize('phase', [0, 1])
def test_a_pipe_in_a_checkpoint_holds_nobody_up(tmp_path, one_device, phase):
    """Reading the newest checkpoint, or opening the others to save."""
    save(tmp_path, one_device, [0, 1])
    place = tmp_path / 'checkpoints' / 'phases' / str(phase)
    for path in [p for p in place.rglob('*') if p.is_file()]:
        path.unlink()
        os.mkfifo(path)
    if phase == 0:
        save(tmp_path, one_device, [2])
        assert numbers(tmp_path) == ['1', '2']
        return
    assert checkpoint.read_setup(tmp_path) is None
    like = parallel.replicate(one_device, zeros_like(make_carry()))
    said = []
    with Checkpointer(tmp_path, keep=2, say=said.append) as checkpointer:
        found, _ = checkpointer.restore_latest(like)
    assert_same_bits(found, make_carry(seed=0))
    (line,) = said
    assert 'is not a file: must be a file' in line


def test_with_nothing_that_can_be_read_a_run_starts_anew(tmp_path, one_device):
    save(tmp_path, one_device, [0])
    newest = tmp_path / 'checkpoints' / 'phases' / '0'
    for file in newest.rglob('*'):
        if file.is_file():
            os.truncate(file, 0)
    like = parallel.replicate(one_device, zeros_like(make_carry()))
    said = []
    with Checkpointer(tmp_path, keep=2, say=said.append) as checkpointer:
        assert checkpointer.restore_latest(like) is None
    gc.collect()
    assert len(said) == 1


def grown_carry(num_new):
    """A carry for further classes, with values of its own everywhere."""

    def grow(leaf):
        rows = np.full((num_new, *leaf.shape[1:]), 7, leaf.dtype)
        return np.concatenate([np.full_like(leaf, 9), rows])

    carry = make_carry()
    head = carry.variables.params['head']
    params = {
        **carry.variables.params,
        'head': {**head, 'kernel': grow(head['kernel'])},
    }
    return Carry(
        carry.variables.replace(params=params),
        jax.tree.map(grow, carry.exemplars),
    )


@pytest.mark.parametrize('target', ['one_device', 'all_devices'])
def test_rows_of_further_classes_are_those_of_the_carry_that_asks(
    request, tmp_path, one_device, target
):
    """Also in the state of a loop, whatever kinds of nodes it is made of."""
    placement = request.getfixturevalue(target)
    saved = make_carry()
    tx = optax.sgd(0.1, momentum=0.9)

    def state_of(carry):
        head = carry.variables.params['head']
        return Halves((carry, tx.init(head)), [carry.exemplars.mask])

    save(tmp_path, one_device, [0])
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        state = parallel.replicate(one_device, state_of(saved))
        checkpointer.save_within(
            LoopPosition(1, {'adjust': 4}, 0, []), {'adjust': state}
        )
    like = parallel.replicate(placement, grown_carry(2))
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        found, _ = checkpointer.restore_latest(like)
        assert checkpointer.position(1).stages == {'adjust': 4}
        state = checkpointer.state('adjust', state_of(like))
    assert isinstance(state, Halves)
    for one in (found, state.a[0]):
        kernel = one.variables.params['head']['kernel']
        np.testing.assert_array_equal(
            kernel[:5], saved.variables.params['head']['kernel']
        )
        np.testing.assert_array_equal(kernel[5:], 7)
        mask = np.asarray(one.exemplars.mask)
        np.testing.assert_array_equal(mask[:5], saved.exemplars.mask)
        assert mask[5:].all()
        assert kernel.sharding.is_equivalent_to(placement.replicated, 2)
        np.testing.assert_array_equal(
            one.variables.params['trunk']['Conv_0']['bias'],
            saved.variables.params['trunk']['Conv_0']['bias'],
        )
    momentum = state.a[1][0].trace['kernel']
    assert momentum.shape == (7, 4)


def encoded_carry(rows, num_classes, slots):
    """A carry with encoded images, whose decoded ones say nothing of them."""
    carry = make_carry()
    exemplars = ExemplarSet(
        np.full((num_classes, slots, 2, 2, 1), 7, np.uint8),
        np.zeros((num_classes, slots), bool),
    )
    joined = encoded.join(rows, num_classes, slots)
    exemplars = exemplars.replace(mask=joined.lengths > 0)
    return Carry(carry.variables, exemplars, joined)


def test_encoded_images_are_saved_in_place_of_decoded_ones(
    tmp_path, one_device
):
    """Byte for byte, also where there are more classes and slots by now."""
    rows = [[b'ab', b'c'], [], [bytes(range(256))]]

    def placed(carry):
        arrays = carry.variables, carry.exemplars
        return Carry(*parallel.replicate(one_device, arrays), carry.encoded)

    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save(0, placed(encoded_carry(rows, 3, 2)), RESULTS)
    like = placed(encoded_carry([], 5, 3))
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        found, _ = checkpointer.restore_latest(like)
    assert encoded.split(found.encoded) == [*rows, [], []]
    assert found.encoded.lengths.shape == (5, 3)
    np.testing.assert_array_equal(
        found.exemplars.mask, found.encoded.lengths > 0
    )
    # Those of `like`: they are to be decoded.
    assert np.all(np.asarray(found.exemplars.images) == 7)
    read, _, _ = read_end(tmp_path, 0)
    assert encoded.split(read.encoded) == rows
    assert read.exemplars.images.size == 0


def test_shared_pixels_that_have_grown_are_shared_anew(tmp_path, all_devices):
    """Eight rows are no multiple of three devices, twelve are."""
    three = parallel.make_placement(list(all_devices.mesh.devices.flat)[:3])
    before = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 8, 2, 2, 1)
    after = np.full((2, 12, 2, 2, 1), -1, np.float32)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save_within(
            LoopPosition(1, {'adjust': 4}, 0, []),
            {'adjust': {'pixels': parallel.share(three, before, axis=1)}},
        )
        checkpointer.wait()
        like = {'pixels': parallel.share(three, after, axis=1)}
        found = checkpointer.state('adjust', like)['pixels']
    assert found.sharding == like['pixels'].sharding
    assert found.addressable_shards[0].data.shape[1] == 4
    np.testing.assert_array_equal(found[:, :8], before)
    np.testing.assert_array_equal(found[:, 8:], -1)


def test_only_complete_checkpoints_are_listed(tmp_path, monkeypatch):
    phases = tmp_path / 'checkpoints' / 'phases'
    for name in ('0', '12', '²', '1.orbax-checkpoint-tmp', 'x'):
        (phases / name).mkdir(parents=True)
    assert checkpoint.ends(tmp_path) == [0, 12]
    # In a bucket they have their names from the start.
    (phases / '0' / 'commit_success.txt').touch()
    monkeypatch.setattr(checkpoint.workdirs, 'address', lambda path: path)
    assert checkpoint.ends(tmp_path) == [0]
