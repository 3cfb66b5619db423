"""The contract of exemplar strategies, over all files of their folder."""

import inspect

import numpy as np
import pytest

from mnemonics_jax.exemplars import learning, strategies
from mnemonics_jax.exemplars.strategies import Candidates, strategy

# Class 3 has two images, fewer than are asked for.
LABELS = np.random.default_rng(0).permutation(
    np.repeat(np.int32([2, 3, 4]), [9, 2, 5])
)
CLASSES, NUM = (2, 5), 4
KEEPING = [n for n in strategies.strategy_names() if strategies.keeps(n)]


def candidates(**changes):
    features = np.random.default_rng(1).normal(size=(len(LABELS), 6))
    made = Candidates(
        LABELS,
        lambda: features.astype(np.float32),
        classes=CLASSES,
        num=NUM,
        max_class_size=12,
        seed=(0, 1, 2),
        init='herding',
    )
    return made._replace(**changes)


def test_the_folder_is_the_list():
    assert set(KEEPING) == {'herding', 'mnemonics', 'random'}
    assert strategies.strategy_names() == sorted([*KEEPING, 'none'])
    # Learning starts from real images.
    assert strategies.init_names() == ['herding', 'random']
    with pytest.raises(ValueError, match='must be one of herding, mnemonics'):
        strategy('best')


@pytest.mark.parametrize('name', strategies.strategy_names())
def test_a_file_has_both_functions_or_none(name):
    module = strategy(name)
    assert module.__doc__
    if module.select is None:
        assert module.learn is None
    if module.learn is not None:
        expected = inspect.signature(learning.learn).parameters
        assert list(inspect.signature(module.learn).parameters) == list(
            expected
        )


@pytest.mark.parametrize('name', KEEPING)
def test_each_class_keeps_images_of_its_own_best_first(name):
    given = candidates()
    chosen = strategy(name).select(given)
    assert chosen.dtype == np.int32
    assert chosen.shape == (CLASSES[1] - CLASSES[0], NUM)
    for label, row in zip(range(*CLASSES), chosen, strict=True):
        kept = row[row >= 0]
        assert np.all(LABELS[kept] == label)
        assert len(set(kept.tolist())) == len(kept)
        # All images of a class with fewer, then -1.
        assert len(kept) == min(NUM, np.sum(label == LABELS))
        assert np.all(row[len(kept) :] == -1)
    np.testing.assert_array_equal(strategy(name).select(given), chosen)
    fewer = strategy(name).select(given._replace(num=2))
    np.testing.assert_array_equal(fewer, chosen[:, :2])


def test_mnemonics_starts_from_the_strategy_that_init_names():
    for name in strategies.init_names():
        given = candidates(init=name)
        np.testing.assert_array_equal(
            strategy('mnemonics').select(given), strategy(name).select(given)
        )


def test_random_follows_its_seed_and_reads_no_features():
    def fail():
        raise AssertionError('features are expensive')

    select = strategy('random').select
    one = select(candidates(features=fail))
    assert np.any(one != select(candidates(seed=(0, 1, 3))))


@pytest.mark.parametrize(
    ('result', 'said'),
    [
        (np.zeros(3, np.int32), r'returned int32\[3\], must be int32\[3, 4\]'),
        (np.zeros((3, NUM)), r'returned float64\[3, 4\], must be int32'),
        (np.zeros((3, NUM), np.int32), 'different positions of its own class'),
        (np.full((3, NUM), 10**6), 'different positions of its own class'),
    ],
)
def test_what_breaks_the_contract_is_said(monkeypatch, result, said):
    monkeypatch.setattr(strategy('random'), 'select', lambda _: result)
    with pytest.raises(ValueError, match=rf'random\.select: .*{said}'):
        strategies.select('random', candidates())
