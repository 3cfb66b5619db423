"""CIFAR's own archives: what is read, what is refused, and what never runs."""

import io
import os
import pickle
import shutil
import sys
import tarfile

import numpy as np
import pytest
from command import assert_refused, call_main

from mnemonics_jax.data import sources
from mnemonics_jax.report import published

REAL = os.environ.get('MNEMONICS_JAX_TEST_CIFAR')
NAMES = ('fox', 'wolf', 'apple')
SIDE = 32


def python2(content):
    """A pickle as Python 2 wrote it: protocol 2, texts and raw bytes."""
    parts = [b'\x80\x02']

    def put(value):
        if isinstance(value, dict):
            parts.append(b'}')
            for key, item in value.items():
                put(key)
                put(item)
                parts.append(b's')
        elif isinstance(value, list):
            parts.append(b']')
            for item in value:
                put(item)
                parts.append(b'a')
        elif isinstance(value, bytes):
            parts.append(b'T' + len(value).to_bytes(4, 'little') + value)
        elif isinstance(value, int):
            parts.append(b'J' + value.to_bytes(4, 'little', signed=True))
        else:
            put_array(value)

    def put_array(value):
        parts.append(b'cnumpy.core.multiarray\n_reconstruct\n')
        parts.append(b'cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01')
        for side in value.shape:
            put(side)
        parts.append(b'\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R')
        parts.append(
            b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
        )
        parts.append(b'\x89')
        put(value.tobytes())
        parts.append(b'tb')

    put(content)
    return b''.join([*parts, b'.'])


def protocol(number):
    return lambda content: pickle.dumps(content, protocol=number)


def with_texts(content):
    """As written anew by someone: texts as keys and a scalar of NumPy."""
    content = {
        key.decode(): [np.int64(v) for v in value]
        if key == b'fine_labels'
        else value
        for key, value in content.items()
    }
    return pickle.dumps(content)


def split(seed, num, labels=b'fine_labels'):
    """Images uint8[n,32,32,3] and what a file of them has."""
    images = np.random.default_rng(seed).integers(
        0, 256, (num, SIDE, SIDE, 3), np.uint8
    )
    rows = images.transpose(0, 3, 1, 2).reshape(num, -1)
    return images, {
        b'data': rows,
        labels: [k % 3 for k in range(num)],
        b'filenames': [b'%d.png' % k for k in range(num)],
        b'batch_label': b'',
    }


def write_100(root, dump=python2):
    """Writes `cifar-100-python`; gives its images by split."""
    folder = root / 'cifar-100-python'
    folder.mkdir(parents=True)
    names = {b'fine_label_names': [name.encode() for name in NAMES]}
    (folder / 'meta').write_bytes(dump(names))
    images = {}
    for name, num in (('train', 9), ('test', 6)):
        images[name], content = split(num, num)
        (folder / name).write_bytes(dump(content))
    return images


def pack(root, folder):
    """Packs a folder as the archive is packed, and removes the folder."""
    path = root / f'{folder.removesuffix("-batches-py")}.tar.gz'
    if folder.endswith('-batches-py'):
        path = root / 'cifar-10-python.tar.gz'
    with tarfile.open(path, 'w:gz') as archive:
        archive.add(root / folder, folder)
    shutil.rmtree(root / folder)
    return path


def make(place, **more):
    return sources.make_source('cifar', {'dir': str(place), **more})


DUMPS = {
    'python 2': python2,
    'protocol 2': protocol(2),
    'protocol 4': protocol(4),
    'protocol 5': protocol(5),
    'texts': with_texts,
}


@pytest.mark.parametrize('dump', DUMPS)
def test_every_pickle_of_the_archive_gives_its_images(tmp_path, dump):
    images = write_100(tmp_path, DUMPS[dump])
    source = make(tmp_path)
    assert source.class_names == NAMES
    assert source.image_shape == (SIDE, SIDE, 3)
    assert source.mean == (0.5071, 0.4866, 0.4409)
    for name, num in (('train', 9), ('test', 6)):
        assert source.labels[name].tolist() == [k % 3 for k in range(num)]
        some = np.array([num - 1, 0])
        np.testing.assert_array_equal(
            source.read(name, some), images[name][some]
        )


def test_the_archive_its_folder_and_their_parents_are_the_same(tmp_path):
    expected = write_100(tmp_path)['train']
    folder = tmp_path / 'cifar-100-python'
    before = sorted(tmp_path.rglob('*'))
    places = [folder, tmp_path]
    for place in places:
        source = make(place)
        assert source.about == {'read_from': str(folder)}
        np.testing.assert_array_equal(
            source.read('train', np.arange(9)), expected
        )
    assert sorted(tmp_path.rglob('*')) == before
    packed = pack(tmp_path, 'cifar-100-python')
    for place in (packed, tmp_path):
        source = make(place)
        assert source.notes == (f'CIFAR-100 from {packed}',)
        np.testing.assert_array_equal(
            source.read('train', np.arange(9)), expected
        )
    assert list(tmp_path.iterdir()) == [packed]  # Nothing is unpacked.


def test_cifar10_has_five_files_of_training_images(tmp_path):
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    names = {b'label_names': [name.encode() for name in NAMES]}
    (folder / 'batches.meta').write_bytes(python2(names))
    images = []
    for number in range(1, 6):
        part, content = split(number, 3, b'labels')
        images.append(part)
        (folder / f'data_batch_{number}').write_bytes(python2(content))
    (folder / 'test_batch').write_bytes(python2(content))
    with pytest.raises(ValueError, match="name='cifar100': must be cifar10,"):
        make(tmp_path, name='cifar100')
    packed = pack(tmp_path, 'cifar-10-batches-py')
    for place in (packed, tmp_path):
        source = make(place)
        assert source.class_names == NAMES
        found = source.read('train', np.arange(15))
        np.testing.assert_array_equal(found, np.concatenate(images))
        unit = found / 255
        np.testing.assert_allclose(source.mean, unit.mean((0, 1, 2)))
    write_100(tmp_path)
    with pytest.raises(ValueError, match='one of cifar100, cifar10, since'):
        make(tmp_path)
    assert make(tmp_path, name='cifar10').num_classes == 3


class Hostile:
    """Creates a file if it is unpickled as Python does."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, 'w'))


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path):
    write_100(tmp_path)
    made = tmp_path / 'made'
    train = tmp_path / 'cifar-100-python' / 'train'
    train.write_bytes(pickle.dumps({b'data': Hostile(str(made))}, 2))
    with pytest.raises(ValueError) as error:
        make(tmp_path)
    assert f'{train}: names ' in str(error.value)
    assert 'open, which is not run' in str(error.value)
    assert '\n' not in str(error.value)
    assert not made.exists()
    pickle.loads(train.read_bytes())[b'data'].close()
    assert made.exists()  # The file was hostile indeed.


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('train', {b'fine_labels': [0]}, 'train: no data: must have it beside'),
        ('train', {b'data': [1, 2]}, 'data: must be an array uint8[n,3072]'),
        (
            'train',
            {b'data': np.zeros((2, 3072), np.uint8), b'fine_labels': [0]},
            'fine_labels: must be 2 integers',
        ),
        (
            'test',
            {b'data': np.zeros((1, 3072), np.uint8), b'fine_labels': [2**32]},
            'test: label 4294967296: must be in 0..2',
        ),
        ('meta', {b'fine_label_names': [b'a', b'a']}, 'must be distinct names'),
        ('meta', [1], 'meta: must be a pickled dict'),
        ('train', b'<html>', 'train: no pickle, or a damaged one (invalid'),
        ('train', b'', 'train: no pickle, or a damaged one (Ran out of input)'),
        ('test', b't.', "must be as in the archive from CIFAR's page"),
        *(
            (
                name,
                None,
                f'cifar-100-python: no {name}; must have train, test, meta',
            )
            for name in ('train', 'test', 'meta')
        ),
    ],
)
def test_a_file_with_other_content_is_named(tmp_path, name, content, words):
    write_100(tmp_path)
    path = tmp_path / 'cifar-100-python' / name
    path.unlink()
    if content is not None:
        raw = isinstance(content, bytes)
        path.write_bytes(content if raw else pickle.dumps(content))
    for place in (tmp_path, path.parent):
        with pytest.raises(ValueError) as error:
            make(place)
        assert words in str(error.value)
        assert '\n' not in str(error.value)


def test_what_is_no_archive_or_damaged_is_named(tmp_path):
    write_100(tmp_path)
    packed = pack(tmp_path, 'cifar-100-python')
    packed.write_bytes(packed.read_bytes()[:-4000])
    with pytest.raises(ValueError, match=f'{packed}: cannot be read: '):
        make(packed)
    packed.write_text('404')
    with pytest.raises(ValueError, match=f'{packed}: no tar archive; must be'):
        make(packed)
    with tarfile.open(packed, 'w:gz') as archive:
        archive.addfile(tarfile.TarInfo('other'), io.BytesIO())
    with pytest.raises(ValueError, match=f'{packed}: no train, test, meta'):
        make(packed)
    with pytest.raises(ValueError, match='image_size=64: must be None or'):
        write_100(tmp_path)
        make(tmp_path, image_size=64)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No network, and a home with nothing in it."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'home' / 'sets'))
    for name in os.environ:
        if name.lower().endswith('_proxy'):
            monkeypatch.delenv(name)

    def refuse(*_, **__):
        raise OSError(-2, 'Name or service not known')

    monkeypatch.setattr('socket.getaddrinfo', refuse)


def test_without_files_and_network_one_line_names_all_places(tmp_path, nowhere):
    root = tmp_path / 'data'
    (root / 'photos').mkdir(parents=True)
    with pytest.raises(ValueError) as error:
        make(root)
    message = str(error.value)
    assert message.startswith(
        f"data.name='cifar100': no CIFAR-100 in data.dir='{root}' nor "
    )
    for words in (
        '/cifar100/3.0.2 of TFDS; data.dir must be cifar-100-python.tar.gz, ',
        'the folder in it, or a folder that has either, from https://',
        'without a network: www.cs.toronto.edu: Name or service not known',
    ):
        assert words in message
    assert '\n' not in message
    assert [path.name for path in root.rglob('*')] == ['photos']
    monkey = {'tensorflow': None, 'tensorflow_datasets': None}
    with pytest.MonkeyPatch.context() as patch:
        for module, nothing in monkey.items():
            patch.setitem(sys.modules, module, nothing)
        patch.setattr(
            'mnemonics_jax.data.tf_import.tensorflow',
            lambda: __import__('tensorflow'),
        )
        with pytest.raises(
            ValueError, match=r'no CIFAR-100 in .*needs TensorFlow'
        ):
            make(root)
    with pytest.raises(ValueError, match="absent': no such file or folder"):
        make(root / 'absent')


def test_the_command_trains_on_the_archive(tmp_path):
    write_100(tmp_path)
    packed = pack(tmp_path, 'cifar-100-python')
    fields = {
        'data.feed': 'device',
        'protocol.base_classes': 2,
        'backbone.name': 'convnet_tiny',
        'weight_transfer': False,
        'train.epochs': 1,
        'train.schedule': 'cosine',
        'train.batch_size': 3,
        'finetune.epochs': 1,
        'exemplars.per_class': 1,
        'report': False,
    }
    done = call_main(
        f'--config=configs/cifar100.py:phases=1,exemplars=herding,data={packed}',
        f'--workdir={tmp_path / "run"}',
        *(f'--config.{name}={value}' for name, value in fields.items()),
    )
    assert done.returncode == 0, done.stderr
    assert f'CIFAR-100 from {packed}\ncifar: 3 classes in 2 ph' in done.stdout
    assert (
        f'"read_from": "{packed}"'
        in (tmp_path / 'run' / 'results.json').read_text()
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [packed.name, 'run']
    (tmp_path / 'other').mkdir()
    hostile = tmp_path / 'cifar-100-python.tar.gz'
    hostile.write_bytes(pickle.dumps(Hostile('made')))
    assert_refused(
        call_main(
            f'--config=configs/cifar100.py:data={hostile}',
            f'--workdir={tmp_path / "new"}',
        ),
        'no tar archive',
    )


@pytest.mark.skipif(
    REAL is None,
    reason='MNEMONICS_JAX_TEST_CIFAR names no cifar-100-python of real images',
)
def test_the_real_images():
    source = make(REAL)
    assert np.bincount(source.labels['train']).tolist() == [500] * 100
    assert np.bincount(source.labels['test']).tolist() == [100] * 100
    config = {'data': {'source': 'cifar', 'name': 'cifar100'}}
    assert published.data_name(config, source.class_names) == 'CIFAR-100'
    # What everybody quotes, of all training images.
    pixels = source.read('train', np.arange(50_000)) / 255
    np.testing.assert_allclose(
        pixels.mean((0, 1, 2)), (0.507, 0.487, 0.441), atol=2e-3
    )
