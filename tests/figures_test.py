"""Tests of the figures: what they draw of which numbers."""

import io

import numpy as np
import PIL.Image
import pytest
from sklearn.neighbors import NearestNeighbors

from mnemonics_jax.report import published
from mnemonics_jax.report.figures import (
    border,
    confusion,
    curves,
    images,
    losses,
    phases,
    style,
    tsne,
)
from tests.made_runs import make_records


def test_mosaic_keeps_pixels_square_and_in_place():
    stored = np.zeros((2, 3, 8, 8, 1), np.uint8)
    stored[1, 2, 7, 0] = 255
    stored[0, 1] = 51
    mask = np.ones((2, 3), bool)
    mask[0, 0] = False
    shown = images.mosaic(stored, mask)
    assert shown.shape == (2 * 70, 3 * 70, 3)
    assert np.all(shown[:70, :70] == 1)
    np.testing.assert_allclose(shown[3:67, 73:137], 0.2)
    last = shown[73:137, 143:207, 0]
    assert last[56:, :8].min() == 1
    assert last.sum() == 64


@pytest.mark.parametrize('size', [(32, 32), (96, 80), (3, 5)])
def test_mosaic_of_uint8_and_of_float_are_the_same(size):
    stored = np.random.default_rng(0).integers(0, 256, (2, 2, *size, 3))
    mask = np.ones((2, 2), bool)
    first = images.mosaic(stored.astype(np.uint8), mask)
    second = images.mosaic((stored / 255).astype(np.float32), mask)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert first.max() <= 1


def test_names_are_cut_to_fit_and_hold_no_mathematics():
    stored = np.zeros((2, 2, 8, 8, 1), np.uint8)
    mask = np.ones((2, 2), bool)
    drawn = images.grid(stored, mask, ['W' * 40, 'a $ sign'])
    labels = drawn.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [
        'W' * 11 + '\N{HORIZONTAL ELLIPSIS}',
        r'a \$ sign',
    ]
    style.encoded(drawn, 'png')
    assert min(label.get_window_extent().x0 for label in labels) >= 0


def test_many_things_are_spread_from_first_to_last():
    assert style.spread(120, 5).tolist() == [0, 30, 60, 89, 119]
    assert style.spread(3, 5).tolist() == [0, 1, 2]
    assert style.thinned(list(range(26)), 5) == [0, 6, 12, 18, 24]


def test_difference_is_amplified_until_a_few_values_are_clipped():
    before = np.full((1, 2, 10, 10, 1), 100, np.uint8)
    after = before.copy()
    after[0, 0] += 5
    after[0, 0, 0, :4] -= 60
    after[0, 1] += 200 - 100
    mask = np.array([[True, False]])
    shown, factor = images.difference(after, before, mask)
    # 5 / 255 times 16 is below a half, times 32 above.
    assert factor == 16
    np.testing.assert_allclose(shown[0, 0, 5], 0.5 + 16 * 5 / 255, atol=1e-6)
    assert np.all(shown[0, 0, 0, :4] == 0)
    same, factor = images.difference(before, before, mask)
    assert factor == 1
    assert np.all(same == 0.5)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_drift_is_the_mean_change_in_grey_levels(dtype):
    scale = 1 if dtype == np.uint8 else 255
    before = np.full((2, 2, 3, 3, 1), 100 / scale, dtype)
    after = before.copy()
    after[0, 0, 0] = 106 / scale  # A third of one image by six.
    mask = np.array([[True, True], [True, False]])
    assert images.drift(after, before, mask) == pytest.approx(2 / 3, abs=1e-4)
    assert images.drift(after, before, ~mask) == 0
    assert images.drift(after, before, mask & ~mask) is None


def test_confusion_of_no_test_images_is_drawn():
    drawn = confusion.confusion(np.zeros((2, 2), int), ['b', 'a $ sign'], [1])
    labels = [t.get_text() for t in drawn.axes[0].get_xticklabels()]
    assert labels == ['b', r'a \$ sign']
    style.encoded(drawn, 'png')


def test_most_confused_pairs_are_by_share_of_the_true_class():
    counts = np.array([[6, 4, 0], [1, 8, 1], [5, 0, 95]])
    names = ['a', 'b', 'c']
    assert confusion.confused(counts, names, 3) == [
        ('a', 'b', 4, 0.4),
        ('b', 'a', 1, 0.1),
        ('b', 'c', 1, 0.1),
    ]
    assert len(confusion.confused(counts, names, 99)) == 4


def test_a_matrix_of_many_classes_is_a_small_image():
    counts = 10 * np.eye(1001, dtype=int)
    counts[0, 1000] = 30
    data = confusion.as_image(counts)
    assert len(data) < 20_000
    pixels = np.asarray(PIL.Image.open(io.BytesIO(data)).convert('RGB'))
    assert pixels.shape == (334, 334, 3)
    # Dark where the counts are, pale elsewhere.
    dark = pixels.sum(-1) < 700
    assert dark.diagonal().all()
    assert dark[0, 333]
    assert dark.sum() == 335


def lines_of(ax):
    return {
        line.get_label(): np.asarray(line.get_ydata())
        for line in ax.get_lines()
        if len(line.get_xdata()) and not line.get_label().startswith('_')
    }


def test_published_curves_lie_behind_the_judged_panel_alone():
    line = curves.Line('run', [50, 60], [70.0, 60.0], strong=True, style=0)
    paper = published.curves('CIFAR-100', 5)
    behind = curves.Published(
        range(50, 101, 10), {c.method: c.accuracy for c in paper}
    )
    drawn = curves.accuracy({'CNN': [line], 'NME': [line]}, behind, 'NME')
    assert len(drawn.axes[0].get_lines()) == 1
    shown = [tuple(x.get_ydata()) for x in drawn.axes[1].get_lines()]
    assert {curve.accuracy for curve in paper} <= set(shown)
    texts = {text.get_text() for text in drawn.axes[1].texts}
    assert texts == {curve.method for curve in paper}
    legend = drawn.legends[0].get_texts()
    assert 'paper, digitised' in [text.get_text() for text in legend]


def test_accuracy_of_nothing_is_drawn():
    line = curves.Line('CNN', [2], [float('nan')], strong=True, style=0)
    drawn = curves.accuracy({'': [line]}, None, '')
    low, high = drawn.axes[0].get_ylim()
    assert (low, high) == (0, 100)
    style.encoded(drawn, 'png')


def test_names_are_moved_apart_in_their_order():
    places = curves.apart([5.0, 5.1, 9.0, 5.05], 1.0)
    order = np.argsort(places)
    assert order.tolist() == [0, 3, 1, 2]
    assert np.diff(np.sort(places)).min() >= 1 - 1e-6
    assert np.mean(places) == pytest.approx(np.mean([5, 5.1, 9, 5.05]))
    assert curves.apart([1.0, 3.0], 1.0) == [1.0, 3.0]


def test_panels_of_drift_share_an_axis_that_holds_all():
    panels = {'a': {0: ([0, 1], [1.0, 2.0])}, 'b': {0: ([0, 1], [9.0, 20.0])}}
    for panel in curves.drift(panels).axes:
        low, high = panel.get_ylim()
        assert low == 0
        assert high >= 20


def test_both_levels_of_loss_have_panels():
    records = make_records()
    drawn = losses.learning(records)
    titles = [ax.get_title(loc='left') for ax in drawn.axes]
    assert titles[:3] == [
        'Training',
        'Learning: outer, on query images',
        'Learning: inner, on exemplars',
    ]
    inner = drawn.axes[2].get_lines()
    assert len(inner) == 3
    assert inner[0].get_xdata().tolist() == [1, 6, 11, 16]
    assert set(inner[0].get_ydata()) == {0.5}
    of_train = [r for r in records if r['stage'] == 'train']
    assert len(losses.panels(of_train)) == 1
    assert losses.panels([{'phase': 0, 'stage': 'train', 'loss': None}]) == []


def make_space(num, images_each=30, width=8, slots=4):
    """Well separated classes."""
    rng = np.random.default_rng(0)
    means = np.eye(num, max(num, width))
    labels = np.repeat(np.arange(num), images_each)
    noise = 0.05 * rng.normal(size=(len(labels), means.shape[1]))
    near = 0.05 * rng.normal(size=(num, slots, means.shape[1]))
    mask = np.ones((num, slots), bool)
    mask[:, -1] = False
    return {
        'features': (means[labels] + noise).astype(np.float16),
        'labels': labels,
        'means': means.astype(np.float32),
        'exemplars': (means[:, None] + near).astype(np.float16),
        'mask': mask,
        'class_names': np.array([f'class {i}' for i in range(num)]),
    }


def test_points_of_a_picture_are_what_is_stored():
    stored = make_space(4)
    points = tsne.gather(stored, [2, 0])
    assert points.names == ['class 2', 'class 0']
    for i, row in enumerate((2, 0)):
        own = points.labels == i
        shown = points.features[own & ~points.is_exemplar]
        expected = stored['features'][stored['labels'] == row]
        np.testing.assert_array_equal(shown, expected.astype(np.float32))
        held = points.features[own & points.is_exemplar]
        assert held.shape[0] == 3  # One slot is masked.
    means = points.features[points.labels == -1]
    np.testing.assert_array_equal(means, stored['means'][[1, 3]])


def test_points_of_a_picture_are_bounded():
    points = tsne.gather(make_space(300, 4), range(5))
    most = 5 * 100 + 5 * 50 + tsne.MAX_OTHERS + tsne.MAX_HIDDEN
    assert len(points.features) < most
    assert np.sum(points.labels == -1) == tsne.MAX_OTHERS
    assert np.sum(points.labels == -2) == tsne.MAX_HIDDEN


def test_neighbours_by_tsne_are_of_the_same_class_and_the_same_again():
    stored = make_space(4)
    points = tsne.gather(stored, range(4))
    xy = tsne.embed(points.features)
    np.testing.assert_array_equal(xy, tsne.embed(points.features))
    near = NearestNeighbors(n_neighbors=2).fit(xy).kneighbors(xy)[1][:, 1]
    assert np.mean(points.labels[near] == points.labels) > 0.97


@pytest.mark.parametrize('num', [1, 3, 5])
def test_few_or_equal_points_are_embedded(num):
    assert tsne.embed(np.ones((num, 3), np.float32)).shape == (num, 2)
    random = np.random.default_rng(0).normal(size=(num, 3))
    assert tsne.embed(random.astype(np.float32)).shape == (num, 2)


def test_quantiles_of_the_border_are_drawn_for_exemplars_and_images():
    values = np.arange(101.0) / 50 + 1
    of_images = border.quantiles(values)
    assert of_images == pytest.approx([1.1, 1.5, 2, 2.5, 2.9])
    of_exemplars = border.quantiles(values[:51])
    drawn = border.border({'run': {0: (of_exemplars, of_images)}})
    lines = lines_of(drawn.axes[0])
    assert lines['exemplars'].tolist() == pytest.approx([1.5])
    assert lines['test images'].tolist() == pytest.approx([2.0])
    assert drawn.axes[0].get_yscale() == 'log'


@pytest.mark.parametrize('data', ['CIFAR-100', 'ImageNet-Subset', 'ImageNet'])
@pytest.mark.parametrize('phases', published.PHASES)
def test_published_curves_have_the_averages_of_the_papers_table(data, phases):
    """Table 1 of the paper; its rows and the curves are read independently."""
    table = {
        'LUCIR w/ mnemonics': {
            'CIFAR-100': (64.95, 63.25, 63.70),
            'ImageNet-Subset': (73.30, 72.17, 71.50),
            'ImageNet': (66.15, 63.12, 63.08),
        },
        'LUCIR': {
            'CIFAR-100': (63.17, 60.14, 57.54),
            'ImageNet-Subset': (70.84, 68.32, 61.44),
            'ImageNet': (64.45, 61.57, 56.56),
        },
        'iCaRL': {
            'CIFAR-100': (57.12, 52.66, 48.22),
            'ImageNet-Subset': (65.44, 59.88, 52.97),
            'ImageNet': (51.50, 46.89, 43.14),
        },
    }
    found = {c.method: c for c in published.curves(data, phases)}
    assert len(found) == 6
    for method, row in table.items():
        curve = found[method]
        assert len(curve.accuracy) == phases + 1
        off = (
            np.mean(curve.accuracy) - row[data][published.PHASES.index(phases)]
        )
        assert (abs(off) > 0.5) == curve.doubtful
        assert curve.doubtful or abs(off) < 0.03


def test_cifar100_is_recognised_by_its_class_names():
    names = published.official_names('CIFAR-100')
    assert len(set(names)) == 100
    for source in ('cifar', 'folder', 'arrays'):
        config = {'data': {'source': source, 'name': None}}
        assert published.data_name(config, names[::-1]) == 'CIFAR-100'
        part = published.data_name(config, names[:6])
        assert part == ('CIFAR-100' if source == 'cifar' else source)
        assert published.data_name(config, [*names[1:], 'unicorn']) == source


@pytest.mark.parametrize(
    ('data', 'num', 'name'),
    [
        ({'source': 'tfds', 'name': 'cifar100:3.0.2'}, 100, 'CIFAR-100'),
        ({'source': 'tfds', 'name': 'imagenet2012'}, 1000, 'ImageNet'),
        ({'source': 'folder'}, 1000, 'ImageNet'),
        (
            {'source': 'folder', 'subset_classes': 100, 'subset_seed': 1993},
            100,
            'ImageNet-Subset',
        ),
        (
            {'source': 'folder', 'subset_classes': 100, 'subset_seed': 1},
            100,
            'folder',
        ),
        ({'source': 'tfds', 'name': 'cifar10'}, 10, 'tfds, cifar10'),
        ({'source': 'cifar', 'name': 'cifar100'}, 100, 'cifar, cifar100'),
    ],
)
def test_the_papers_data_are_recognised(data, num, name):
    synsets = [f'n{i:08}' for i in range(num)]
    assert published.data_name({'data': data}, synsets) == name
    if data['source'] == 'folder':
        words = [f'class {i}' for i in range(num)]
        assert published.data_name({'data': data}, words) == 'folder'


def test_heat_maps_have_named_axes_and_leave_later_classes_empty():
    percent = np.full((3, 3), np.nan)
    percent[np.tril_indices(3)] = [90, 80, 70, 60, 50, 40]
    drawn = phases.heat_maps({'a': percent, 'b': percent[:2, :2]})
    first, second = drawn.axes[:2]
    assert (first.get_xlabel(), first.get_ylabel()) == (
        'classes of phase',
        'after phase',
    )
    placed = {t.get_position(): t.get_text() for t in first.texts}
    assert placed[0, 2] == '60'  # Column 0, row 2.
    assert len(placed) == 6
    shown = second.get_images()[0].get_array()
    assert shown.mask.sum() == 1
    assert [ax.get_title(loc='left') for ax in (first, second)] == ['a', 'b']
