"""Feeds that decode images on the way, over real files."""

import io
import threading
import time

import numpy as np
import pytest
from extras import needs_tfds
from PIL import Image

from mnemonics_jax.data import decode, errors, in_memory, streaming
from mnemonics_jax.data.batches import BatchFeed

pytestmark = needs_tfds

NUM = 13
SIZE = 8
SHAPE = (SIZE, SIZE, 3)
BATCH = 4
BUDGET = streaming.PrefetchBudget(batches=2, threads=3)
VIEW = streaming.EvalView(SHAPE, shorter=10, flip=True, brightness=0.3)


@pytest.fixture(scope='module')
def files():
    """Encoded images of many sizes, most of them smooth."""
    random = np.random.default_rng(0)
    found = []
    for number in range(NUM):
        height, width = random.integers(9, 40, 2)
        low = random.integers(0, 256, (3, 3, 3)).astype(np.uint8)
        image = Image.fromarray(low).resize((int(width), int(height)))
        buffer = io.BytesIO()
        image.save(buffer, 'PNG' if number % 2 else 'JPEG')
        found.append(buffer.getvalue())
    return found


def originals(files, load=None):
    return streaming.EncodedImages(load or files.__getitem__, 'image {}'.format)


def make_feed(files, *, augmented, budget=BUDGET, shard=(0, 1), load=None):
    deliver = streaming.from_encoded(
        originals(files, load), VIEW, budget, augmented=augmented
    )
    labels = np.arange(NUM + 2, dtype=np.int32) % 5
    return BatchFeed(deliver, labels, BATCH, num_images=NUM, shard=shard)


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert set(one) == set(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


ORDER = np.random.default_rng(1).permutation(NUM + 2)


def test_evaluation_sees_what_a_feed_in_memory_shows(files):
    decoded = np.stack([decode.decode(data, 3, SIZE, 10) for data in files])
    labels = np.arange(NUM + 2, dtype=np.int32) % 5
    kept = BatchFeed(
        in_memory.from_memory(decoded), labels, BATCH, num_images=NUM
    )
    streamed = make_feed(files, augmented=False)
    assert_same_batches(streamed.epoch(ORDER), kept.epoch(ORDER))


def test_crops_are_those_of_the_seed_and_the_position(files):
    seed = 2**63 + 5
    for batch in make_feed(files, augmented=True).epoch(ORDER, seed=seed):
        for row in range(BATCH):
            index = int(batch['index'][row])
            if batch['weight'][row] == 0 or index >= NUM:
                assert not batch['image'][row].any()
                continue
            generator = np.random.Generator(np.random.Philox(key=(seed, index)))
            expected = decode.decode_crop(
                files[index],
                3,
                SIZE,
                generator.random(decode.NUM_DRAWS),
                flip=True,
                brightness=0.3,
            )
            np.testing.assert_array_equal(batch['image'][row], expected)


@pytest.mark.parametrize('start_step', [0, 2])
def test_crops_do_not_depend_on_threads_or_where_an_epoch_starts(
    files, start_step
):
    whole = list(make_feed(files, augmented=True).epoch(ORDER, seed=7))
    one_thread = make_feed(
        files,
        augmented=True,
        budget=streaming.PrefetchBudget(batches=1, threads=1),
    )
    rest = one_thread.epoch(ORDER, start_step=start_step, seed=7)
    assert_same_batches(rest, whole[start_step:])


def test_epochs_crop_differently(files):
    feed = make_feed(files, augmented=True)
    one, other = (next(feed.epoch(ORDER, seed=seed)) for seed in (1, 2))
    np.testing.assert_array_equal(one['index'], other['index'])
    assert (one['image'] != other['image']).any()


@pytest.mark.parametrize('augmented', [False, True])
def test_slices_of_four_processes_join_to_the_whole_batch(files, augmented):
    whole = make_feed(files, augmented=augmented).epoch(ORDER, seed=3)
    slices = [
        make_feed(files, augmented=augmented, shard=(i, 4)).epoch(ORDER, seed=3)
        for i in range(4)
    ]
    joined = [
        {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
        for parts in zip(*slices, strict=True)
    ]
    assert_same_batches(joined, whole)


@pytest.mark.parametrize(
    'sizes',
    [(1, 1), (2, 3), (5, 2)],
)
def test_reading_ahead_stays_within_its_budget(files, sizes):
    budget = streaming.PrefetchBudget(*sizes)
    lock, loaded = threading.Lock(), []

    def load(row):
        with lock:
            loaded.append(row)
        return files[row % NUM]

    order = np.tile(np.arange(NUM), 20)
    batches = make_feed(files, augmented=False, budget=budget, load=load).epoch(
        order
    )
    for taken in range(1, 4):
        next(batches)
        # Until nothing is read any more.
        before = -1
        while before != len(loaded):
            before = len(loaded)
            time.sleep(0.3)
        # What was made ahead, the batch in the making, and a chunk a thread.
        chunks = budget.threads * streaming.chunk_size(BATCH)
        most = (taken + budget.batches + 1) * BATCH + chunks
        assert taken * BATCH < len(loaded) <= most
    batches.close()


def test_a_plan_fills_the_memory_and_no_more():
    shape, ahead = (10, 10, 3), 2
    for memory in (20_000, 33_333, 50_000, 10**7):
        budget = streaming.plan(memory, 8, shape, ahead)
        batch = 8 * 300
        chunks = budget.threads * streaming.chunk_size(8) * 300
        used = (budget.batches + 1 + ahead) * batch + chunks
        assert used <= memory
        assert budget.batches == 16 or used + batch > memory


def test_a_plan_names_the_least_memory():
    with pytest.raises(ValueError) as error:
        streaming.plan(2**20, 256, (224, 224, 3), 2)
    message = str(error.value)
    assert message.startswith('data.read_ahead_mb=1: must be >= ')
    least = int(message.split('>= ')[1].split(maxsplit=1)[0])
    assert streaming.plan(least * 2**20, 256, (224, 224, 3), 2).batches == 1
    with pytest.raises(ValueError):
        streaming.plan((least - 1) * 2**20, 256, (224, 224, 3), 2)


@pytest.mark.parametrize('broken', [b'', b'no image', None])
def test_a_broken_image_is_named(files, broken):
    def load(row):
        data = files[row][:60] if broken is None else broken
        return data if row == 6 else files[row]

    feed = make_feed(files, augmented=True, load=load)
    with pytest.raises(errors.BadImageError, match=r'^image 6: '):
        list(feed.epoch(np.arange(NUM)))


def test_a_file_that_vanished_is_named(files):
    def load(row):
        if row == 2:
            raise FileNotFoundError(2, 'No such file or directory')
        return files[row]

    feed = make_feed(files, augmented=False, load=load)
    with pytest.raises(errors.BadImageError) as error:
        list(feed.epoch(np.arange(NUM)))
    assert str(error.value) == (
        'image 2: cannot be read: No such file or directory'
    )


def test_a_defect_keeps_its_own_error(files):
    def load(row):
        raise ZeroDivisionError('a defect')

    feed = make_feed(files, augmented=False, load=load)
    with pytest.raises(ZeroDivisionError, match='defect'):
        list(feed.epoch(np.arange(NUM)))
