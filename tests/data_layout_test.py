"""Tests of folders of images that are not laid out as they must be."""

import contextlib
import resource

import pytest
from data_folder_test import make, photo, write_folder

from mnemonics_jax.data.pillow import SUFFIXES
from mnemonics_jax.data.sources import folder


def remove(path):
    for file in sorted(path.rglob('*'), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()


def message_of(root, **options):
    """What is said of a folder that is refused."""
    with pytest.raises(ValueError) as error:
        make(root, **options)
    assert '\n' not in str(error.value)
    return str(error.value)


NEEDED = (
    'must have train/<class>/<image> and validation/<class>/<image>, or '
    '<class>/<image> with data.test_fraction=0.2'
)


@pytest.mark.parametrize(
    ('removed', 'message'),
    [
        ('.', 'no such directory or archive'),
        ('train', f'no folder train, but validation/; {NEEDED}'),
        (
            'validation',
            'no folder validation or valid or val or test or testing, but '
            'train/, a.txt; data.test_fraction=0.2 holds out images of train',
        ),
        ('train/bee', "class 'bee' is in validation, not in train"),
        ('validation/cow', "class 'cow' is in train, not in validation"),
    ],
)
def test_bad_folders(tmp_path, removed, message):
    root = write_folder(tmp_path / 'photos')
    if removed == 'validation':
        (root / 'a.txt').write_text('a file')
    remove(root / removed)
    assert message_of(root) == f"data.dir='{root}': {message}"


def test_folders_without_images(tmp_path):
    write_folder(tmp_path)
    for path in (tmp_path / 'train' / 'bee').glob('*.png'):
        path.rename(path.with_suffix('.heic'))
    assert message_of(tmp_path) == (
        f'{tmp_path}/train/bee: no image, but 0.heic, 1.heic, 2.heic; '
        f'files must end in {", ".join(SUFFIXES)}'
    )
    remove(tmp_path / 'train')
    (tmp_path / 'train').mkdir()
    assert message_of(tmp_path) == (
        f'{tmp_path}/train: no folder; must have one per class'
    )


def test_images_a_folder_too_deep(tmp_path):
    write_folder(tmp_path)
    inner = tmp_path / 'train' / 'ant' / 'images'
    inner.mkdir()
    for path in inner.parent.glob('*.png'):
        path.rename(inner / path.name)
    (inner.parent / 'boxes.txt').write_text('0 0 1 1')
    assert message_of(tmp_path).startswith(
        f'{tmp_path}/train/ant: no image, but images/, boxes.txt; '
    )


def test_classes_without_a_split(tmp_path):
    for label in range(7):
        (tmp_path / f'class{label}').mkdir()
        photo().save(tmp_path / f'class{label}' / '0.png')
    (tmp_path / 'LICENSE').write_text('free')
    assert message_of(tmp_path) == (
        f"data.dir='{tmp_path}': no folder train, but class0/, class1/, "
        f'class2/, class3/, class4/, ... (8 in all); {NEEDED}'
    )


def test_images_without_a_class(tmp_path):
    photo().save(tmp_path / 'ant_0.png')
    photo().save(tmp_path / 'bee_0.png')
    assert message_of(tmp_path) == (
        f"data.dir='{tmp_path}': no folder train, but ant_0.png, "
        f'bee_0.png; {NEEDED}'
    )


def test_an_empty_folder(tmp_path):
    (tmp_path / '.cache').mkdir()
    assert message_of(tmp_path) == (
        f"data.dir='{tmp_path}': no folder train, but nothing; {NEEDED}"
    )


@pytest.mark.parametrize('given', ['.', 'photos/train', 'photos/validation'])
def test_the_folder_that_is_meant_is_named(tmp_path, given):
    root = write_folder(tmp_path / 'photos')
    (tmp_path / 'readme.txt').write_text('unpacked')
    assert message_of(tmp_path / given) == (
        f"data.dir='{tmp_path / given}': no folder train; {root} has one"
    )
    assert make(root).num_classes == 3


@contextlib.contextmanager
def no_more_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_that_cannot_be_listed(tmp_path):
    options = {'dir': str(write_folder(tmp_path)), 'image_size': 12}
    with no_more_open_files(), pytest.raises(ValueError) as error:
        folder.make(options)  # To find it by name takes open files, too.
    message = str(error.value)
    assert message.startswith(f"data.dir='{tmp_path}': cannot be listed: ")
    assert 'Too many open files' in message
