"""What the report takes for the paper's protocol, and what it does not."""

import numpy as np
import pytest

from mnemonics_jax.config import resolve, to_json
from mnemonics_jax.config.arguments import load
from mnemonics_jax.report import (
    charts,
    groups,
    paper_protocol,
    published,
    runs,
    setup,
)

# The paper's numbers, as in its sections 5.1 and 5.2: classes, of which half
# are in phase 0; images a class for training and for the test; bytes an image.
DATA = {
    'cifar100': (100, 500, 100, 32 * 32 * 3),
    'imagenet_subset': (100, 1294, 50, 224 * 224 * 3),
    'imagenet': (1000, 1281, 50, 224 * 224 * 3),
}
OURS = 'method=lucir,exemplars=mnemonics,preset=paper'
LUCIR = 'method=lucir,exemplars=herding'
JOINT = 'method=joint,exemplars=none'
# Its curves, and a cell of its tables for each.
CELLS = {
    OURS: 'LUCIR w/ mnemonics',
    LUCIR: 'LUCIR',
    LUCIR.replace('lucir', 'bic'): 'BiC',
    LUCIR.replace('lucir', 'icarl'): 'iCaRL',
    LUCIR.replace('lucir', 'lwf'): 'LwF + herding exemplars',
    JOINT: 'joint training (upper bound)',
    JOINT.replace('none', 'herding'): 'joint training (upper bound)',
}
METHODS = ', '.join(dict.fromkeys(CELLS.values()))


def results_of(text, data='cifar100', **fields):
    """What a run leaves, of a cell with other fields, such as train__lr."""
    config = load(f'{data}:{text}')
    config.update_from_flattened_dict(
        {name.replace('__', '.'): value for name, value in fields.items()}
    )
    config = to_json(resolve(config))
    num, train, test, size = DATA[data]
    names = [f'n{i:08}' for i in range(num)]
    if data == 'cifar100':
        names = list(published.official_names('CIFAR-100'))
    order = np.arange(num)
    seed = config['protocol']['class_order_seed']
    np.random.RandomState(seed).shuffle(order)
    held = config['exemplars']
    kept = 0 if held['strategy'] == 'none' else held['per_class']
    size *= {'uint8': 1, 'float32': 4}[held['storage']]
    step = num // 2 // config['protocol']['phases']
    phases = [
        {
            'phase': i,
            'num_seen': seen,
            'accuracy': {'cnn': 0.5},
            'exemplars': {
                'count': kept * seen,
                'bytes': (kept or 2000 // seen) * seen * size,
            },
        }
        for i, seen in enumerate(range(num // 2, num + 1, step))
    ]
    counts = np.diag(np.full(num, test - 1))
    counts[:, 0] += 1
    phases[-1]['confusion'] = {'cnn': counts.tolist()}
    train = train + (data != 'cifar100') * (np.arange(num) % 2)
    return {
        'config': config,
        'class_order': order.tolist(),
        'class_names': names,
        'predictor': 'cnn',
        'train_images_per_class': (np.zeros(num, int) + train).tolist(),
        'skipped_images': [],
        'phases': phases,
    }


def made(results):
    return runs.Run('run', None, results['config'], results, {}, [], [])


def drawn(results):
    """The caption of the chart, and methods of the paper in it."""
    picture = charts.accuracy(groups.alone([made(results)]))
    names = {text.get_text() for text in picture.drawn.axes[0].texts}
    return picture.caption, names


def test_the_tests_class_order_is_the_papers():
    order = results_of(OURS)['class_order']
    assert order[:10] == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    assert order[-6:] == [39, 67, 29, 49, 57, 33]


@pytest.mark.parametrize('phases', [5, 10, 25])
@pytest.mark.parametrize('cell', CELLS)
def test_the_papers_runs_on_cifar100_have_its_protocol(cell, phases):
    results = results_of(f'{cell},phases={phases}')
    assert paper_protocol.differences(results) == []
    assert setup.protocol_of_the_paper([made(results)]) == ''


@pytest.mark.parametrize('source', ['folder', 'tfds'])
@pytest.mark.parametrize('data', ['imagenet_subset', 'imagenet'])
@pytest.mark.parametrize('cell', [OURS, LUCIR, JOINT])
def test_the_papers_runs_on_imagenet_have_its_protocol(cell, data, source):
    results = results_of(f'{cell},source={source}', data)
    assert paper_protocol.differences(results) == []


@pytest.mark.parametrize('cell', CELLS)
def test_the_papers_curves_are_drawn_behind_a_run_of_its_protocol(cell):
    caption, names = drawn(results_of(cell))
    assert names == set(CELLS.values())
    assert f'To compare with: {CELLS[cell]}.' in caption
    assert CELLS[cell] in {c.method for c in published.curves('CIFAR-100', 5)}


# Fields that differ -> what the report says of a run with exemplars as in the
# paper: what, here, in the paper.
FIELDS = [
    ({'protocol__base_classes': 40}, 'classes of phase 0', '40', '50'),
    ({'protocol__phases': 2}, 'phases after it (N)', '2', '5 or 10 or 25'),
    (
        {'protocol__phase_sizes': (50, 6, 14, 10, 10, 10)},
        'classes of these phases',
        '6, 14, 10, 10, 10',
        'equal',
    ),
    ({'protocol__class_order_seed': 7}, 'class order', 'seed 7', 'seed 1993'),
    ({'backbone__name': 'resnet20'}, 'backbone', 'resnet20', 'resnet32'),
    ({'weight_transfer': False}, 'weight transfer', 'false', 'true'),
    ({'precision': 'bf16'}, 'precision', 'bf16', 'float32'),
    ({'data__image_size': 64}, 'image size', '64', '32'),
    (
        {'data__image_size': 32, 'data__eval_resize': 40},
        'test images',
        'central crop, shorter side 40',
        'whole images',
    ),
    ({'data__flip': False}, 'augmentation', 'pad 4', 'pad 4, flip'),
    ({'data__pad': 0}, 'augmentation', 'flip', 'pad 4, flip'),
    (
        {'data__brightness': 0.25},
        'augmentation',
        'pad 4, flip, brightness 0.25',
        'pad 4, flip',
    ),
    (
        {'data__random_resized_crop': True, 'data__pad': 0},
        'augmentation',
        'random resized crop, flip',
        'pad 4, flip',
    ),
    ({'train__epochs': 200}, 'epochs', '200', '160'),
    ({'train__batch_size': 64}, 'batch size', '64', '128'),
    ({'train__lr': 5.0}, 'learning rate', '5.0', '0.1'),
    ({'train__momentum': 0.0}, 'momentum', '0.0', '0.9'),
    ({'train__weight_decay': 0.0}, 'weight decay', '0.0', '0.0005'),
    (
        {'train__schedule': 'cosine'},
        'schedule',
        'cosine',
        'times 0.1 after 80, 120',
    ),
    (
        {'train__milestones': (80,), 'train__gamma': 0.2},
        'schedule',
        'times 0.2 after 80',
        'times 0.1 after 80, 120',
    ),
    (
        {'exemplars__preset': 'bilevel', 'exemplars__adjust': True},
        'preset',
        'bilevel',
        'paper',
    ),
    (
        {'exemplars__inner_lr': 1.0, 'exemplars__init': 'herding'},
        'exemplar learning',
        'init herding, inner_lr 1.0',
        'init random, inner_lr 0.01',
    ),
    ({'exemplars__adjust': False}, 'adjustment', 'false', 'true'),
    (
        {'finetune__momentum': 0.9},
        'fine-tuning',
        'momentum 0.9',
        'momentum 0',
    ),
    (
        {'finetune__epochs': 20, 'finetune__lr': 0.1},
        'fine-tuning',
        'epochs 20, lr 0.1',
        'epochs 50, lr 0.01',
    ),
    ({'method__lucir__lambda_base': 9.0}, 'lambda_base', '9.0', '5'),
    ({'method__imprint': False}, 'head rows', 'imprint false', 'imprint true'),
    ({'backbone__final_relu': True}, 'final ReLU', 'true', 'false'),
    ({'backbone__norm_group': 8}, 'images of a BatchNorm', '8', '0'),
    ({'train__base_run': 'base'}, 'model of phase 0', 'base', 'trained here'),
    (
        {'exemplars__inner_augment': True},
        'exemplar learning',
        'inner_augment true',
        'inner_augment false',
    ),
    (
        {'method__lucir__margin': 0.1},
        'settings of the method',
        'margin 0.1',
        'margin 0.5',
    ),
]


@pytest.mark.parametrize(('fields', 'what', 'here', 'paper'), FIELDS)
def test_a_field_that_differs_is_named(fields, what, here, paper):
    results = results_of(OURS, **fields)
    (found,) = paper_protocol.differences(results)
    assert found == (what, here, paper)
    assert drawn(results)[1] == set()
    table = setup.protocol_of_the_paper([made(results)])
    assert table.rows == [[what, here, paper]]
    assert 'are not drawn' in table.caption


def test_an_older_run_of_joint_training_with_weight_transfer_is_named():
    """Which a configuration cannot ask for any more."""
    results = results_of(JOINT)
    results['config']['weight_transfer'] = True
    (found,) = paper_protocol.differences(results)
    assert found == ('weight transfer', 'true', 'false')


@pytest.mark.parametrize(
    ('cell', 'fields', 'expected'),
    [
        (
            LUCIR,
            {'weight_transfer': True},
            [('weight transfer', 'true', 'false')],
        ),
        (LUCIR, {'exemplars__adjust': True}, [('adjustment', 'true', 'false')]),
        (
            LUCIR.replace('lucir', 'bic'),
            {'method__bic__ridge': 0.01, 'method__bic__holdout': 0.2},
            [
                (
                    'settings of the method',
                    'holdout 0.2, ridge 0.01',
                    'holdout 0.1, ridge 0',
                )
            ],
        ),
        (
            LUCIR,
            {'finetune__carry': True},
            [('fine-tuned copy goes on', 'true', 'false')],
        ),
        (
            LUCIR,
            {'exemplars__storage': 'float32'},
            [
                ('storage', 'float32', 'uint8'),
                ('bytes of exemplars a class', '245,760', '61,440'),
            ],
        ),
        (
            OURS,
            {'exemplars__per_class': 10},
            [
                ('exemplars', '10 per class', '20 per class'),
                ('bytes of exemplars a class', '30,720', '61,440'),
            ],
        ),
        (
            LUCIR,
            {'exemplars__per_class': 0, 'exemplars__total': 2000},
            [
                ('exemplars', '2,000 in total', '20 per class'),
                (
                    'bytes of exemplars a class',
                    '61,440 to 122,880',
                    '61,440',
                ),
            ],
        ),
        (
            LUCIR.replace('herding', 'none'),
            {},
            [
                ('method', 'lucir with no exemplars', METHODS),
                ('exemplars', 'none', '20 per class'),
            ],
        ),
        (
            LUCIR.replace('herding', 'random'),
            {},
            [('method', 'lucir with random exemplars', METHODS)],
        ),
        (
            OURS.replace('lucir', 'icarl'),
            {},
            [('method', 'icarl with mnemonics exemplars', METHODS)],
        ),
        (
            LUCIR.replace('lucir', 'icarl'),
            {
                'backbone__head': 'linear',
                'method__imprint': False,
                'method__icarl__temperature': 4.0,
            },
            [
                ('settings of the method', 'temperature 4.0', 'temperature 2'),
                ('head rows', 'imprint false', 'imprint true'),
                ('classifier', 'linear', 'cosine'),
            ],
        ),
    ],
)
def test_a_cell_that_is_not_the_papers_is_named(cell, fields, expected):
    results = results_of(cell, **fields)
    assert paper_protocol.differences(results) == expected
    assert drawn(results)[1] == set()


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({'train__epochs': 160}, ('epochs', '160', '90')),
        ({'train__weight_decay': 1e-4}, ('weight decay', '0.0001', '0.0005')),
        (
            {'data__eval_resize': None},
            ('test images', 'whole images', 'central crop, shorter side 256'),
        ),
        ({'method__lucir__lambda_base': 5.0}, ('lambda_base', '5.0', '10')),
        ({'backbone__name': 'resnet32'}, ('backbone', 'resnet32', 'resnet18')),
        (
            {'protocol__base_classes': 40},
            ('classes of phase 0', '40', '50'),
        ),
    ],
)
def test_imagenet_has_its_own_protocol(fields, expected):
    results = results_of(OURS, 'imagenet_subset', **fields)
    assert paper_protocol.differences(results) == [expected]
