"""A mistake of any command: one line, exit status 2, and nothing is written."""

import re
import shlex
import shutil
import sys

import numpy as np
import pytest
from command import ROOT, assert_refused, call, call_main, run_module
from data_arrays_test import write as write_arrays
from data_folder_test import write_folder
from extras import skip_without_tfds

from experiments import from_scratch
from mnemonics_jax import evaluate, export, predict
from mnemonics_jax.report import command as report_command

sys.path[:0] = [str(ROOT / 'launch'), str(ROOT / 'benchmarks')]

import readme_picture
import sweep

COMMANDS = {
    'evaluate': evaluate,
    'predict': predict,
    'export': export,
    'sweep': sweep,
    'report': report_command,
    'picture': readme_picture,
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


def folder(spoil):
    """Classes of three and of two images, and what is done to them."""

    def prepare(here):
        root = write_folder(here / 'photos')
        (root / 'train' / 'cow' / '1.png').unlink()
        spoil(root)

    return prepare


def empty(root):
    for file in (root / 'train' / 'bee').iterdir():
        file.unlink()


def arrays(**changes):
    return lambda here: write_arrays(here / 'images.npz', **changes)


def text(name, content):
    def prepare(here):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(content)

    return prepare


# What lies in {here} before.
BEFORE = {
    'nothing': lambda here: None,
    # Permissions do not stop the superuser; a file in the way stops anyone.
    'a file': text('file', 'in the way'),
    'a torn file': text('run/config.json', '{"config"'),
    'a misspelt field': text('config.py', MISSPELT),
    'images': folder(lambda root: None),
    'no class': folder(shutil.rmtree),
    'an empty class': folder(empty),
    'another class': folder(
        lambda root: (root / 'validation' / 'cow').rename(
            root / 'validation' / 'dog'
        )
    ),
    'floats': arrays(train_images=np.zeros((12, 5, 4, 3), np.float32)),
    'channels first': arrays(train_images=np.zeros((12, 3, 5, 4), np.uint8)),
    'label 3': arrays(test_labels=np.array([0, 1, 2, 3, 0, 0])),
    'half of cifar': text('cifar-100-python/train', '}.'),
    'no labels': arrays(test_labels=None),
    'a text': text('images.npz', 'train_images: none'),
}
NAMES = {
    'config': 'main --workdir={here}/new --config=',
    # Would be downloaded if it were looked for.
    'cifar': (
        'main --workdir={here}/new --config.data.dir={here} --config=cifar100'
    ),
    'digits': '{config}configs/digits.py',
    'folder': (
        '{config}configs/folder.py --config.data.dir={here}/photos '
        '--config.data.image_size=8 --config.data.pad=1 '
        '--config.protocol.base_classes=2 --config.protocol.phases=1 '
        '--config.method.name=finetune --config.exemplars.strategy=none '
        '--config.weight_transfer=False'
    ),
    'arrays': (
        '{digits} --config.data.source=arrays '
        '--config.data.dir={here}/images.npz'
    ),
    'sweep': 'sweep --config=configs/digits.py --out={here}/new',
    'scratch': 'from_scratch --out={here}',
}
# Commands, what is there before, and words of the line that they end with. The
# file after a blank would be taken for none if the default's fields counted.
MISTAKES = r"""
{digits} --config.exemplars.per_clas=5
    exemplars.per_clas | per_class
{digits} --config.method.name=lucyr
    method.name | 'lucyr' | finetune | icarl | lucir
{digits} --config.exemplars.per_class=-1
    exemplars.per_class | -1 | >= 0
{digits} --config.protocol.phases=7
    protocol.phases | 7 | 1, 2, 3, 6
{digits} --config.train.epochs=many
    train.epochs | many
{digits} seed=3
    seed=3 | --config.
{digits} --seed=1
    --seed=1: no such flag | --config.seed=1
{digits} --epochs=5
    --config.train.epochs=5 or --config.finetune.epochs=5
{config}digits --workdri=x
    --workdri=x: no such flag; nearest: --workdir | --help
{config}digits --config=cifar100
    --config=digits, --config=cifar100: must be given once
{config}cifar100:phases=2,phases=5
    argument 'phases': must be given once
main
    no arguments | --config=digits --workdir= | --help
{digits} --config.method.icarl.temperature=3.0
    method.icarl.temperature=3.0: must be left out | method.name=lucir
{digits} --config.plugins=examples/own_method.py \
  --config.method.name=own_method --config.method.own_method.weight=-2.0
    method.own_method.weight=-2.0: must be a number >= 0
{cifar}:phases=6
    protocol.phases=6 | must be a divisor of 50 | 1, 2, 5, 10, 25, 50
{cifar} --config.train.epochs=20
    milestones=(80, 120) | train.epochs=20 | milestones=10,15 | schedule=cosine
{cifar} --config.train.milestones=120,80
    train.milestones=(120, 80): must rise | train.milestones=80,120
{cifar} --config.exemplars.per_class=0 --config.exemplars.total=99
    exemplars.total=99: must be at least 100
{cifar} --config.train.base_run={here}/no
    train.base_run={here}/no: no config.json
{cifar} --config.protocol.class_order_file={here}/no
    class_order_file='{here}/no': No such file
main --config=configs/digits.py
    --workdir
main --config=configs/digits.py --workdir={here}/file/run < a file
    --workdir | {here}/file/run | must be a writable directory
main --workdir={here}/run < a torn file
    {here}/run/config.json | no configuration of a run
{config}configs/absent.py
    configs/absent.py
main --config=configs/absent.py --config.seed=1
    --config=configs/absent.py
main --config configs/folder.py --config.train.epochs=many
    --config.train.epochs=many: must be an integer >= 1
{config}{here}/config.py < a misspelt field
    --config={here}/config.py | no field 'nmae' | nearest: name
{config}configs/cifar100.py:phasess=5
    'phasess' | one of phases, method
{config}configs/cifar100.py:phases=x
    phases='x' | an integer >= 0
{config}configs/digits.py:phases=5
    configs/digits.py:phases=5 | argument
{config}README.md
    README.md | line
{config}configs/cifar100.py --config.data.name=cifar1000 \
  --config.data.dir={here}
    data.name='cifar1000' | cifar100, cifar10 | data.source=tfds
{folder} < no class
    data.dir= | {here}/photos | no such directory
{folder} --config.data.test_fraction=0.2 < images
    data.test_fraction=0.2 | must be None | validation
{folder} --config.data.labels={here}/no.csv < images
    data.labels='{here}/no.csv' | no such file
{digits} --config.data.test_fraction=0.2
    data.test_fraction=0.2 | must be None with data.source=digits
{config}configs/cifar100.py:data={here}/no
    data.dir='{here}/no' | cifar-100-python.tar.gz
{config}configs/cifar100.py:data={here} < half of cifar
    {here}/cifar-100-python: no test, meta; must have train, test, meta
{folder} < an empty class
    {here}/photos/train/bee: no image, but
{folder} < another class
    data.dir= | class 'cow' is in train, not in validation
{digits} --config.protocol.phase_sizes=3,2,4
    protocol.phase_sizes=3,2,4 | add up to 10, the number of classes, not to 9
{folder} --config.protocol.phases=7 < images
    protocol.phases=7 | must be a divisor of 1
{folder} --config.data.feed=device --config.data.pad=0 \
  --config.data.random_resized_crop=True < images
    data.feed=device | data.random_resized_crop=True | tfdata
{folder} --config.data.image_size=224 --config.data.read_ahead_mb=1 \
  --config.data.feed=tfdata < images
    data.read_ahead_mb=1 | must be >=  | batches of  | 224x224
{folder} --config.data.image_size=32 --config.data.eval_resize=31 < images
    data.eval_resize=31 | >= data.image_size=32
{folder} --config.data.random_resized_crop=True < images
    data.pad=1 | data.random_resized_crop=True | must be 0
{arrays} < floats
    data.dir='{here}/images.npz' | train_images | float32 | uint8
{arrays} < channels first
    data.dir='{here}/images.npz' | (12, 3, 5, 4) | .transpose(0, 2, 3, 1)
{arrays} < label 3
    data.dir='{here}/images.npz' | test_labels | label 3 | 0..2
{arrays} < no labels
    data.dir='{here}/images.npz' | test_labels: missing | x_train | found: t
{arrays} < a text
    data.dir='{here}/images.npz' | no .npz file
evaluate {run} --data.dri=x
    --data.dri=x | dir
evaluate {run} --train.epochs=3
    --train.epochs=3
evaluate {here}/no
    config.json
evaluate {run} --data.flip
    --data.flip
evaluate {run} --data.image_size=big
    data.image_size=big | int
evaluate {run} --data.feed=disk
    data.feed='disk' | tfdata
evaluate {run} --data.dir=/nowhere
    /nowhere | no such
evaluate {run} --data.source=digits
    (8, 8, 1) | (8, 8, 3)
evaluate {run} --data.source=synthetic --data.num_classes=3 \
  --data.channels=3
    no test image of a class
evaluate {run} --phase=0
    --phase=0 | 1, 2
evaluate {run} --phase=-3
    --phase=-3 | 1, 2
predict
    WORKDIR
predict {run} {image} {here}/absent.png
    {here}/absent.png: no such file
predict {run} {image} --phase=last
    --phase | 'last'
evaluate
    WORKDIR
export {run}
    --out
report
    WORKDIR
report --outt=x {here}
    --outt=x
picture {here}/no
    {here}/no/results.json: No such file
predict {run} {here}
    no image in it
predict {run} {here}/absent.png
    no such file
predict {here}/no {here}/image.png
    no config.json
predict {run} {image} --top=0
    --top=0
predict {run} {image} --out={here}/no/found.csv
    found.csv
export {here}/no --out={here}/new
    config.json
export {run} --phase=0 --out={here}/new
    --phase=0 | 1, 2
export {run} --out={data}
    must be a new or empty folder
export {run} --out=/proc/no
    /proc/no
{sweep}
    --grid
{sweep} --grid=method
    --grid | 'method' | field=value
{sweep} --grid=method=
    --grid | field=value
{sweep} --grid==1
    --grid | field=value
{sweep} --grid=seed=0,,1
    seed=0,,1 | distinct values
{sweep} --grid=seed=0,1,0
    seed=0,1,0 | distinct values
{sweep} --grid=method=lucir --grid=method.name=icarl
    method.name | already
{sweep} --grid=seed=0 --set=seed=1
    --set | seed | already
{sweep} --grid=seed=0 --set=seed
    --set | field=value
{sweep} --grid=seed=0 --jobs=0
    --jobs=0 | an integer >= 1
{sweep} --grid=seed=0 --config=no.py
    no.py | must be a file
{sweep} --grid=seed=0 --jobz=2
    --jobz=2
{scratch} --seeds=1,x
    --seeds=1,x | must be integers >= 0
{scratch} --per-class=0
    --per-class=0 | must be integers >= 1
{scratch} --per-class=40
    --per-class=40 | at most 25
{scratch} --data=/nowhere
    /nowhere | no such directory
{scratch} --date=digits
    --date=digits
{scratch} --network=convolutions
    --network= | must be perceptron
"""
ROWS = re.findall(
    r'^(\S.*?)(?: < (.*?))?\n    (.*)$',
    MISTAKES.replace(' \\\n ', ''),
    re.MULTILINE,
)


def test_each_row_of_the_table_is_read():
    lines = MISTAKES.replace(' \\\n ', '').strip().splitlines()
    assert len(lines) == 2 * len(ROWS) == 2 * 97


def below(*folders):
    return [sorted(folder.rglob('*')) for folder in folders]


@pytest.mark.parametrize(('command', 'before', 'words'), ROWS)
def test_a_mistake_is_one_line(
    command, before, words, request, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    if 'feed=tfdata' in command or 'cifar1000' in command:
        skip_without_tfds()
    known = {'here': tmp_path}
    if '{run}' in command:
        saved = request.getfixturevalue('saved_run')
        image = next((saved.data / 'train').rglob('*.png'))
        known |= {'run': saved.workdir, 'data': saved.data, 'image': image}
    BEFORE[before or 'nothing'](tmp_path)
    for name in reversed(NAMES):
        command = command.replace(f'{{{name}}}', NAMES[name])
    folders = [tmp_path, *(known[k] for k in ('run', 'data') if k in known)]
    there = below(*folders)
    name, *arguments = shlex.split(command.format(**known))
    if name == 'main':
        done = call_main(*arguments)
    else:
        done = call(lambda: COMMANDS[name].main(arguments))
    assert_refused(done, *words.format(**known).split(' | '))
    assert done.stdout == ''
    assert below(*folders) == there


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
