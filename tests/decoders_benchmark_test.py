"""Whether TensorFlow decodes as Pillow does, by benchmarks/decoders.py."""

import pathlib
import sys

import pytest
from extras import needs_tfds

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import decoders

pytestmark = needs_tfds


@pytest.mark.parametrize('noise', decoders.NOISE.values())
def test_tensorflow_decodes_the_same_bits_and_resizes_to_a_grey_level(noise):
    found = decoders.compare(noise, num=6, repeats=1)
    assert found['largest_difference'] == {
        'Pillow': 0,
        'TensorFlow, resized by Pillow': 0,
        'TensorFlow': 1,
    }
    rates = found['images_per_processor_second']
    assert set(rates) == set(decoders.DECODERS)
    assert min(rates.values()) > 0


def test_a_box_without_a_margin_has_other_bits(monkeypatch):
    monkeypatch.setattr(decoders, 'MARGIN', 0)
    found = decoders.compare(30, num=6, repeats=1)['largest_difference']
    assert found['TensorFlow, resized by Pillow'] > 1
