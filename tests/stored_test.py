"""What is stored of exemplars: budgets of bytes, arrays, counts, decoders."""

import io

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax.data import encoded, sources, storage
from mnemonics_jax.exemplars import stored
from mnemonics_jax.experiment import byte_budget
from mnemonics_jax.types import ExemplarSet
from tests import storage_images

SHAPE = (16, 16, 3)
CODECS = {
    '4:2:0': ('jpeg', SHAPE, 50, '4:2:0'),
    '4:4:4': ('jpeg', SHAPE, 80, '4:4:4'),
    'webp': ('webp', SHAPE, 40),
    'uint8': ('uint8', SHAPE),
}
compressed = pytest.mark.parametrize('name', ['4:2:0', '4:4:4', 'webp'])
every = pytest.mark.parametrize('name', CODECS)


def make(name):
    return storage.make(*CODECS[name])


def make_rows(seed=0):
    """Images f32[4, 5, *SHAPE] of unequal bytes, and unequal numbers used."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(4, 5, *SHAPE))
    # From hardly any noise to much of it, in any order of ranks.
    strength = rng.permuted(np.linspace(0.05, 1, 20)).reshape(4, 5, 1, 1, 1)
    images = (0.5 + strength * (images - 0.5)).astype(np.float32)
    return images, np.arange(5) < np.array([5, 3, 0, 4])[:, None]


def by_loop(codec, images, mask, budget):
    """The encoded images of each row, as many as fit: one after the other."""
    rows = []
    for row, used in zip(images, mask, strict=True):
        streams, left = [], budget
        for image in row[used]:
            [stream] = codec.encode(image[None])
            left -= len(stream)
            if left < 0:
                break
            streams.append(stream)
        rows.append(streams)
    return rows


def by_pillow(codec, stream):
    """An encoded image as anyone reads the file."""
    if codec.compresses:
        with Image.open(io.BytesIO(codec.header + stream)) as image:
            return np.asarray(image.convert('RGB'))
    return np.frombuffer(stream, np.uint8).reshape(SHAPE)


@every
def test_the_longest_prefix_of_ranks_within_a_budget_is_stored(name):
    codec = make(name)
    images, mask = make_rows()
    sizes = [len(x) for x in by_loop(codec, images, mask, 10**9)[0]]
    budgets = {int(size) for size in np.cumsum(sizes)}
    # To the byte, and at random.
    budgets |= {size - 1 for size in budgets}
    budgets |= set(np.random.default_rng(1).integers(1, sum(sizes), 8).tolist())
    found_counts = set()
    for budget in sorted(budgets):
        rows = stored.store(codec, images, mask, budget)
        expected = by_loop(codec, images, mask, budget)
        assert rows.encoded == expected
        assert max(sum(map(len, row)) for row in rows.encoded) <= budget
        counts = [len(row) for row in expected]
        np.testing.assert_array_equal(
            rows.mask, np.arange(5) < np.array(counts)[:, None]
        )
        found_counts |= set(counts)
    assert found_counts == set(range(6))
    whole = stored.store(codec, images, mask)
    np.testing.assert_array_equal(whole.mask, mask)


@every
def test_what_training_reads_is_what_is_stored(name):
    codec = make(name)
    images, mask = make_rows(2)
    rows = stored.store(codec, images, mask)
    assert rows.images.dtype == np.uint8
    assert not rows.images[~rows.mask].any()
    for k, streams in enumerate(rows.encoded):
        for rank, stream in enumerate(streams):
            np.testing.assert_array_equal(
                rows.images[k, rank], by_pillow(codec, stream)
            )


def test_float32_is_stored_to_the_bit():
    images, mask = make_rows()
    rows = stored.store(storage.make('float32', SHAPE), images, mask)
    np.testing.assert_array_equal(rows.images[mask], images[mask])


def test_coefficients_that_are_not_kept_are_not_stored():
    """Learning starts from a smooth image; its result has no others."""
    codec = make('4:2:0')
    images, mask = make_rows()
    smooth = storage_images.make('smooth', 20, SHAPE).reshape(images.shape)
    kept = np.asarray(codec.kept(smooth.reshape(-1, *SHAPE)))
    kept = kept.reshape(*mask.shape, *kept.shape[1:])
    rows = stored.store(codec, images, mask, kept=kept)
    free = stored.store(codec, images, mask)
    sizes = []
    for k, rank in zip(*np.nonzero(mask), strict=True):
        [alone] = codec.encode(images[k, rank][None], kept[k, rank][None])
        assert rows.encoded[k][rank] == alone
        sizes.append((len(alone), len(free.encoded[k][rank])))
    less, all_of_them = np.transpose(sizes)
    assert np.all(less <= all_of_them)
    assert less.sum() < all_of_them.sum() / 2


# Arrays and files.


@every
def test_arrays_and_lists_are_the_same(name):
    codec = make(name)
    rows = stored.store(codec, *make_rows())
    joined = encoded.join(rows.encoded, 6, 7)
    assert joined.lengths.shape == (6, 7)
    assert joined.data.nbytes == joined.lengths.sum()
    assert encoded.split(joined) == [*rows.encoded, [], []]
    images, mask = encoded.decode(codec, joined)
    np.testing.assert_array_equal(images[:4, :5], rows.images)
    np.testing.assert_array_equal(mask[:4, :5], rows.mask)
    assert mask.sum() == rows.mask.sum()
    assert not images[~mask].any()


@compressed
def test_a_smaller_budget_drops_the_lowest_ranks(name):
    """Of classes that stay byte for byte, before those of the new ones."""
    codec = make(name)
    old = stored.store(codec, *make_rows()).encoded[:2]
    new = stored.store(codec, *make_rows(3)).encoded[:3]
    held = encoded.join(old, 5, 5)
    for budget in np.random.default_rng(4).integers(1, 2500, 8):
        kept = stored.fitting(held.lengths, int(budget))
        found = encoded.split(encoded.replace(held, kept, new, 2))
        assert found[2:] == new
        for before, after in zip(old, found[:2], strict=True):
            assert before[: len(after)] == after
            sizes = [len(stream) for stream in before]
            assert sum(sizes[: len(after)]) <= budget
            more = sizes[: len(after) + 1]
            assert len(after) == len(before) or sum(more) > budget


class Options:
    storage, quality, subsampling = CODECS['4:4:4'][0], 80, '4:4:4'


def test_a_result_file_is_read_without_its_run(tmp_path):
    codec = make('4:4:4')
    rows = stored.store(codec, *make_rows())
    held = ExemplarSet(rows.images, rows.mask)
    joined = encoded.join(rows.encoded, 4, 5)
    arrays = encoded.to_arrays(held, joined, 4, Options)
    assert set(arrays) == {*encoded.ENCODED, 'mask'}
    np.savez(tmp_path / 'a.npz', **arrays)
    with np.load(tmp_path / 'a.npz') as file:
        found = dict(file)
    images, mask = encoded.from_arrays(found)
    np.testing.assert_array_equal(images, rows.images)
    np.testing.assert_array_equal(mask, rows.mask)
    # As any program reads it.
    first = found['data'][: found['lengths'][0, 0]].tobytes()
    np.testing.assert_array_equal(by_pillow(codec, first), images[0, 0])
    for damaged, words in (
        (found['data'][:-1], 'bytes: must be'),
        (np.zeros_like(found['data']), 'must be JPEG of 16 x 16 pixels'),
    ):
        with pytest.raises(ValueError, match=words):
            encoded.from_arrays({**found, 'data': damaged})


def test_pixels_that_are_not_compressed_are_arrays_in_a_file():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2, 1)
    held = ExemplarSet(images, np.ones((2, 3), bool))
    arrays = encoded.to_arrays(held, None, 1, Options)
    assert set(arrays) == set(encoded.IMAGES)
    np.testing.assert_array_equal(encoded.from_arrays(arrays)[0], images[:1])


# Bytes.


@every
def test_bytes_are_those_of_the_images_and_of_one_header(name):
    codec = make(name)
    rows = stored.store(codec, *make_rows())
    held = ExemplarSet(rows.images, rows.mask)
    joined = encoded.join(rows.encoded, 4, 5)
    total = sum(len(stream) for row in rows.encoded for stream in row)
    found = stored.num_bytes(codec, held, joined if codec.compresses else None)
    assert found == len(codec.header) + total
    assert (len(codec.header) > 0) == (name in ('4:2:0', '4:4:4'))


@pytest.mark.parametrize(('name', 'size'), [('uint8', 1), ('float32', 4)])
def test_bytes_of_arrays_are_those_of_used_slots(name, size):
    held = ExemplarSet(
        np.ones((3, 4, 2, 3, 1), name),
        np.arange(4) < np.array([4, 0, 2])[:, None],
    )
    codec = storage.make(name, (2, 3, 1))
    assert stored.num_bytes(codec, held, None) == 6 * 6 * size


def make_source(**options):
    return sources.make_source('synthetic', {'image_size': 8, **options})


def test_slots_of_arrays_are_exact():
    for name, size in (('uint8', 1), ('float32', 4)):
        codec = storage.make(name, (8, 8, 3))
        found = byte_budget.slot_bytes(codec, make_source(num_classes=3))
        assert found == 192 * size


def test_slots_have_room_for_the_class_whose_images_are_smallest():
    source = make_source(num_classes=4, train_per_class=70)
    codec = storage.make('jpeg', (8, 8, 3))
    means = []
    for k in range(4):
        rows = np.flatnonzero(source.labels['train'] == k)
        streams = codec.encode(source.read('train', rows))
        means.append(np.mean([len(stream) for stream in streams]))
    found = byte_budget.slot_bytes(codec, source)
    # A sample of each class, and a quarter more slots than it asks for.
    assert found == pytest.approx(min(means) / 1.25, rel=0.05)


def test_slots_have_room_where_a_class_gives_one_sample():
    source = make_source(num_classes=4, train_per_class=1)
    codec = storage.make('jpeg', (8, 8, 3))
    positions = np.arange(len(source.labels['train']))
    sizes = [
        len(each) for each in codec.encode(source.read('train', positions))
    ]
    found = byte_budget.slot_bytes(codec, source)
    assert found == pytest.approx(min(sizes) / 1.25)


def test_a_large_class_is_sampled_all_over():
    source = make_source(num_classes=2, train_per_class=1000)
    read = []

    def spy(split, positions):
        read.append(positions)
        return source.read(split, positions)

    codec = storage.make('jpeg', (8, 8, 3))
    byte_budget.slot_bytes(codec, source._replace(read=spy))
    for k, positions in enumerate(read):
        assert set(source.labels['train'][positions]) == {k}
        assert len(set(positions.tolist())) == 32
        assert positions.min() < 64
        assert positions.max() >= 1936


# Another decoder.


def test_other_pixels_than_recorded_are_one_line(monkeypatch):
    rows = stored.store(make('4:2:0'), *make_rows())
    held = ExemplarSet(rows.images, rows.mask)
    joined = encoded.join(rows.encoded, 4, 5)
    recorded = stored.fingerprint(held, joined)
    assert stored.fingerprint(held, None) == {}
    images = rows.images.copy()
    images[~rows.mask] = 7  # Of empty slots nothing is said.
    assert stored.other_pixels(images, rows.mask, recorded) is None
    images[0, 1, 2, 3, 0] ^= 1
    monkeypatch.setattr(storage.PIL, '__version__', '99.1')
    line = stored.other_pixels(images, rows.mask, recorded)
    before, now = line.split(', not ')
    assert before.startswith('exemplars: decode to other pixels')
    assert f'pillow {recorded["decoder"]["pillow"]}' in before
    assert now.startswith('pillow 99.1')


def test_rows_that_end_up_too_large_are_kept_as_they_were_selected():
    codec = make('4:2:0')
    images, mask = make_rows()
    selected = stored.store(codec, images, mask)
    learned = stored.store(codec, 1 - images[..., ::-1], mask)
    sizes = [len(row[0]) if row else np.inf for row in learned.encoded]
    budget = sorted(sizes)[1]
    which = stored.too_large(learned, budget)
    np.testing.assert_array_equal(which, np.array(sizes) > budget)
    assert which.sum() == 2
    assert not stored.too_large(learned, 0).any()
    found = stored.replace_rows(learned, selected, which)
    for k, choose in enumerate(which):
        expected = selected if choose else learned
        assert found.encoded[k] == expected.encoded[k]
        np.testing.assert_array_equal(found.images[k], expected.images[k])
        np.testing.assert_array_equal(found.mask[k], expected.mask[k])
