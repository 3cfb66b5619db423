"""Tests of the pictures of exemplars; `report_test` draws the other figures."""

import io

import numpy as np
import pytest

from mnemonics_jax import figures


def test_mosaic_keeps_pixels_square_and_in_place():
    images = np.zeros((2, 3, 8, 8, 1), np.uint8)
    images[1, 2, 7, 0] = 255
    images[0, 1] = 51
    mask = np.ones((2, 3), bool)
    mask[0, 0] = False
    shown = figures.mosaic(images, mask)
    assert shown.shape == (2 * 70, 3 * 70, 3)
    assert np.all(shown[:70, :70] == 1)
    np.testing.assert_allclose(shown[3:67, 73:137], 0.2)
    last = shown[73:137, 143:207, 0]
    assert last[56:, :8].min() == 1
    assert last.sum() == 64


@pytest.mark.parametrize('size', [(32, 32), (96, 80), (3, 5)])
def test_mosaic_of_uint8_and_of_float_are_the_same(size):
    images = np.random.default_rng(0).integers(0, 256, (2, 2, *size, 3))
    mask = np.ones((2, 2), bool)
    first = figures.mosaic(images.astype(np.uint8), mask)
    second = figures.mosaic((images / 255).astype(np.float32), mask)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert first.max() <= 1


def test_many_classes_fit_in_a_figure():
    results = {
        'phases': [{'num_seen': 120}],
        'class_order': list(range(120)),
        'class_names': [f'class {i}' for i in range(120)],
    }
    images = np.zeros((120, 12, 8, 8, 3), np.float32)
    drawn = figures.exemplars(results, images, np.ones((120, 12), bool))
    labels = [
        label.get_text() for ax in drawn.axes for label in ax.get_yticklabels()
    ]
    assert len(labels) == figures.MAX_CLASSES
    assert (labels[0], labels[-1]) == ('class 0', 'class 119')


def test_one_phase_without_test_images_is_drawn():
    nothing = float('nan')
    phase = {
        'num_seen': 2,
        'accuracy': {'cnn': nothing},
        'confusion': {'cnn': [[0, 0], [0, 0]]},
    }
    results = {
        'phases': [phase],
        'predictor': 'cnn',
        'class_order': [1, 0],
        'class_names': ['a $ sign', 'b'],
        'average_incremental_accuracy': {'cnn': nothing},
    }
    drawn = figures.accuracy(results)
    assert drawn.axes[0].get_ylim() == (0, 100)
    text = drawn.axes[0].get_legend().get_texts()[0].get_text()
    assert text == 'CNN, average n/a %'
    drawn = figures.confusion(results)
    labels = [t.get_text() for t in drawn.axes[0].get_xticklabels()]
    assert labels == ['b', r'a \$ sign']
    drawn.savefig(io.BytesIO(), format='png')


def test_names_are_cut_to_fit():
    results = {
        'phases': [{'num_seen': 1}],
        'class_order': [0],
        'class_names': ['n' * 40],
    }
    images = np.zeros((1, 2, 8, 8, 1), np.uint8)
    drawn = figures.exemplars(results, images, np.ones((1, 2), bool))
    label = drawn.axes[0].get_yticklabels()[0]
    assert label.get_text() == 'n' * 17 + '\N{HORIZONTAL ELLIPSIS}'
    assert label.get_window_extent().x0 >= 0
