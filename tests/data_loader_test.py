"""Which way examples take to the model, and what is read for that."""

import io

import jax
import numpy as np
import pytest
from extras import needs_tfds
from PIL import Image

from mnemonics_jax.data import decode, streaming
from mnemonics_jax.data.device_batch import batch_images
from mnemonics_jax.data.loader import Loader, Settings
from mnemonics_jax.data.sources import Encoded, Source

SHAPE = (6, 6, 3)
ORDER = np.array([3, 0, 4, 1, 2])
BOUNDS = [(0, 2), (2, 3), (3, 5)]
# Of the original labels 0..4.
SIZES = {'train': (7, 5, 9, 6, 4), 'test': (2, 3, 2, 1, 2)}
ONE_IMAGE = int(np.prod(SHAPE))
FEEDS = [pytest.param('tfdata', marks=needs_tfds), 'device']


class Shelf:
    """A source of encoded images that keeps a list of what is taken."""

    def __init__(self):
        self.taken = []
        self.labels = {
            split: np.repeat(np.arange(5, dtype=np.int32), sizes)
            for split, sizes in SIZES.items()
        }
        random = np.random.default_rng(0)
        self.files = {
            split: [self.encode(random) for _ in labels]
            for split, labels in self.labels.items()
        }

    def encode(self, random):
        pixels = random.integers(0, 256, SHAPE).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, 'PNG')
        return buffer.getvalue()

    def load(self, split, position):
        self.taken.append((split, position))
        return self.files[split][position]

    def read(self, split, positions):
        return np.stack(
            [decode.decode(self.load(split, p), 3, 6) for p in positions]
        )

    def source(self, *, encoded):
        return Source(
            num_classes=5,
            image_shape=SHAPE,
            mean=(0.5,) * 3,
            std=(0.2,) * 3,
            class_names=tuple('abcde'),
            labels=self.labels,
            read=self.read,
            encoded=Encoded(self.load, '{} {}'.format) if encoded else None,
        )


def make_loader(shelf, *, feed='tfdata', memory=10**6, crops=False, **kwargs):
    settings = Settings(
        feed=feed,
        memory=memory,
        view=streaming.EvalView(SHAPE, flip=True),
        budget=streaming.PrefetchBudget(batches=1, threads=2),
        crops=crops,
        shard=(0, 1),
        put=jax.device_put,
    )
    return Loader(shelf.source(**kwargs), ORDER, BOUNDS, settings)


def all_images(feed, num):
    return np.concatenate(
        [
            np.asarray(batch_images(batch))[batch['weight'] > 0]
            for batch in feed.epoch(np.arange(num), seed=1)
        ]
    )


@pytest.mark.parametrize('feed', FEEDS)
def test_a_phase_is_read_once_and_no_other_class_with_it(feed):
    shelf = Shelf()
    examples = make_loader(shelf, feed=feed, encoded=True).examples(
        'train', 2, 5
    )
    assert shelf.taken == []
    for _ in range(2):
        for augmented in (False, True):
            shown = all_images(
                examples.feed(4, augmented=augmented), len(examples.labels)
            )
    wanted = np.flatnonzero(np.isin(shelf.labels['train'], ORDER[2:5]))
    assert sorted(shelf.taken) == [('train', p) for p in wanted]
    np.testing.assert_array_equal(shown, shelf.read('train', wanted))
    np.testing.assert_array_equal(shown[[5, 0]], examples.read([5, 0]))
    names = shelf.labels['train'][wanted]
    np.testing.assert_array_equal(ORDER[examples.labels], names)


@needs_tfds
def test_what_does_not_fit_is_decoded_in_every_pass():
    shelf = Shelf()
    num = SIZES['train'][3] + SIZES['train'][0]
    loader = make_loader(shelf, memory=num * ONE_IMAGE - 1, encoded=True)
    examples = loader.examples('train', 0, 2)
    shown = [all_images(examples.feed(4), num) for _ in range(2)]
    assert len(shelf.taken) == 2 * num
    np.testing.assert_array_equal(*shown)
    np.testing.assert_array_equal(examples.read([3, 1]), shown[0][[3, 1]])
    # And is kept where it fits.
    shelf.taken.clear()
    fits = make_loader(shelf, memory=num * ONE_IMAGE, encoded=True)
    kept = fits.examples('train', 0, 2)
    for _ in range(2):
        np.testing.assert_array_equal(all_images(kept.feed(4), num), shown[0])
    assert len(shelf.taken) == num


@needs_tfds
def test_a_source_in_memory_is_never_streamed():
    loader = make_loader(Shelf(), memory=0, crops=True, encoded=False)
    examples = loader.examples('train', 0, 2)
    num = len(examples.labels)
    plain, augmented = (
        all_images(examples.feed(4, augmented=flag), num)
        for flag in (False, True)
    )
    np.testing.assert_array_equal(plain, augmented)


@needs_tfds
def test_random_crops_are_of_originals_and_for_training_alone():
    shelf = Shelf()
    examples = make_loader(shelf, crops=True, encoded=True).examples(
        'train', 0, 2
    )
    num = len(examples.labels)
    plain = all_images(examples.feed(4), num)
    assert len(shelf.taken) == num
    np.testing.assert_array_equal(plain, examples.read(np.arange(num)))
    cropped = [all_images(examples.feed(4, augmented=True), num) for _ in '12']
    assert len(shelf.taken) == 3 * num
    np.testing.assert_array_equal(*cropped)
    assert (cropped[0] != plain).any(axis=(1, 2, 3)).sum() > num // 2


def test_later_phases_share_the_shape_of_what_lies_on_the_device():
    loader = make_loader(Shelf(), feed='device', encoded=True)

    def rows(split, low, high):
        examples = loader.examples(split, low, high)
        batch = next(examples.feed(2).epoch(np.arange(2)))
        return len(batch['pool'].rows) - 1  # Without the blank image.

    order = [SIZES['train'][k] for k in ORDER]
    assert rows('train', 0, 2) == order[0] + order[1]
    assert rows('train', 2, 3) == rows('train', 3, 5) == order[3] + order[4]
    # All that were seen: as large as the last phase needs, from phase 1 on.
    assert rows('train', 0, 3) == rows('train', 0, 5) == sum(order)
    assert rows('test', 0, 3) == rows('test', 0, 5) == sum(SIZES['test'])


@pytest.mark.parametrize('feed', FEEDS)
def test_without_images_a_feed_consists_of_exemplars(feed):
    loader = make_loader(Shelf(), feed=feed, encoded=True)
    labels = np.array([4, 2, 2], np.int32)
    exemplars = loader.no_examples().feed(2, exemplar_labels=labels)
    found = list(exemplars.epoch(np.array([2, 0, 1])))
    assert [list(batch['label']) for batch in found] == [[2, 4], [2, 0]]
    assert all(batch_images(batch).shape == (2, *SHAPE) for batch in found)
    assert not any(np.asarray(batch_images(batch)).any() for batch in found)
