"""Feeds of images in memory: by tf.data, and resident on the device.

Both must deliver the same batches, so both run through the same tests.
"""

import jax
import numpy as np
import pytest
from extras import needs_tfds

from mnemonics_jax.data import in_memory, on_device
from mnemonics_jax.data.batches import (
    BatchFeed,
    epoch_order,
    epoch_seed,
    num_batches,
)
from mnemonics_jax.data.device_batch import batch_images

NUM_IMAGES = 21
NUM_EXEMPLARS = 6
ARGUMENTS = {'seed': 3, 'phase': 1, 'stage': 2, 'epoch': 4}


def make_images():
    shape = (NUM_IMAGES, 4, 5, 3)
    return np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)


def make_labels():
    return (7 + np.arange(NUM_IMAGES + NUM_EXEMPLARS) % 4).astype(np.int32)


class Seen:
    """A feed whose batches are as a step sees them, with images."""

    def __init__(self, feed):
        self.feed = feed

    def epoch(self, order, **kwargs):
        for batch in self.feed.epoch(order, **kwargs):
            image = np.asarray(jax.jit(batch_images)(batch))
            rest = {k: batch[k] for k in ('label', 'index', 'weight')}
            yield {'image': image, **rest}


@pytest.fixture(params=[pytest.param('memory', marks=needs_tfds), 'resident'])
def make_feed(request):
    """Makes a feed of n images and of exemplars after them."""

    def make(batch_size=8, *, images=None, labels=None, shard=(0, 1)):
        images = make_images() if images is None else images
        labels = make_labels() if labels is None else labels
        if request.param == 'memory':
            deliver = in_memory.from_memory(images)
        else:
            deliver = on_device.from_device(images, 30, jax.device_put)
        feed = BatchFeed(
            deliver, labels, batch_size, num_images=len(images), shard=shard
        )
        return Seen(feed)

    return make


def make_order():
    n = NUM_IMAGES + NUM_EXEMPLARS
    return epoch_order(n, **ARGUMENTS)


def joined(batches):
    batches = list(batches)
    return {
        key: np.concatenate([batch[key] for batch in batches])
        for key in batches[0]
    }


def assert_same_batches(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])


def test_order_is_a_repeatable_permutation():
    order = epoch_order(100, **ARGUMENTS)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(order, epoch_order(100, **ARGUMENTS))
    assert epoch_order(0, **ARGUMENTS).shape == (0,)


def test_order_depends_on_every_number():
    variants = [ARGUMENTS]
    variants += [{**ARGUMENTS, key: 9} for key in ARGUMENTS]
    # Zeros and permuted numbers must not collide either.
    variants += [{**ARGUMENTS, key: 0} for key in ARGUMENTS]
    variants += [{'seed': 3, 'phase': 2, 'stage': 1, 'epoch': 4}]
    orders = {tuple(epoch_order(100, **variant)) for variant in variants}
    assert len(orders) == len(variants)


@pytest.mark.parametrize(
    ('n', 'expected'), [(0, 0), (1, 1), (8, 1), (9, 2), (16, 2)]
)
def test_num_batches(n, expected):
    assert num_batches(n, 8) == expected


def test_shapes_and_dtypes(make_feed):
    batches = list(make_feed().epoch(make_order()))
    assert len(batches) == num_batches(27, 8) == 4
    for batch in batches:
        assert {key: (v.shape, v.dtype) for key, v in batch.items()} == {
            'image': ((8, 4, 5, 3), np.uint8),
            'label': ((8,), np.int32),
            'index': ((8,), np.int32),
            'weight': ((8,), np.float32),
        }


def test_batches_are_the_order_and_padding(make_feed):
    order = make_order()
    found = joined(make_feed().epoch(order))
    n = len(order)
    np.testing.assert_array_equal(found['index'][:n], order)
    np.testing.assert_array_equal(found['label'][:n], make_labels()[order])
    np.testing.assert_array_equal(found['weight'], np.arange(32) < n)
    for key in found:
        assert not found[key][n:].any()


def test_images_and_exemplars(make_feed):
    order = make_order()
    found = joined(make_feed().epoch(order))['image'][: len(order)]
    stored = order >= NUM_IMAGES
    assert stored.sum() == NUM_EXEMPLARS
    np.testing.assert_array_equal(found[~stored], make_images()[order[~stored]])
    assert not found[stored].any()


def test_exemplars_alone(make_feed):
    feed = make_feed(2, images=make_images()[:0], labels=make_labels()[:3])
    found = joined(feed.epoch(np.array([2, 0, 1])))
    assert found['index'].tolist() == [2, 0, 1, 0]
    assert found['label'].tolist() == [9, 7, 8, 0]
    assert not found['image'].any()


def test_an_order_may_repeat_and_omit(make_feed):
    order = np.array([20, 20, 3])
    found = joined(make_feed(3).epoch(order))
    np.testing.assert_array_equal(found['image'], make_images()[order])


def test_epochs_of_one_feed_are_independent(make_feed):
    feed = make_feed()
    first, second = make_order(), make_order()[::-1]
    one, other = feed.epoch(first), feed.epoch(second)
    mixed = list(zip(one, other, strict=True))
    assert_same_batches([m[0] for m in mixed], list(make_feed().epoch(first)))
    assert_same_batches([m[1] for m in mixed], list(make_feed().epoch(second)))


@pytest.mark.parametrize('start_step', [0, 1, 3, 4])
def test_start_step_gives_the_rest_of_the_epoch(make_feed, start_step):
    whole = list(make_feed().epoch(make_order()))
    rest = list(make_feed().epoch(make_order(), start_step=start_step))
    assert_same_batches(rest, whole[start_step:])


def test_an_empty_order_gives_nothing(make_feed):
    assert not list(make_feed().epoch(np.zeros(0, np.int64)))


@pytest.mark.parametrize('start_step', [0, 2])
def test_shards_join_to_the_whole_batch(make_feed, start_step):
    order = make_order()
    whole = list(make_feed().epoch(order, start_step=start_step))
    shards = [
        make_feed(shard=(index, 4)).epoch(order, start_step=start_step)
        for index in range(4)
    ]
    parts = [joined(parts) for parts in zip(*shards, strict=True)]
    assert_same_batches(parts, whole)


def test_images_are_copied(make_feed):
    images, labels = make_images(), make_labels()
    feed = make_feed(images=images, labels=labels)
    images[:] = 0
    found = next(feed.epoch(np.arange(8)))
    np.testing.assert_array_equal(found['image'], make_images()[:8])


@needs_tfds
def test_tensorflow_sees_no_accelerator():
    tf = in_memory.tensorflow()
    assert not tf.config.get_visible_devices('GPU')
    assert not tf.config.get_visible_devices('TPU')


def test_refuses_shards_that_do_not_divide(make_feed):
    with pytest.raises(ValueError) as error:
        make_feed(10, shard=(0, 4))
    assert str(error.value) == (
        'batch_size=10: must be a multiple of 4, the number of processes'
    )


@pytest.mark.parametrize('position', [-1, 27])
def test_refuses_positions_that_do_not_exist(make_feed, position):
    with pytest.raises(ValueError) as error:
        next(make_feed().epoch(np.array([3, position])))
    low, high = sorted([3, position])
    assert str(error.value) == (
        f'order={low}..{high}: positions must be in 0..26'
    )


def test_the_seed_of_crops_depends_on_every_number():
    variants = [ARGUMENTS, {'seed': 3, 'phase': 2, 'stage': 1, 'epoch': 4}]
    variants += [{**ARGUMENTS, key: 9} for key in ARGUMENTS]
    variants += [{**ARGUMENTS, key: 0} for key in ARGUMENTS]
    seeds = [epoch_seed(**variant) for variant in variants]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == epoch_seed(**ARGUMENTS)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_resident_feed_copies_numbers_alone():
    images = make_images()
    put = []

    def count(images):
        put.append((images.rows.shape, images.shape))
        return jax.device_put(images)

    deliver = on_device.from_device(images, 30, count)
    feed = BatchFeed(deliver, make_labels(), 8, num_images=len(images))
    for _ in range(3):
        for batch in feed.epoch(make_order()):
            leaves = jax.tree.leaves(batch)
            on_host = [v for v in leaves if isinstance(v, np.ndarray)]
            assert {array.shape for array in on_host} == {(8,)}
    # Once, with the blank image.
    assert put == [((31, 1, 128), (4, 5, 3))]
