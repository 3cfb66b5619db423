"""Tests of the source of TFDS sets, on files that TFDS itself writes here.

The builders are those registered in TFDS under their names; only what they
would download is replaced. Reading goes by name through the ordinary path.
"""

import collections
import io
import pathlib

import numpy as np
import pytest
from extras import needs_tfds, skip_without_tfds
from PIL import Image

from mnemonics_jax.data import sources
from mnemonics_jax.data.sources import _tfds_builders, tfds

pytestmark = needs_tfds

FORMATS = ('tfrecord', 'array_record')


def write_set(name, directory, splits, file_format, num_shards=1, names=None):
    """Writes {split: list of examples} as the set of a name."""
    skip_without_tfds()
    builder = _tfds_builders.library().builder(name, data_dir=directory)
    if names is not None:
        builder.info.features['label'].names = names
    builder._split_generators = lambda *managers: {
        split: iter(list(enumerate(examples)))
        for split, examples in splits.items()
    }
    builder.download_and_prepare(
        file_format=file_format,
        download_config=_tfds_builders.library().download.DownloadConfig(
            num_shards=num_shards
        ),
    )
    return builder


def cifar_examples(split, per_class):
    random = np.random.default_rng(len(split))
    return [
        {
            'id': f'{split}_{number:05d}',
            'image': random.integers(0, 256, (32, 32, 3), np.uint8),
            'label': number % 100,
            'coarse_label': number % 20,
        }
        for number in range(100 * per_class)
    ]


CIFAR = {
    'train': cifar_examples('train', 5),
    'test': cifar_examples('test', 1),
}


@pytest.fixture(name='cifar', scope='module')
def _cifar(tmp_path_factory):
    """Data directories by format, each with several files a split."""
    directories = {}
    for file_format in (*FORMATS, 'parquet'):
        directory = str(tmp_path_factory.mktemp(file_format))
        # TFDS 4.9.10 writes no more than 100 records into a parquet file
        # and loses the others.
        write_set('cifar100', directory, CIFAR, file_format, num_shards=10)
        directories[file_format] = directory
    return directories


def read_all(source, split):
    return source.read(split, np.arange(len(source.labels[split])))


def counted(labels, images):
    """Examples as a multiset."""
    return collections.Counter(
        (int(label), image.tobytes())
        for label, image in zip(labels, images, strict=True)
    )


@pytest.mark.parametrize('memory', [2**29, 0], ids=['memory', 'files'])
@pytest.mark.parametrize('file_format', [*FORMATS, 'parquet'])
def test_cifar100_by_name(cifar, file_format, memory, monkeypatch):
    monkeypatch.setattr(tfds, '_MEMORY', memory)
    options = {'name': 'cifar100', 'dir': cifar[file_format]}
    if file_format == 'tfrecord' and not memory:
        with pytest.raises(ValueError, match="file_format='array_record'"):
            sources.make_source('tfds', options)
        return
    source = sources.make_source('tfds', options)
    assert source.num_classes == len(source.class_names) == 100
    assert source.image_shape == (32, 32, 3)
    assert source.mean == (0.5071, 0.4866, 0.4409)
    assert source.std == (0.2009, 0.1984, 0.2023)
    for split, examples in CIFAR.items():
        labels, images = source.labels[split], read_all(source, split)
        assert labels.dtype == np.int32
        assert images.dtype == np.uint8
        assert counted(labels, images) == counted(
            [example['label'] for example in examples],
            [example['image'] for example in examples],
        )
        some = np.array([5, 0, 5, len(labels) - 1])
        np.testing.assert_array_equal(source.read(split, some), images[some])
        assert source.read(split, some[:0]).shape == (0, 32, 32, 3)


def test_the_source_cifar_takes_a_prepared_set_where_there_are_no_files(cifar):
    place = pathlib.Path(cifar['array_record'])
    before = sorted(place.rglob('*'))
    source = sources.make_source('cifar', {'dir': str(place)})
    assert source.notes == (f'CIFAR-100 from {place}/cifar100/3.0.2, by TFDS',)
    expected = sources.make_source('tfds', {'name': 'cifar100', 'dir': place})
    np.testing.assert_array_equal(
        read_all(source, 'test'), read_all(expected, 'test')
    )
    assert sorted(place.rglob('*')) == before


def test_both_formats_have_one_order(cifar):
    first, second = (
        sources.make_source('tfds', {'name': 'cifar100:3.0.2', 'dir': cifar[f]})
        for f in FORMATS
    )
    for split in CIFAR:
        assert len(set(first.labels[split][:20])) > 10  # TFDS shuffles.
        np.testing.assert_array_equal(first.labels[split], second.labels[split])
        np.testing.assert_array_equal(
            read_all(first, split), read_all(second, split)
        )


def test_images_are_read_when_they_are_needed(cifar, monkeypatch):
    decoded = []

    def spy(load, describe, num, *args, **kwargs):
        decoded.append(num)
        return decode_many(load, describe, num, *args, **kwargs)

    decode_many = tfds.decode.decode_many
    monkeypatch.setattr(tfds.decode, 'decode_many', spy)
    options = {'name': 'cifar100', 'dir': cifar['array_record']}
    source = sources.make_source('tfds', options)
    assert decoded == []
    source.read('test', np.array([3]))
    source.read('test', np.array([4]))
    assert decoded == [100]  # The split, once, and not the other one.
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    source = sources.make_source('tfds', options)
    source.read('train', np.array([3, 400]))
    assert decoded == [100, 2]


def test_labels_of_a_large_set_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    builder = write_set('cifar100', tmp_path, CIFAR, 'array_record')
    options = {'name': 'cifar100', 'dir': str(tmp_path)}
    first = sources.make_source('tfds', options)
    kept = builder.data_path / 'mnemonics_labels_train.npy'
    np.testing.assert_array_equal(np.load(kept), first.labels['train'])
    np.save(kept, first.labels['train'][::-1].copy())
    second = sources.make_source('tfds', options)
    np.testing.assert_array_equal(
        second.labels['train'], first.labels['train'][::-1]
    )
    kept.write_bytes(kept.read_bytes()[:100])  # As if the disk had been full.
    third = sources.make_source('tfds', options)
    np.testing.assert_array_equal(third.labels['train'], first.labels['train'])
    np.testing.assert_array_equal(np.load(kept), first.labels['train'])
    assert not list(builder.data_path.glob('*incomplete*'))


def encoded(array, kind):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return io.BytesIO(file.getvalue())


def food_examples(per_class):
    """JPEGs of one colour, their shapes and colours telling their labels."""
    examples = []
    for number in range(101 * per_class):
        label = number % 101
        array = np.full((20 + label % 7, 30 - label % 5, 3), 2 * label)
        image = encoded(array.astype(np.uint8), 'JPEG')
        examples.append({'image': image, 'label': label})
    return examples


@pytest.mark.parametrize('file_format', FORMATS)
def test_images_of_many_sizes(tmp_path, file_format):
    splits = {'train': food_examples(2), 'validation': food_examples(1)}
    write_set('food101', tmp_path, splits, file_format)
    options = {'name': 'food101', 'dir': str(tmp_path)}
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', options)
    assert str(error.value) == (
        'data.image_size=None: must be an integer >= 1 with '
        "data.name='food101', whose images vary in size"
    )
    source = sources.make_source('tfds', {**options, 'image_size': 12})
    assert source.image_shape == (12, 12, 3)
    for split in ('train', 'test'):
        pixels = read_all(source, split).astype(int)
        expected = 2 * source.labels[split][:, None, None, None]
        assert np.abs(pixels - expected).max() <= 2  # JPEG rounds.
    # No constants are known for this set: computed.
    levels = 2 * source.labels['train'] / 255
    np.testing.assert_allclose(source.mean, [levels.mean()] * 3, atol=0.01)
    np.testing.assert_allclose(source.std, [levels.std()] * 3, atol=0.01)


def test_grey_images_stay_grey_and_statistics_are_computed(tmp_path):
    random = np.random.default_rng(0)
    examples = [
        {
            'image': random.integers(0, 256, (28, 28, 1), np.uint8),
            'label': number % 10,
        }
        for number in range(20)
    ]
    write_set(
        'mnist', tmp_path, {'train': examples, 'test': examples}, 'tfrecord'
    )
    source = sources.make_source('tfds', {'name': 'mnist', 'dir': tmp_path})
    assert source.image_shape == (28, 28, 1)
    pixels = np.stack([example['image'] for example in examples]) / 255
    np.testing.assert_allclose(source.mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(source.std, [pixels.std()], rtol=1e-6)


def test_a_test_split_without_labels_is_passed_over(tmp_path):
    def examples(labels):
        return [
            {
                'image': encoded(np.full((9, 8, 3), 40, np.uint8), 'JPEG'),
                'label': label,
                'file_name': f'{number}.JPEG',
            }
            for number, label in enumerate(labels)
        ]

    splits = {
        'train': examples([*range(1000), 0]),
        'validation': examples(range(1000)),
        'test': examples([-1] * 5),
    }
    write_set('imagenet2012', tmp_path, splits, 'array_record')
    options = {'name': 'imagenet2012', 'dir': tmp_path, 'image_size': 4}
    source = sources.make_source('tfds', options)
    assert len(source.labels['test']) == source.num_classes == 1000
    assert source.class_names[0] == 'n01440764'
    assert source.mean == (0.485, 0.456, 0.406)
    assert source.read('test', np.array([7])).shape == (1, 4, 4, 3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {},
            'data.name=None: must be the name of a TFDS set, such as cifar100',
        ),
        (
            {'name': 'cifar-100'},
            "data.name='cifar-100': TFDS has no such set; nearest: cifar100",
        ),
        (
            {'name': 'qqqqqq'},
            "data.name='qqqqqq': TFDS has no such set; nearest: none",
        ),
        (
            {'name': 'imagenet_resized/65x65'},
            "data.name='imagenet_resized/65x65': ",
        ),
        ({'name': 'cifar100:9.9.9'}, "data.name='cifar100:9.9.9': "),
    ],
)
def test_a_name_that_does_not_exist(tmp_path, options, message):
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', {'dir': str(tmp_path), **options})
    assert str(error.value).startswith(message)
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_no_network(tmp_path, monkeypatch):
    # Whatever network there is: this proxy refuses.
    for variable in ('http_proxy', 'https_proxy', 'HTTPS_PROXY', 'HTTP_PROXY'):
        monkeypatch.setenv(variable, 'http://127.0.0.1:9')
    monkeypatch.setattr(_tfds_builders, '_RETRIES', 0)
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', {'name': 'cifar100', 'dir': str(tmp_path)})
    message = str(error.value)
    assert '\n' not in message
    assert message.startswith(
        f"data.name='cifar100': not in {tmp_path}/cifar100/3.0.2, and TFDS "
        'cannot prepare it: '
    )
    assert (
        f"tfds.builder('cifar100', data_dir='{tmp_path}')"
        ".download_and_prepare(file_format='array_record')"
    ) in message
    assert not (tmp_path / 'cifar100' / '3.0.2').exists()


def test_what_is_no_classification_of_images(tmp_path):
    splits = {'train': [{'text': 'good', 'label': 1}]}
    write_set('imdb_reviews', tmp_path, splits, 'array_record')
    with pytest.raises(
        ValueError, match='must be a set for image classification'
    ):
        sources.make_source('tfds', {'name': 'imdb_reviews', 'dir': tmp_path})


def test_a_missing_split_or_class(tmp_path):
    few = [dict(example, label=0) for example in CIFAR['test']]
    for number, (splits, message) in enumerate(
        [
            (
                {'train': CIFAR['train']},
                'has the splits train; must have train, and test or '
                'validation, with labels',
            ),
            (
                {'train': CIFAR['train'], 'test': few},
                "split 'test': no image of class '1' (label 1)",
            ),
        ]
    ):
        directory = tmp_path / str(number)
        names = [str(label) for label in range(100)]
        write_set('cifar100', directory, splits, 'array_record', names=names)
        with pytest.raises(ValueError) as error:
            sources.make_source('tfds', {'name': 'cifar100', 'dir': directory})
        assert str(error.value) == f"data.name='cifar100': {message}"


def test_lost_records(tmp_path):
    from pyarrow import parquet

    splits = {'train': CIFAR['test'], 'test': CIFAR['test']}
    builder = write_set('cifar100', tmp_path, splits, 'parquet')
    (path,) = builder.data_path.glob('*-train*-of-*')
    parquet.write_table(parquet.read_table(path).slice(0, 60), path)
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', {'name': 'cifar100', 'dir': tmp_path})
    assert str(error.value) == (
        "data.name='cifar100': split 'train': 60 of 100 records are in "
        f'{builder.data_dir}; must be prepared again'
    )


@pytest.mark.parametrize('file_format', [*FORMATS, 'parquet'])
def test_missing_files(tmp_path, file_format):
    splits = {'train': CIFAR['test'], 'test': CIFAR['test']}
    builder = write_set('cifar100', tmp_path, splits, file_format)
    (path,) = builder.data_path.glob('*-test*-of-*')
    path.unlink()
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', {'name': 'cifar100', 'dir': tmp_path})
    assert '\n' not in str(error.value)
    assert str(error.value).startswith(
        f"data.name='cifar100': split 'test': the files in {builder.data_dir} "
        'cannot be read: '
    )


@pytest.mark.parametrize('file_format', FORMATS)
def test_truncated_files(tmp_path, file_format):
    builder = write_set('cifar100', tmp_path, CIFAR, file_format)
    (path,) = builder.data_path.glob('*-train*-of-*')
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError) as error:
        source = sources.make_source(
            'tfds', {'name': 'cifar100', 'dir': str(tmp_path)}
        )
        read_all(source, 'train')
    assert '\n' not in str(error.value)
    assert str(error.value).startswith("data.name='cifar100': split 'train': ")


def test_a_broken_image_is_named_by_its_record(tmp_path):
    examples = food_examples(1)
    examples[3]['image'] = io.BytesIO(examples[3]['image'].getvalue()[:-60])
    splits = {'train': examples, 'validation': food_examples(1)}
    write_set('food101', tmp_path, splits, 'array_record')
    options = {'name': 'food101', 'dir': str(tmp_path), 'image_size': 8}
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', options)
    assert str(error.value).startswith(
        "data.name='food101': split 'train': record "
    )
    assert ': broken: ' in str(error.value)


def test_the_command_of_the_message_writes_readable_records(
    tmp_path, monkeypatch
):
    builder = write_set('cifar100', tmp_path, CIFAR, 'tfrecord')
    monkeypatch.setattr(tfds, '_MEMORY', 0)
    with pytest.raises(ValueError) as error:
        sources.make_source('tfds', {'name': 'cifar100', 'dir': str(tmp_path)})
    program, quoted, rest = str(error.value).split('`')[1].split('"')
    assert (program, rest) == ('python -c ', '')
    assert f"download_dir='{tmp_path}/downloads'" in quoted
    monkeypatch.setattr(
        type(builder), '_split_generators', builder._split_generators
    )
    exec(quoted)
    directory = str(error.value).rpartition('data.dir=')[2]
    source = sources.make_source('tfds', {'name': 'cifar100', 'dir': directory})
    assert len(read_all(source, 'test')) == 100
