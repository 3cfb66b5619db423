"""Files in an image folder that are no image, or only half of one."""

import numpy as np
import pytest
from data_folder_test import CLASSES, make, photo, read_all, write_folder
from PIL import Image

from mnemonics_jax.data import errors, pillow


def spoil(path, how):
    if how == 'empty':
        path.write_bytes(b'')
    elif how == 'text':
        path.write_text('<html>404 not found</html>')
    elif how == 'eps':  # Pillow would run Ghostscript on it.
        photo().save(path, 'EPS')
    elif how == 'gone':
        path.unlink()
    elif how == 'link':
        path.unlink()
        path.symlink_to('/nowhere')
    else:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path, how)
        path.write_bytes(path.read_bytes()[:-2500])


NO_IMAGE = f'no {", ".join(pillow.FORMATS)} image'
REASONS = {
    'empty': 'empty',
    'text': NO_IMAGE,
    'eps': NO_IMAGE,
    'gone': 'cannot be read: No such file or directory',
    'link': 'cannot be read: No such file or directory',
    'JPEG': 'broken: ',
    'PNG': 'broken: ',
    'BMP': 'broken: ',
    'GIF': 'broken: ',
}


@pytest.mark.parametrize('how', REASONS)
def test_a_bad_file_fails_when_it_is_read(tmp_path, how):
    write_folder(tmp_path)
    source = make(tmp_path)
    path = tmp_path / 'train' / 'bee' / '1.png'
    spoil(path, how)
    source.read('train', np.array([0, 3, 5, 8]))
    with pytest.raises(errors.BadImageError) as error:
        read_all(source, 'train')
    assert str(error.value).startswith(f'{path}: {REASONS[how]}')
    assert '\n' not in str(error.value)
    assert '0x' not in str(error.value)  # No addresses: always the same text.
    if how in ('gone', 'link'):
        with pytest.raises(errors.BadImageError) as error:
            source.digest('train', np.arange(9))
        assert str(error.value) == f'{path}: {REASONS[how]}'


def test_the_first_of_many_bad_files_is_named(tmp_path):
    source = make(write_folder(tmp_path, per_class=40))
    for path in (tmp_path / 'train').glob('*/*.png'):
        path.write_bytes(b'')
    with pytest.raises(ValueError) as error:
        source.read('train', np.arange(119, -1, -1))
    # The files of a class are sorted as texts.
    assert str(error.value) == f'{tmp_path}/train/cow/9.png: empty'


def test_bad_files_are_skipped(tmp_path, caplog):
    write_folder(tmp_path)
    for name, how in (('ant', 'empty'), ('bee', 'text'), ('cow', 'JPEG')):
        spoil(tmp_path / 'train' / name / '1.png', how)
    spoil(tmp_path / 'validation' / 'bee' / '2.png', 'empty')
    source = make(tmp_path, on_bad_image='skip')
    assert source.labels['train'].tolist() == [0, 0, 1, 1, 2, 2]
    assert source.labels['test'].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert read_all(source, 'train').shape == (6, 12, 12, 3)
    expected = np.asarray(Image.open(tmp_path / 'train' / 'bee' / '2.png'))
    np.testing.assert_array_equal(
        source.read('train', np.array([3]))[0], expected
    )
    reasons = ('empty', REASONS['text'], 'broken: ')
    train = zip(CLASSES, reasons, strict=True)
    expected = [f'{tmp_path}/train/{name}/1.png: {why}' for name, why in train]
    expected.append(f'{tmp_path}/validation/bee/2.png: empty')
    assert len(source.skipped) == len(expected) == 4
    for found, start in zip(source.skipped, expected, strict=True):
        assert found.startswith(start)
    assert f'3 files skipped: {expected[0]}, ' in caplog.text
    assert f'1 file skipped: {expected[3]}' in caplog.text


def test_a_class_of_bad_files_alone(tmp_path):
    write_folder(tmp_path, per_class=2)
    for number in range(2):
        spoil(tmp_path / 'validation' / 'bee' / f'{number}.png', 'empty')
    with pytest.raises(ValueError) as error:
        make(tmp_path, on_bad_image='skip')
    assert str(error.value) == (
        f'{tmp_path}/validation/bee: no image can be decoded'
    )
