"""The comparison with the paper's protocol: splits, classes, older results."""

import json

import pytest
from paper_protocol_test import JOINT, LUCIR, OURS, drawn, made, results_of

from mnemonics_jax.report import charts, groups, paper_protocol, setup


def test_another_split_of_the_same_data_is_named():
    results = results_of(OURS)
    results['train_images_per_class'] = [450] * 100
    for row in results['phases'][-1]['confusion']['cnn'][:30]:
        row[0] += 50
    results['skipped_images'] = ['a', 'b']
    assert paper_protocol.differences(results) == [
        ('training images a class', '450', '500'),
        ('test images a class', '100 to 150', '100'),
        ('skipped images', '2', '0'),
    ]
    assert drawn(results)[1] == set()


def test_other_classes_are_another_data_set():
    results = results_of(OURS, data__source='tfds', data__name='cifar10')
    results['class_names'] = [f'class {i}' for i in range(100)]
    (found,) = paper_protocol.differences(results)
    assert found == (
        'data set',
        'tfds, cifar10',
        'CIFAR-100, ImageNet-Subset, ImageNet',
    )
    assert drawn(results)[1] == set()


def test_classes_added_later_are_named():
    results = results_of(OURS)
    results['class_names'].append('added')
    (found,) = paper_protocol.differences(results)
    assert found == ('classes', '101', '100')


def test_unequal_classes_of_cifar100_are_named():
    results = results_of(OURS)
    results['train_images_per_class'][:2] = 499, 501
    (found,) = paper_protocol.differences(results)
    assert found == ('training images a class', 'about 500', '500')


def test_the_order_counts_not_where_it_comes_from():
    results = results_of(OURS, protocol__class_order_file='order.txt')
    assert paper_protocol.differences(results) == []
    results['class_order'].reverse()
    (found,) = paper_protocol.differences(results)
    assert found == ('class order', 'file order.txt', 'seed 1993')
    results = results_of(OURS)
    results['class_order'].reverse()
    (found,) = paper_protocol.differences(results)
    assert found == ('class order', 'another', 'seed 1993')


@pytest.mark.parametrize(
    ('section', 'field', 'what'),
    [
        ('train', 'schedule', 'schedule'),
        ('train', 'weight_decay', 'weight decay'),
        ('data', 'brightness', 'augmentation'),
        ('exemplars', 'preset', 'preset'),
        ('exemplars', 'adjust', 'adjustment'),
        ('backbone', 'head', 'classifier'),
        ('', 'precision', 'precision'),
        ('', 'weight_transfer', 'weight transfer'),
    ],
)
def test_what_an_older_run_lacks_is_not_recorded(section, field, what):
    results = results_of(OURS)
    config = results['config']
    del (config[section] if section else config)[field]
    (found,) = paper_protocol.differences(results)
    assert found[:2] == (what, 'not recorded')


@pytest.mark.parametrize(
    ('key', 'what'),
    [
        ('train_images_per_class', 'training images a class'),
        ('skipped_images', 'skipped images'),
    ],
)
def test_results_of_an_older_run_do_not_record_everything(key, what):
    results = results_of(OURS)
    del results[key]
    (found,) = paper_protocol.differences(results)
    assert found[:2] == (what, 'not recorded')


def test_runs_of_several_methods_are_compared_with_one_protocol():
    several = [made(results_of(cell)) for cell in (OURS, LUCIR)]
    assert setup.protocol_of_the_paper(several) == ''
    caption = charts.accuracy(groups.alone(several)).caption
    assert 'To compare with: LUCIR, LUCIR w/ mnemonics.' in caption
    other = results_of(JOINT, train__epochs=200)
    table = setup.protocol_of_the_paper([*several, made(other)])
    assert table.rows == [['epochs', '200', '160', 'run']]


def test_results_hold_what_is_compared(saved_run):
    """As a run writes them: nothing is missing."""
    results = json.loads((saved_run.workdir / 'results.json').read_text())
    found = paper_protocol.differences(results)
    assert paper_protocol.run_protocol.NOT_RECORDED not in {
        d.run for d in found
    }
    named = {d.what: d.run for d in found}
    assert named['training images a class'] == '12'
    assert named['test images a class'] == '7'
