"""Images whose classes are in a CSV."""

import csv
import shutil
import tarfile

import numpy as np
import pytest
from data_folder_test import CLASSES, make, photo, read_all
from data_splits_test import pack, paths, refused


def write_csv(path, rows, columns=('file', 'label')):
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([columns, *rows])


def write_flat(root, per_class=4):
    """All images in one folder; gives the rows of its CSV."""
    root.mkdir(parents=True)
    rows = []
    for label, name in enumerate(CLASSES):
        for number in range(per_class):
            file = f'{label}{number}.png'
            photo(10 * label + number).save(root / file)
            rows.append((file, name))
    return rows


@pytest.mark.parametrize('where', ['inside', 'beside', 'elsewhere'])
def test_a_csv_says_which_class_files_have(tmp_path, where):
    root = tmp_path / 'photos'
    rows = write_flat(root)
    place, given = {
        'inside': (root / 'labels.csv', 'labels.csv'),
        'beside': (tmp_path / 'labels.csv', 'labels.csv'),
        'elsewhere': (tmp_path / 'a b.csv', str(tmp_path / 'a b.csv')),
    }[where]
    (root / 'more.heic').write_text('')
    photo().save(root / 'spare.png')
    write_csv(place, [*rows[::-1], ('more.heic', 'cow')])
    source = make(root, labels=given, test_fraction=0.25)
    assert source.class_names == CLASSES
    assert np.bincount(source.labels['train']).tolist() == [3, 3, 3]
    images = {
        name: photo(10 * label + number)
        for label in range(3)
        for number in range(4)
        for name in [f'photos/{label}{number}.png']
    }
    for split in ('train', 'test'):
        pixels = read_all(source, split)
        for row, name in enumerate(paths(source, split)):
            np.testing.assert_array_equal(pixels[row], images[name])
            label = int(source.labels[split][row])
            assert name.startswith(f'photos/{label}')
    assert source.about['left_out_files'] == {'.heic': 1}
    assert source.about['unlabelled_files'] == {'.png': 1}
    assert '1 file left out, images without a row in' in source.notes[2]


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_paths_of_a_csv_start_at_the_folder_wherever_it_lies(tmp_path, kind):
    root, here = tmp_path / 'photos', tmp_path / 'lists'
    rows = write_flat(root)
    shutil.copytree(root, here)  # Images beside the CSV are not those meant.
    write_csv(here / 'labels.csv', rows)
    given = {'labels': str(here / 'labels.csv'), 'test_fraction': 0.25}
    place = root if kind == 'folder' else pack(root, kind)
    source = make(place, **given)
    assert source.encoded.describe('train', 0).startswith(f'{place}/')
    # As the listing of an archive, or from the folder above.
    above = [(f'photos/{file}', label) for file, label in rows]
    write_csv(here / 'labels.csv', above)
    source = make(place if kind == 'zip' else tmp_path / '.', **given)
    assert len(source.labels['train']) == 9
    write_csv(here / 'labels.csv', [*rows, ('a.png', 'x'), ('b.png', 'x')])
    (here / 'a.png').write_bytes((here / '00.png').read_bytes())
    line = refused(place, **given)
    assert "line 14: no file 'a.png' in " in line
    assert '(2 of 14 are missing)' in line


def test_all_images_without_a_row_are_counted(tmp_path):
    rows = write_flat(tmp_path / 'photos' / 'a')
    for folder in ('.', 'a', 'a/b', 'c/d'):
        (tmp_path / 'photos' / folder).mkdir(parents=True, exist_ok=True)
        photo().save(tmp_path / 'photos' / folder / 'spare.png')
    write_csv(
        tmp_path / 'labels.csv',
        [(f'a/{file}', label) for file, label in rows],
    )
    given = {'labels': 'labels.csv', 'test_fraction': 0.25}
    places = [tmp_path / 'photos', pack(tmp_path / 'photos', 'tar')]
    source = make(places[1], **given)
    assert source.about['unlabelled_files'] == {'.png': 4}
    with tarfile.open(places[1]) as archive:
        archive.extractall(tmp_path, filter='data')
    source = make(places[0], **given)
    assert source.about['unlabelled_files'] == {'.png': 4}
    assert '4 files left out, images without a row in' in source.notes[1]


def test_a_csv_may_have_a_column_of_splits(tmp_path):
    rows = write_flat(tmp_path / 'photos')
    split = [
        (*row, ('TRAIN', 'train', 'val', 'test')[k % 4])
        for k, row in enumerate(rows)
    ]
    path = tmp_path / 'labels.csv'
    write_csv(path, split, ('file', 'label', 'split'))
    assert 'has TRAIN and train' in refused(
        tmp_path / 'photos', labels='labels.csv'
    )
    split = [(*row[:2], row[2].lower()) for row in split]
    write_csv(path, split, ('file', 'label', 'split'))
    source = make(tmp_path / 'photos', labels='labels.csv')
    assert [len(source.labels[s]) for s in ('train', 'test')] == [6, 3]
    assert source.about['evaluated_split'] == 'val'
    assert source.about['unused_splits'] == ['test']
    assert 'must be None, since data.labels=' in refused(
        tmp_path / 'photos', labels='labels.csv', test_fraction=0.2
    )


@pytest.mark.parametrize(
    ('rows', 'words'),
    [
        ([('file', 'class')], 'line 1: must have the columns file and label'),
        ([('file', 'label')], 'no row: must have one for each image'),
        ([('file', 'label'), ('00.png', '')], 'line 2: must have a file and a'),
        (
            [('file', 'label'), ('00.png', 'a'), ('', ''), ('no.png', 'a')],
            "line 4: no file 'no.png' in ",
        ),
        (
            [('file', 'label'), ('00.png', 'a'), ('00.png', 'b')],
            "line 3: '00.png' is repeated",
        ),
        (
            [('file', 'label', 'split'), ('00.png', 'a', 'dev')],
            "line 2: split 'dev': must be one of train, training, validation",
        ),
        (
            [('file', 'label', 'split'), ('00.png', 'a', 'test')],
            'no row of the split train',
        ),
        ([('file', 'label'), ('00.png', 'a')], 'no test images: must have'),
    ],
)
def test_a_mistake_in_a_csv_is_named_with_its_line(tmp_path, rows, words):
    write_flat(tmp_path / 'photos')
    write_csv(tmp_path / 'labels.csv', rows[1:], rows[0])
    line = refused(tmp_path / 'photos', labels='labels.csv')
    assert line.startswith("data.labels='labels.csv': ")
    assert words in line
    assert "'no.csv': no such file: must be a path" in refused(
        tmp_path / 'photos', labels='no.csv'
    )


@pytest.mark.parametrize('inside', [True, False])
def test_an_archive_with_a_csv(tmp_path, inside):
    rows = write_flat(tmp_path / 'photos')
    place = tmp_path / 'photos' if inside else tmp_path
    write_csv(place / 'labels.csv', rows)
    packed = pack(tmp_path / 'photos', 'zip')
    source = make(packed, labels='labels.csv', test_fraction=0.25)
    assert len(source.labels['train']) == 9
    label = source.labels['test'][1]
    name = paths(source, 'test')[1].partition('/')[2]
    np.testing.assert_array_equal(
        source.read('test', np.array([1]))[0],
        photo(10 * label + int(name[1])),
    )
