"""Tests of mnemonics_jax.exemplars.memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.exemplars import memory
from mnemonics_jax.types import ExemplarSet

K = 5
SHAPE = (2, 3, 1)

put_rows = jax.jit(memory.put_rows)
shrink = jax.jit(memory.shrink)
halves = jax.jit(memory.halves)
merge_halves = jax.jit(memory.merge_halves)
to_storage = jax.jit(memory.to_storage, static_argnums=1)


def make_memory(slots, storage, seed=0):
    """A memory with unequal counts, and something in the empty slots too."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(K, slots, *SHAPE))
    counts = np.array([slots, 1, slots - 1, 0, 2])
    return ExemplarSet(
        images=memory.to_storage(jnp.float32(images), storage),
        mask=jnp.asarray(np.arange(slots) < counts[:, None]),
    )


def assert_equal(found, expected):
    assert found.images.dtype == expected.images.dtype
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.mask, expected.mask)


# Capacity.


@pytest.mark.parametrize(
    ('per_class', 'total', 'num_seen', 'num_available', 'expected'),
    [
        (20, 0, 50, 500, 20),
        (20, 0, 100, 500, 20),
        (20, 0, 100, 7, 7),
        (0, 2000, 50, 500, 40),
        (0, 2000, 60, 500, 33),
        (0, 2000, 100, 500, 20),
        (0, 2000, 3, 500, 500),
        (0, 9, 10, 500, 0),
    ],
)
def test_capacity(per_class, total, num_seen, num_available, expected):
    found = memory.capacity(
        per_class=per_class,
        total=total,
        num_seen=num_seen,
        num_available=num_available,
    )
    assert found == expected


@pytest.mark.parametrize('total', [7, 100, 2000])
def test_a_shared_memory_is_never_exceeded_and_shared_out(total):
    for num_seen in range(1, 8):
        found = memory.capacity(
            per_class=0, total=total, num_seen=num_seen, num_available=10**6
        )
        assert found * num_seen <= total < (found + 1) * num_seen


# Storage.


def test_to_storage_rounds_and_clips():
    images = np.random.default_rng(1).uniform(-0.5, 1.5, (50, 40))
    images = images.astype(np.float32)
    clipped = np.minimum(np.maximum(images, 0), 1)
    found = to_storage(images, 'uint8')
    assert found.dtype == np.uint8
    levels = np.floor(clipped.astype(np.float64) * 255 + 0.5)
    np.testing.assert_array_equal(found, levels)
    found = to_storage(images, 'float32')
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, clipped)


def test_to_storage_is_the_nearest_grey_level():
    images = np.linspace(0, 1, 5001, dtype=np.float32)
    stored = np.asarray(to_storage(images, 'uint8')).astype(np.float64)
    assert np.abs(stored / 255 - images).max() <= 0.5 / 255 + 1e-7
    assert set(stored) == set(range(256))


def test_grey_levels_survive_a_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    for _ in range(3):
        stored = to_storage(to_float(levels), 'uint8')
        np.testing.assert_array_equal(stored, levels)
        levels = stored


def test_truncation_would_lower_grey_levels():
    """What the docstring says of the authors' code, and rounding cures."""
    levels = np.arange(256, dtype=np.float32)
    mean = np.float32([0.5071, 0.4866, 0.4409])[:, None]
    std = np.float32([0.2009, 0.1984, 0.2023])[:, None]
    normalised = (levels / np.float32(255) - mean) / std
    back = normalised * std + mean
    lowered = (np.trunc(back * 255) == levels - 1).mean(1)
    assert np.all((lowered > 1 / 7.5) & (lowered < 1 / 4))
    stored = to_storage(back, 'uint8')
    np.testing.assert_array_equal(stored, np.tile(levels, (3, 1)))


@pytest.mark.parametrize('storage', ['uint8', 'float32'])
def test_an_empty_memory(storage):
    held = memory.empty(K, 4, SHAPE, storage)
    assert held.images.shape == (K, 4, *SHAPE)
    assert held.images.dtype == storage
    assert not held.images.any()
    assert held.mask.shape == (K, 4)
    assert not held.mask.any()


# Writing and dropping.


@pytest.mark.parametrize('storage', ['uint8', 'float32'])
def test_put_rows_writes_its_rows_and_no_others(storage):
    held = make_memory(4, storage)
    images = np.random.default_rng(2).uniform(0, 1, (2, 3, *SHAPE))
    images = np.asarray(to_storage(images.astype(np.float32), storage))
    mask = np.array([[1, 1, 1], [1, 0, 0]], bool)
    found = put_rows(held, images, mask, np.int32(1))
    new_images, new_mask = np.array(held.images), np.array(held.mask)
    new_images[1:3, :3] = images
    new_images[1:3, 3] = 0
    new_mask[1:3] = [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert_equal(found, ExemplarSet(new_images, new_mask))


def test_put_rows_drops_rows_past_the_last():
    held = make_memory(4, 'uint8')
    images = np.full((2, 3, *SHAPE), 51, np.uint8)
    found = put_rows(held, images, np.ones((2, 3), bool), np.int32(K - 1))
    assert_equal(
        jax.tree.map(lambda x: x[:-1], found),
        jax.tree.map(lambda x: x[:-1], held),
    )
    assert np.all(found.images[-1, :3] == 51)
    assert found.mask[-1].tolist() == [True, True, True, False]


@pytest.mark.parametrize('storage', ['uint8', 'float32'])
@pytest.mark.parametrize(
    'num_kept', [(0,) * K, (2,) * K, (4,) * K, (4, 0, 1, 3, 2)]
)
def test_shrink_keeps_the_first_ranks_and_erases_the_rest(storage, num_kept):
    """Of all classes as many, or of each its own number."""
    held = make_memory(4, storage)
    kept = np.arange(4) < np.array(num_kept)[:, None]
    found = shrink(held, kept if len(set(num_kept)) > 1 else kept[0])
    images, mask = np.array(held.images), np.array(held.mask)
    for k in range(K):
        for rank in range(4):
            if rank >= num_kept[k] or not mask[k, rank]:
                images[k, rank], mask[k, rank] = 0, False
    assert_equal(found, ExemplarSet(images, mask))


# Halves.


@pytest.mark.parametrize('slots', [4, 5])
def test_halves_hold_even_and_odd_ranks(slots):
    held = make_memory(slots, 'uint8')
    half_a, half_b = jax.device_get(halves(held, np.int32(3)))
    levels, mask = np.asarray(held.images), np.asarray(held.mask)
    for half, first in ((half_a, 0), (half_b, 1)):
        assert half.images.shape == (K, -(-slots // 2), *SHAPE)
        assert half.images.dtype == np.float32
        for k in range(K):
            ranks = [r for r in range(first, slots, 2) if mask[k, r] and k < 3]
            assert half.mask[k].sum() == len(ranks)
            np.testing.assert_allclose(
                half.images[k][half.mask[k]], levels[k, ranks] / 255, rtol=1e-6
            )
    # Balanced over classes: with an odd count A has one more.
    more = np.sum(half_a.mask, 1) - np.sum(half_b.mask, 1)
    np.testing.assert_array_equal(more[:3], mask.sum(1)[:3] % 2)
    assert not more[3:].any()


@pytest.mark.parametrize('storage', ['uint8', 'float32'])
@pytest.mark.parametrize('slots', [4, 5])
@pytest.mark.parametrize('num_classes', [0, 3, K])
def test_unchanged_halves_merge_to_the_memory(storage, slots, num_classes):
    held = make_memory(slots, storage)
    parts = halves(held, np.int32(num_classes))
    assert_equal(merge_halves(held, *parts), held)


@pytest.mark.parametrize('storage', ['uint8', 'float32'])
@pytest.mark.parametrize('slots', [4, 5])
def test_changed_halves_land_in_their_own_slots_only(storage, slots):
    held = make_memory(slots, storage)
    half_a, half_b = halves(held, np.int32(3))
    half_a = half_a.replace(images=jnp.full_like(half_a.images, 0.2))
    # Beyond white: storage clips.
    half_b = half_b.replace(images=jnp.full_like(half_b.images, 1.5))
    found = merge_halves(held, half_a, half_b)
    grey, white = (51, 255) if storage == 'uint8' else (np.float32(0.2), 1)
    images, mask = np.array(held.images), np.asarray(held.mask)
    for k in range(3):
        for rank in range(slots):
            if mask[k, rank]:
                images[k, rank] = white if rank % 2 else grey
    assert_equal(found, ExemplarSet(images, mask))


# Shapes.


def test_no_count_changes_a_shape_or_a_program():
    held = make_memory(6, 'uint8', seed=3)
    images, mask = np.zeros((2, 4, *SHAPE), np.uint8), np.ones((2, 4), bool)
    programs = [put_rows, shrink, halves, merge_halves]
    sizes = []
    for count in (np.int32(0), np.int32(2), np.int32(K)):
        written = put_rows(held, images, mask, count)
        parts = halves(shrink(written, np.arange(6) < count), count)
        merged = merge_halves(written, *parts)
        assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, held)
        sizes.append([program._cache_size() for program in programs])
    assert sizes[0] == sizes[1] == sizes[2]


# Lists and drift.


def test_drift_is_the_mean_change_of_masked_images():
    rng = np.random.default_rng(4)
    before, after = rng.uniform(size=(2, 6, *SHAPE)).astype(np.float32)
    mask = np.array([1, 0, 1, 1, 0, 0], bool)
    changes = np.abs(after - before)[mask] * 255
    drift = jax.jit(memory.drift_grey_levels)
    np.testing.assert_allclose(
        drift(before, after, mask), changes.mean(), rtol=1e-5
    )
    assert drift(before, before, mask) == 0
    assert drift(before, after, np.zeros(6, bool)) == 0
    # One grey level up or down everywhere is a drift of one.
    signs = np.sign(after - before)
    np.testing.assert_allclose(
        drift(before, before + signs / np.float32(255), mask), 1, rtol=1e-4
    )
