"""The files in configs/: the paper's protocol, its numbers, and arguments."""

import ast
import importlib
import re

import numpy as np
import pytest
from readme_test import TOP, parsed, words_of

from mnemonics_jax import config as config_lib
from mnemonics_jax import methods
from mnemonics_jax.config import arguments
from mnemonics_jax.data import class_order

FILES = sorted(path.stem for path in (TOP / 'configs').glob('*.py'))
# Those of the paper, with the classes of their data.
PAPERS = {'cifar100': 100, 'imagenet_subset': 100, 'imagenet': 1000}
WITH_ARGUMENTS = ['folder', *PAPERS]

# Section 5.1 of the paper.
SHARED = {
    'protocol.class_order_seed': 1993,
    'protocol.phases': 5,
    'method.name': 'lucir',
    'weight_transfer': True,
    'backbone.head': 'cosine',
    'data.flip': True,
    'train.batch_size': 128,
    'train.lr': 0.1,
    'train.momentum': 0.9,
    'train.weight_decay': 5e-4,
    'train.schedule': 'step',
    'train.gamma': 0.1,
    'exemplars.strategy': 'mnemonics',
    'exemplars.per_class': 20,
    'exemplars.total': 0,
    'finetune.epochs': 50,
    'finetune.lr': 0.01,
    'finetune.momentum': 0.0,
    'finetune.scope': 'all',
}
ON_IMAGENET = {
    **SHARED,
    'data.source': 'folder',
    'data.image_size': 224,
    'data.eval_resize': 256,
    'data.random_resized_crop': True,
    'data.pad': 0,
    'backbone.name': 'resnet18',
    'method.lucir.lambda_base': 10.0,
    'train.epochs': 90,
    'train.milestones': (30, 60),
}
PROTOCOLS = {
    'cifar100': {
        **SHARED,
        'data.source': 'cifar',
        'data.name': 'cifar100',
        'data.dir': None,
        'data.image_size': None,
        'data.random_resized_crop': False,
        'data.pad': 4,
        'data.subset_classes': None,
        'protocol.base_classes': 50,
        'backbone.name': 'resnet32',
        'method.lucir.lambda_base': 5.0,
        'train.epochs': 160,
        'train.milestones': (80, 120),
    },
    'imagenet_subset': {
        **ON_IMAGENET,
        'data.subset_classes': 100,
        'data.subset_seed': 1993,
        'protocol.base_classes': 50,
    },
    'imagenet': {
        **ON_IMAGENET,
        'data.subset_classes': None,
        'protocol.base_classes': 500,
    },
}

# Average incremental accuracy of LUCIR w/ mnemonics for N = 5, 10, 25.
PUBLISHED = {
    'cifar100': {
        'CVPR 2020, Table 1': '64.95 63.25 63.70',
        'arXiv v6 (2021)': '63.34 62.28 60.96',
    },
    'imagenet_subset': {
        'CVPR 2020, Table 1': '73.30 72.17 71.50',
        'arXiv v6 (2021)': '72.58 71.37 69.74',
    },
    'imagenet': {
        'CVPR 2020, Table 1': '66.15 63.12 63.08',
        'arXiv v6 (2021)': '64.54 63.01 61.00',
    },
}


def load(name, text='', *flags):
    """Resolved, by way of the command line."""
    file = f'{TOP}/configs/{name}.py{text and ":"}{text}'
    return config_lib.resolve(parsed(f'--config={file}', *flags)[0])


def field_of(config, field):
    for name in field.split('.'):
        config = config[name]
    return config


def docstring(name):
    path = TOP / 'configs' / f'{name}.py'
    return ast.get_docstring(ast.parse(path.read_text()))


def absolute(words):
    return [w.replace('--config=', f'--config={TOP}/') for w in words]


@pytest.mark.parametrize('name', FILES)
def test_the_command_in_the_docstring_resolves(name):
    lines = docstring(name).splitlines()
    (command,) = [line for line in lines if 'python -m' in line]
    words = words_of(command)
    assert words[:3] == ['python', '-m', 'mnemonics_jax.main']
    config, workdir = parsed(*absolute(words[3:]))
    config_lib.resolve(config)
    assert workdir.startswith('runs/')
    (file,) = [w for w in words if w.startswith('--config=')]
    assert file.partition(':')[0] == f'--config=configs/{name}.py'


@pytest.mark.parametrize('name', FILES)
def test_the_flags_in_the_docstring_resolve_together(name):
    """Those of one paragraph, that is: paragraphs may be alternatives."""
    for paragraph in docstring(name).split('\n\n'):
        load(name, '', *re.findall(r'--config\.\S+', paragraph))


def test_milestones_are_numbers_with_commas_between():
    block = docstring('folder').split('\n\n')[-1]
    flags = re.findall(r'--config\.\S+', block)
    assert '--config.train.milestones=30,60' in flags
    assert load('folder', '', *flags).train.milestones == (30, 60)
    for text, value in (('7', (7,)), ('(3, 5)', (3, 5)), ('()', ())):
        flag = f'--config.train.milestones={text}'
        assert load('folder', '', flag).train.milestones == value


@pytest.mark.parametrize('name', PAPERS)
def test_the_protocol_is_the_papers(name):
    config = load(name)
    found = {field: field_of(config, field) for field in PROTOCOLS[name]}
    assert found == PROTOCOLS[name]


@pytest.mark.parametrize('phases', [5, 10, 25])
@pytest.mark.parametrize('name', PAPERS)
def test_half_of_the_classes_come_first_then_equal_phases(name, phases):
    num_classes = PAPERS[name]
    protocol = load(name, f'phases={phases}').protocol
    bounds = class_order.phase_bounds(
        num_classes, protocol.base_classes, protocol.phases
    )
    sizes = np.diff([0, *(end for _, end in bounds)]).tolist()
    half = num_classes // 2
    assert sizes == [half, *[half // phases] * phases]


@pytest.mark.parametrize('name', FILES)
def test_published_numbers_are_those_of_the_tables(name):
    rows = re.findall(
        r'^ +(.*\w\)?) {2,}(\d\d\.\d\d) +(\d\d\.\d\d) +(\d\d\.\d\d)$',
        docstring(name),
        re.MULTILINE,
    )
    found = {title: ' '.join(numbers) for title, *numbers in rows}
    assert found == PUBLISHED.get(name, {})
    headed = re.search(r'accuracy +N=5 +N=10 +N=25\n', docstring(name))
    assert bool(headed) == (name in PUBLISHED)
    assert len(re.findall(r'\d\d\.\d\d', docstring(name))) == 3 * len(found)


# What arguments set, and to what.
ARGUMENTS = {
    **{f'phases={n}': {'protocol.phases': n} for n in (5, 10, 25)},
    **{
        f'method={name}': {'method.name': name}
        for name in methods.method_names()
    },
    **{
        f'exemplars={name}': {'exemplars.strategy': name}
        for name in ('mnemonics', 'herding', 'random', 'none')
    },
    'adjust=true': {'exemplars.adjust': True},
    'adjust=false,preset=paper': {
        'exemplars.adjust': False,
        'exemplars.preset': 'paper',
    },
    'preset=tuned': {'exemplars.preset': 'tuned', 'exemplars.adjust': False},
    'preset=paper': {
        'exemplars.preset': 'paper',
        'exemplars.adjust': True,
        'exemplars.outer_epochs': 50,
        'exemplars.outer_lr': 0.01,
    },
    'transfer=true': {'weight_transfer': True},
    'transfer=false': {'weight_transfer': False},
    # The paper has weight transfer in its rows "w/ ours" alone.
    'exemplars=mnemonics': {'weight_transfer': True},
    'exemplars=herding': {'weight_transfer': False},
    'exemplars=random,transfer=true': {'weight_transfer': True},
    'method=icarl,exemplars=none': {'weight_transfer': False},
    'method=joint': {'weight_transfer': False},
    'method=podnet': {
        'backbone.head': 'local_similarity',
        'train.schedule': 'cosine',
        'finetune.epochs': 20,
        'finetune.lr': 0.05,
        'finetune.momentum': 0.9,
        'finetune.scope': 'head',
        'finetune.carry': True,
    },
    'phases=25,method=bic,transfer=False': {
        'protocol.phases': 25,
        'method.name': 'bic',
        'weight_transfer': False,
    },
}


@pytest.mark.parametrize('text', ARGUMENTS)
@pytest.mark.parametrize('name', WITH_ARGUMENTS)
def test_arguments_set_their_fields(name, text):
    config = load(name, text)
    expected = ARGUMENTS[text]
    assert {f: field_of(config, f) for f in expected} == expected


@pytest.mark.parametrize('name', WITH_ARGUMENTS)
def test_the_docstring_lists_all_arguments_and_methods(name):
    (paragraph,) = [
        paragraph
        for paragraph in docstring(name).split('\n\n')
        if paragraph.startswith('Arguments follow the colon')
    ]
    lines = dict(re.findall(r'^ {4}(\w+) {2,}(.*)$', paragraph, re.MULTILINE))
    own = {'folder': set(), 'cifar100': {'data'}}.get(name, {'source'})
    assert set(lines) == set(arguments.FIELDS) | own
    listed = lines['method'].replace(' (default)', '').split(', ')
    assert sorted(listed) == sorted(methods.method_names())


@pytest.mark.parametrize('name', ['imagenet_subset', 'imagenet'])
def test_imagenet_comes_from_a_folder_or_from_tfds(name):
    data = load(name).data
    assert (data.source, data.name) == ('folder', None)
    data = load(name, 'source=tfds').data
    assert (data.source, data.name) == ('tfds', 'imagenet2012')


@pytest.mark.parametrize('name', WITH_ARGUMENTS)
@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (
            'phasess=5',
            ["'phasess'", 'must be one of phases, method'],
        ),
        ('phases=10,stages=3', ["'stages'", 'must be one of phases']),
        ('phases=x', ["phases='x'", 'an integer >= 0']),
        ('phases=-5', ["phases='-5'", 'an integer >= 0']),
        ('phases=2.5', ["phases='2.5'", 'an integer >= 0']),
        ('phases', ["phases=''", 'an integer >= 0']),
        ('adjust=1', ["adjust='1'", 'true or false']),
        ('transfer=maybe', ["transfer='maybe'", 'true or false']),
        ('method=lucyr', ["method.name='lucyr'", 'lucir', 'podnet']),
        ('exemplars=best', ["exemplars.strategy='best'", 'herding']),
        ('preset=', ["exemplars.preset=''", 'paper, bilevel, tuned']),
        (
            'method=joint,transfer=true',
            ['weight_transfer=True', 'must be false', 'method.name=joint'],
        ),
    ],
)
def test_a_bad_argument_is_named_in_one_line(name, text, words):
    module = importlib.import_module(f'configs.{name}')
    with pytest.raises(ValueError) as error:
        config_lib.resolve(module.get_config(text))
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_cifar100_takes_a_place_of_its_files():
    data = load('cifar100', 'data=~/my data/cifar-100-python.tar.gz').data
    assert data.source == 'cifar'
    assert data.dir == '~/my data/cifar-100-python.tar.gz'
    assert load('cifar100', '', '--config.data.dir=/data').data.dir == '/data'


def test_only_imagenet_has_a_source_to_choose():
    for name in ('cifar100', 'folder'):
        module = importlib.import_module(f'configs.{name}')
        with pytest.raises(ValueError, match="'source': must be"):
            module.get_config('source=tfds')
    module = importlib.import_module('configs.imagenet')
    with pytest.raises(ValueError, match=r"data\.source='web': must be .*tfds"):
        config_lib.resolve(module.get_config('source=web'))


def test_a_folder_leaves_the_protocol_to_its_classes():
    protocol = load('folder').protocol
    assert (protocol.base_classes, protocol.phases) == (None, None)
    assert load('folder', 'phases=3').protocol.phases == 3


def test_a_configuration_is_found_by_its_name_and_a_file_by_its_path(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    digits = str(TOP / 'configs' / 'digits.py')
    assert arguments.locate('digits') == digits
    assert arguments.locate(f'{digits}:a=b:c') == f'{digits}:a=b:c'
    found = arguments.load('cifar100:phases=25,method=bic')
    assert (found.protocol.phases, found.method.name) == (25, 'bic')
    assert arguments.load('digits').data.source == 'digits'
    # A file of that name wins; a folder is none.
    (tmp_path / 'folder').mkdir()
    assert arguments.locate('folder').endswith('configs/folder.py')
    (tmp_path / 'digits').write_text('')
    assert arguments.locate('digits') == 'digits'
    with pytest.raises(
        ValueError, match=f'must be .*one of {", ".join(FILES)}$'
    ):
        arguments.locate('digits.py')
