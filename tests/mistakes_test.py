"""A mistake of any command: one line, exit status 2, and nothing is written."""

import shlex
import shutil
import sys

import numpy as np
import pytest
from command import ROOT, assert_refused, call, call_main, run_module
from data_arrays_test import write as write_arrays
from data_folder_test import write_folder

from experiments import from_scratch
from mnemonics_jax import evaluate, export, predict

sys.path.insert(0, str(ROOT / 'launch'))

import sweep

COMMANDS = {
    'evaluate': evaluate,
    'predict': predict,
    'export': export,
    'sweep': sweep,
    'from_scratch': from_scratch,
}
# A file of a configuration with a misspelt field.
MISSPELT = """
from mnemonics_jax.config import default_config
def get_config():
    config = default_config()
    config.data.nmae = "cifar100"
    return config
"""


def folder(spoil=lambda root: None):
    """Three classes of images in {here}/photos, and what is done to them."""

    def prepare(here):
        spoil(write_folder(here / 'photos'))

    return prepare


def empty(path):
    for file in path.iterdir():
        file.unlink()


def arrays(**changes):
    return lambda here: write_arrays(here / 'images.npz', **changes)


def text(name, content):
    def prepare(here):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(content)

    return prepare


DIGITS = 'main --workdir={here}/new --config=configs/digits.py '
FOLDER = (
    'main --workdir={here}/new --config=configs/folder.py '
    '--config.data.dir={here}/photos --config.data.image_size=8 '
    '--config.data.pad=1 --config.protocol.base_classes=2 '
    '--config.protocol.phases=1 --config.method.name=finetune '
    '--config.exemplars.strategy=none --config.weight_transfer=False '
)
ARRAYS = (
    DIGITS + '--config.data.source=arrays --config.data.dir={here}/images.npz'
)
CONFIG = 'main --workdir={here}/new --config='
SWEEP = 'sweep --config=configs/digits.py --out={here}/new '
SCRATCH = 'from_scratch --out={here} '
two_left = folder(lambda root: (root / 'train' / 'cow' / '1.png').unlink())
# What -> the command, words of the line, and what is there before.
MISTAKES = {
    'misspelt field': (
        DIGITS + '--config.exemplars.per_clas=5',
        ['exemplars.per_clas', 'per_class'],
    ),
    'unknown method': (
        DIGITS + '--config.method.name=lucyr',
        ['method.name', "'lucyr'", 'finetune', 'icarl', 'lucir'],
    ),
    'negative count': (
        DIGITS + '--config.exemplars.per_class=-1',
        ['exemplars.per_class', '-1', '>= 0'],
    ),
    'phases that do not divide': (
        DIGITS + '--config.protocol.phases=7',
        ['protocol.phases', '7', '1, 2, 3, 6'],
    ),
    'wrong type': (
        DIGITS + '--config.train.epochs=many',
        ['train.epochs', 'many'],
    ),
    'flag without dashes': (DIGITS + 'seed=3', ['seed=3', '--']),
    'no workdir': ('main --config=configs/digits.py', ['--workdir']),
    # Permissions do not stop the superuser; a file in the way stops anyone.
    'unwritable workdir': (
        'main --config=configs/digits.py --workdir={here}/file/run',
        ['--workdir', '{here}/file/run', 'can be written'],
        text('file', 'in the way'),
    ),
    'damaged workdir': (
        'main --workdir={here}/run',
        ['{here}/run/config.json', 'no configuration of a run'],
        text('run/config.json', '{"config"'),
    ),
    'missing configuration': (
        CONFIG + 'configs/absent.py',
        ['configs/absent.py'],
    ),
    'missing configuration with a field': (
        'main --config=configs/absent.py --config.seed=1',
        ['--config=configs/absent.py'],
    ),
    # Had it been taken for none, the default's fields would be in the way.
    'configuration after a blank': (
        'main --config configs/folder.py --config.train.epochs=many',
        ['flag --config.train.epochs=many'],
    ),
    'misspelt field in a file': (
        CONFIG + '{here}/config.py',
        ['--config={here}/config.py', "no field 'nmae'", 'nearest: name'],
        text('config.py', MISSPELT),
    ),
    'unknown argument of a file': (
        CONFIG + 'configs/cifar100.py:phasess=5',
        ["'phasess'", 'one of phases, method'],
    ),
    'wrong argument of a file': (
        CONFIG + 'configs/cifar100.py:phases=x',
        ["phases='x'", 'an integer >= 0'],
    ),
    'argument of a file without any': (
        CONFIG + 'configs/digits.py:phases=5',
        ['configs/digits.py:phases=5', 'argument'],
    ),
    'no configuration': (CONFIG + 'README.md', ['README.md', 'line']),
    'misspelt name of tfds': (
        CONFIG + 'configs/cifar100.py --config.data.name=cifar1000 '
        '--config.data.dir={here}',
        ["data.name='cifar1000'", 'nearest: cifar100, cifar10'],
    ),
    'missing folder': (
        FOLDER,
        ['data.dir=', '{here}/photos', 'no such directory'],
        folder(shutil.rmtree),
    ),
    'class without images': (
        FOLDER,
        ['{here}/photos/train/bee: no image, but'],
        folder(lambda root: empty(root / 'train' / 'bee')),
    ),
    'classes that differ': (
        FOLDER,
        ['data.dir=', "class 'cow' is in train, not in validation"],
        folder(
            lambda root: (root / 'validation' / 'cow').rename(
                root / 'validation' / 'dog'
            )
        ),
    ),
    'more exemplars than a class has': (
        FOLDER + '--config.exemplars.strategy=herding '
        '--config.exemplars.per_class=3',
        ['exemplars.per_class=3', 'at most 2', "'cow'"],
        two_left,
    ),
    'more phases than classes': (
        FOLDER + '--config.protocol.phases=7',
        ['protocol.phases=7', 'must be a divisor of 1'],
        two_left,
    ),
    'crops of originals on the device': (
        FOLDER + '--config.data.feed=device --config.data.pad=0 '
        '--config.data.random_resized_crop=True',
        ['data.feed=device', 'data.random_resized_crop=True', 'tfdata'],
        two_left,
    ),
    'little memory to read ahead': (
        FOLDER + '--config.data.image_size=224 --config.data.read_ahead_mb=1',
        ['data.read_ahead_mb=1', 'must be >= ', 'batches of ', '224x224'],
        two_left,
    ),
    'a crop larger than the image': (
        FOLDER + '--config.data.image_size=32 --config.data.eval_resize=31',
        ['data.eval_resize=31', '>= data.image_size=32'],
        two_left,
    ),
    'padding and crops of originals': (
        FOLDER + '--config.data.random_resized_crop=True',
        ['data.pad=1', 'data.random_resized_crop=True', 'must be 0'],
        two_left,
    ),
    'dtype of arrays': (
        ARRAYS,
        ["data.dir='{here}/images.npz'", 'train_images', 'float32', 'uint8'],
        arrays(train_images=np.zeros((12, 5, 4, 3), np.float32)),
    ),
    'rank of arrays': (
        ARRAYS,
        ["data.dir='{here}/images.npz'", 'train_images', 'rank 3', 'must be 4'],
        arrays(train_images=np.zeros((12, 5, 4), np.uint8)),
    ),
    'labels of arrays': (
        ARRAYS,
        ["data.dir='{here}/images.npz'", 'test_labels', 'label 3', '0..2'],
        arrays(test_labels=np.array([0, 1, 2, 3, 0, 0])),
    ),
    'missing array': (
        ARRAYS,
        ["data.dir='{here}/images.npz'", 'test_labels: missing'],
        arrays(test_labels=None),
    ),
    'no arrays': (
        ARRAYS,
        ["data.dir='{here}/images.npz'", 'no .npz file'],
        text('images.npz', 'train_images: none'),
    ),
    # What is evaluated.
    'unknown field of the data': (
        'evaluate {run} --data.dri=x',
        ['--data.dri=x', 'dir'],
    ),
    'no field of the data': (
        'evaluate {run} --train.epochs=3',
        ['--train.epochs=3'],
    ),
    'no run to evaluate': ('evaluate {here}/no', ['config.json']),
    'no value': ('evaluate {run} --data.flip', ['--data.flip']),
    'wrong type of a field': (
        'evaluate {run} --data.image_size=big',
        ['data.image_size=big', 'int'],
    ),
    'wrong value of a field': (
        'evaluate {run} --data.feed=disk',
        ["data.feed='disk'", 'tfdata'],
    ),
    'folder to evaluate': (
        'evaluate {run} --data.dir=/nowhere',
        ['/nowhere', 'no such'],
    ),
    'another shape': (
        'evaluate {run} --data.source=digits',
        ['(8, 8, 1)', '(8, 8, 3)'],
    ),
    'other classes': (
        'evaluate {run} --data.source=synthetic --data.num_classes=3 '
        '--data.channels=3',
        ['no test image of a class'],
    ),
    'phase that is gone': ('evaluate {run} --phase=0', ['--phase=0', '1, 2']),
    'phase that never was': (
        'evaluate {run} --phase=-3',
        ['--phase=-3', '1, 2'],
    ),
    # What is predicted.
    'no image to predict': ('predict {run} {here}', ['no image in it']),
    'missing image': (
        'predict {run} {here}/absent.png',
        ['no such file'],
    ),
    'no run to predict by': (
        'predict {here}/no {here}/image.png',
        ['no config.json'],
    ),
    'no guesses': ('predict {run} {image} --top=0', ['--top=0']),
    'unwritable predictions': (
        'predict {run} {image} --out={here}/no/found.csv',
        ['found.csv'],
    ),
    # What is exported.
    'no run to export': ('export {here}/no --out={here}/new', ['config.json']),
    'phase to export that is gone': (
        'export {run} --phase=0 --out={here}/new',
        ['--phase=0', '1, 2'],
    ),
    'folder with files to export to': (
        'export {run} --out={data}',
        ['a new or an empty folder'],
    ),
    'unwritable export': ('export {run} --out=/proc/no', ['/proc/no']),
    # What is swept.
    'no grid': (SWEEP, ['--grid']),
    'field without values': (
        SWEEP + '--grid=method',
        ['--grid', "'method'", 'field=value'],
    ),
    'no values': (SWEEP + '--grid=method=', ['--grid', 'field=value']),
    'values without a field': (SWEEP + '--grid==1', ['--grid', 'field=value']),
    'an empty value': (
        SWEEP + '--grid=seed=0,,1',
        ['seed=0,,1', 'distinct values'],
    ),
    'a value twice': (
        SWEEP + '--grid=seed=0,1,0',
        ['seed=0,1,0', 'distinct values'],
    ),
    'a field twice': (
        SWEEP + '--grid=method=lucir --grid=method.name=icarl',
        ['method.name', 'already'],
    ),
    'a field of the grid set': (
        SWEEP + '--grid=seed=0 --set=seed=1',
        ['--set', 'seed', 'already'],
    ),
    'a field set to nothing': (
        SWEEP + '--grid=seed=0 --set=seed',
        ['--set', 'field=value'],
    ),
    'no jobs': (SWEEP + '--grid=seed=0 --jobs=0', ['--jobs=0', 'at least 1']),
    'no configuration to sweep': (
        SWEEP + '--grid=seed=0 --config=no.py',
        ['no.py', 'must be a file'],
    ),
    'misspelt flag of a sweep': (
        SWEEP + '--grid=seed=0 --jobz=2',
        ['--jobz=2'],
    ),
    # What is learned from scratch.
    'seeds': (SCRATCH + '--seeds=1,x', ['--seeds=1,x', 'numbers from 0 on']),
    'no image a class': (
        SCRATCH + '--per-class=0',
        ['--per-class=0', 'from 1 on'],
    ),
    'many images a class': (
        SCRATCH + '--per-class=40',
        ['--per-class=40', 'at most 100'],
    ),
    'no data': (SCRATCH + '--data=/nowhere', ['/nowhere', 'no such directory']),
    'misspelt flag': (SCRATCH + '--date=digits', ['--date=digits']),
    'a network of other data': (
        SCRATCH + '--network=convolutions',
        ['--network=', 'digits: perceptron'],
    ),
}


def below(*folders):
    return [sorted(folder.rglob('*')) for folder in folders]


@pytest.mark.parametrize('what', MISTAKES)
def test_a_mistake_is_one_line(what, request, tmp_path, monkeypatch):
    command, words, *prepare = MISTAKES[what]
    monkeypatch.chdir(ROOT)
    known = {'here': tmp_path}
    if '{run}' in command:
        saved = request.getfixturevalue('saved_run')
        image = next((saved.data / 'train').rglob('*.png'))
        known |= {'run': saved.workdir, 'data': saved.data, 'image': image}
    for make in prepare:
        make(tmp_path)
    folders = [tmp_path, *filter(None, [known.get('run'), known.get('data')])]
    before = below(*folders)
    name, *arguments = shlex.split(command.format(**known))
    if name == 'main':
        done = call_main(*arguments)
    else:
        done = call(lambda: COMMANDS[name].main(arguments))
    assert_refused(done, *(word.format(**known) for word in words))
    assert done.stdout == ''
    assert below(*folders) == before


@pytest.mark.parametrize(
    ('name', 'arguments', 'word'),
    [
        ('main', ['--config.protocol.phases=7'], 'protocol.phases=7'),
        ('main', ['--config.train.epochs=many'], 'train.epochs=many'),
        ('evaluate', [], 'config.json'),
    ],
)
def test_the_real_process_refuses_too(name, arguments, word, tmp_path):
    path = tmp_path / 'run'
    where = path if name == 'evaluate' else f'--workdir={path}'
    assert_refused(run_module(name, where, *arguments), word)
    assert not path.exists()
