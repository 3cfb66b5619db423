"""Folders as people have them: splits of any name or none, archives."""

import io
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from bad_images_test import run_folder
from command import assert_refused
from data_folder_test import CLASSES, make, photo, read_all, write_folder

from mnemonics_jax.data import errors, sources


def refused(*arguments, **options):
    with pytest.raises(ValueError) as error:
        make(*arguments, **options)
    assert '\n' not in str(error.value)
    return str(error.value)


def paths(source, split):
    """Class and name of each file, which tell them apart."""
    positions = range(len(source.labels[split]))
    described = [source.encoded.describe(split, row) for row in positions]
    return ['/'.join(path.split('/')[-2:]) for path in described]


def write_unsplit(root, per_class=10):
    write_folder(root / 'other', per_class)
    for name in CLASSES:
        shutil.move(root / 'other' / 'train' / name, root / name)
    shutil.rmtree(root / 'other')
    return root


@pytest.mark.parametrize('train', ['train', 'Training'])
@pytest.mark.parametrize(
    'second', ['VAL', 'valid', 'Validation', 'Test', 'testing']
)
def test_splits_are_found_by_any_of_their_names(tmp_path, train, second):
    write_folder(tmp_path, second=second)
    (tmp_path / 'train').rename(tmp_path / train)
    source = make(tmp_path)
    assert source.about['train_split'] == train
    assert source.about['evaluated_split'] == second
    assert source.about['unused_splits'] == []
    assert source.encoded.describe('test', 0).startswith(f'{tmp_path}/{second}')
    assert not any('evaluated' in line for line in source.notes)


def test_of_two_splits_one_is_evaluated_and_a_line_says_which(tmp_path):
    write_folder(tmp_path, second='val')
    shutil.copytree(tmp_path / 'val', tmp_path / 'Test')
    source = make(tmp_path)
    assert source.about['evaluated_split'] == 'val'
    assert source.about['unused_splits'] == ['Test']
    assert source.notes[0] == (
        f"data.dir='{tmp_path}': evaluated on val; not used: Test"
    )
    (tmp_path / 'Train').mkdir()
    assert 'has Train and train: must have one of them' in refused(tmp_path)


def test_a_part_of_each_class_is_held_out_by_the_seed(tmp_path):
    write_unsplit(tmp_path)
    source = make(tmp_path, test_fraction=0.2, subset_seed=7)
    assert np.bincount(source.labels['train']).tolist() == [8, 8, 8]
    assert np.bincount(source.labels['test']).tolist() == [2, 2, 2]
    train, test = paths(source, 'train'), paths(source, 'test')
    assert not set(train) & set(test)
    assert len({*train, *test}) == 30
    assert source.about['test_fraction'] == 0.2
    assert source.about['test_seed'] == 7
    assert '0.2 of each class is held out and evaluated' in source.notes[0]
    again = make(tmp_path, test_fraction=0.2, subset_seed=7)
    assert paths(again, 'test') == test
    other = make(tmp_path, test_fraction=0.2, subset_seed=8)
    assert paths(other, 'test') != test
    # Classes that come later leave the others as they are.
    shutil.copytree(tmp_path / 'bee', tmp_path / 'aardvark')
    more = paths(make(tmp_path, test_fraction=0.2, subset_seed=7), 'test')
    assert [p for p in more if not p.startswith('aardvark')] == test
    tiny = make(tmp_path, test_fraction=0.001)
    assert np.bincount(tiny.labels['test']).tolist() == [1] * 4


def test_a_fraction_goes_with_a_folder_without_test_images(tmp_path):
    write_folder(tmp_path)
    line = refused(tmp_path, test_fraction=0.2)
    assert line == (
        f"data.test_fraction=0.2: must be None, since data.dir='{tmp_path}' "
        'has validation'
    )
    shutil.rmtree(tmp_path / 'validation')
    assert 'data.test_fraction=0.2 holds out images of' in refused(tmp_path)
    source = make(tmp_path, test_fraction=0.4)
    assert np.bincount(source.labels['test']).tolist() == [1, 1, 1]
    (tmp_path / 'train').rename(tmp_path / 'test')
    assert 'no folder train' in refused(tmp_path, test_fraction=0.2)
    write_unsplit(tmp_path / 'photos', per_class=1)
    line = refused(tmp_path / 'photos', test_fraction=0.2)
    assert "class 'ant' has 1 image: must have at least 2" in line
    assert '<class>/<image> with data.test_fraction=0.2' in refused(
        tmp_path / 'photos'
    )


@pytest.mark.parametrize('names', [('train',), ('Test', 'train', 'val')])
def test_a_class_may_have_the_name_of_a_split(tmp_path, names):
    write_unsplit(tmp_path, per_class=5)
    for name in names:
        shutil.copytree(tmp_path / 'ant', tmp_path / name)
    source = make(tmp_path, test_fraction=0.2)
    assert source.class_names == tuple(sorted((*CLASSES, *names)))
    assert source.about['misplaced_images'] == {}


def test_test_images_without_classes_are_told_from_a_split(tmp_path):
    """As a competition has them."""
    write_folder(tmp_path, second='test')
    for path in sorted((tmp_path / 'test').rglob('*.png')):
        path.rename(tmp_path / 'test' / f'{path.parent.name}{path.name}')
    for name in CLASSES:
        (tmp_path / 'test' / name).rmdir()
    source = make(tmp_path, test_fraction=0.4)
    assert source.class_names == CLASSES
    assert source.about['misplaced_images'] == {'test': 9}


def pack(root, kind):
    """Packs a folder as its only entry, with what a Mac adds."""
    path = root.parent / f'{root.name}.{kind}'
    if kind == 'zip':
        with zipfile.ZipFile(path, 'w') as archive:
            for file in sorted(root.rglob('*')):
                archive.write(file, file.relative_to(root.parent))
            archive.writestr(f'__MACOSX/{root.name}/._a.png', b'')
    else:
        mode = 'w:gz' if kind == 'tar.gz' else 'w'
        with tarfile.open(path, mode) as archive:
            archive.add(root, root.name)
    shutil.rmtree(root)
    return path


@pytest.mark.parametrize('kind', ['tar', 'tar.gz'])
def test_links_in_an_archive_are_the_files_that_they_lead_to(tmp_path, kind):
    root = write_folder(tmp_path / 'photos')
    ant = root / 'train' / 'ant'
    (ant / 'hard.png').hardlink_to(ant / '0.png')
    (ant / 'soft.png').symlink_to('../bee/1.png')
    unpacked = make(root)
    expected, digest = read_all(unpacked, 'train'), unpacked.digest
    rows = np.arange(len(expected))
    before = digest('train', rows)
    (root / 'validation' / 'cow' / 'no.png').symlink_to('/nowhere')
    source = make(pack(root, kind))
    np.testing.assert_array_equal(read_all(source, 'train'), expected)
    assert source.digest('train', rows) == before
    with pytest.raises(errors.BadImageError, match=r'no\.png: cannot be read'):
        read_all(source, 'test')


@pytest.mark.parametrize('kind', ['zip', 'tar', 'tar.gz'])
def test_an_archive_is_read_as_its_folder(tmp_path, kind, monkeypatch):
    write_folder(tmp_path / 'photos')
    (tmp_path / 'photos' / 'labels.txt').write_text('ant\tsmall\n')
    unpacked = make(tmp_path / 'photos')
    expected = read_all(unpacked, 'train')
    rows = np.arange(9)
    digest = unpacked.digest('train', rows)
    with monkeypatch.context() as patch:
        # As in a bucket, where sizes are not asked for.
        patch.setattr('os.path.isdir', lambda path: False)
        names_alone = unpacked.digest('train', rows)
    packed = pack(tmp_path / 'photos', kind)
    source = make(packed)
    assert source.class_names == ('small', 'bee', 'cow')
    np.testing.assert_array_equal(read_all(source, 'train'), expected)
    assert source.digest('train', rows) == digest
    assert sources.same_images(digest, names_alone)
    assert sources.same_images(names_alone, digest)
    assert not sources.same_images(digest, source.digest('test', rows))
    assert not sources.same_images(
        source.digest('train', rows[1:]), names_alone
    )
    assert source.about['left_out_files'] == {'.txt': 2}
    assert source.encoded.describe('test', 8) == (
        f'{packed}/photos/validation/cow/2.png'
    )
    assert list(tmp_path.iterdir()) == [packed]  # Nothing is unpacked.


def test_a_damaged_archive_is_named(tmp_path):
    write_folder(tmp_path / 'photos')
    packed = pack(tmp_path / 'photos', 'zip')
    whole = bytearray(packed.read_bytes())
    place = whole.index(b'validation/cow/0.png') + 60
    whole[place] ^= 255
    packed.write_bytes(whole)
    with pytest.raises(errors.BadImageError, match=r'cow/0\.png: cannot be'):
        read_all(make(packed), 'test')
    packed.write_bytes(b'404')
    assert refused(packed) == (
        f"data.dir='{packed}': must be a folder of images, or a zip or tar "
        'archive'
    )
    with tarfile.open(packed, 'w:gz') as archive:
        info = tarfile.TarInfo('a.png')
        info.size = 9000
        noise = np.random.default_rng(0).bytes(9000)
        archive.addfile(info, io.BytesIO(noise))
    packed.write_bytes(packed.read_bytes()[:-5000])
    assert f"data.dir='{packed}': cannot be read: " in refused(packed)


def test_the_command_holds_out_counts_and_records(tmp_path):
    """A folder without splits, of WebP files, with some of a phone."""
    root = tmp_path / 'photos'
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(4):
            image = photo(10 * label + number)
            image.save(root / name / f'{number}.webp', lossless=True)
        (root / name / 'phone.heic').write_text('')
    assert_refused(run_folder(root, tmp_path / 'new'), 'data.test_fraction=0.2')
    done = run_folder(
        root,
        tmp_path / 'run',
        data__test_fraction=0.25,
        data__feed='device',
        protocol__base_classes=3,
        protocol__phases=0,
    )
    assert done.returncode == 0, done.stderr
    held_out, left_out = done.stdout.splitlines()[:2]
    assert '0.25 of each class is held out and evaluated' in held_out
    assert '3 files left out, not images by their names: 3 .heic' in left_out
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['train_images_per_class'] == [3, 3, 3]
    assert results['source'] == {
        'test_fraction': 0.25,
        'test_seed': 1993,
        'misplaced_images': {},
        'left_out_files': {'.heic': 3},
        'unlabelled_files': {},
    }
