"""Tests of the source of image folders, on files that Pillow writes here."""

import os
import pathlib
import time

import numpy as np
import pytest
from ml_collections import config_dict
from PIL import Image

from mnemonics_jax.data import decode, errors, sources

REAL_FOLDER = os.environ.get('MNEMONICS_JAX_TEST_FOLDER')
CLASSES = ('ant', 'bee', 'cow')
BEST = {'quality': 100, 'subsampling': 0}
# By the end of a file's name, to lose as little as the format allows.
SETTINGS = {
    'jpg': BEST,
    'jpeg': BEST,
    'webp': {'lossless': True},
    'avif': BEST | {'subsampling': '4:4:4'},
    'ico': {'sizes': [(12, 12)]},
}


def photo(seed=0, size=(12, 12)):
    """A smooth random colour image of (width, height), kind to JPEG."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (2, 2, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def write_folder(root, per_class=3, second='validation', size=(12, 12)):
    """Writes PNGs and a few other files that are to be ignored."""
    for split, classes in (('train', CLASSES), (second, CLASSES)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                image = photo(100 * label + number + len(split), size)
                image.save(folder / f'{number}.png')
        (root / split / '.cache').mkdir()
        (root / split / 'list.txt').write_text('not a class')
    (root / 'train' / 'ant' / '.DS_Store').write_bytes(b'hidden')
    return root


def make(root, **options):
    options = {'dir': str(root), 'image_size': 12, **options}
    return sources.make_source('folder', options)


def read_all(source, split):
    return source.read(split, np.arange(len(source.labels[split])))


@pytest.mark.parametrize('second', ['validation', 'val', 'test'])
def test_contract(tmp_path, second):
    source = make(write_folder(tmp_path, second=second))
    assert source.num_classes == 3
    assert source.class_names == CLASSES
    assert source.image_shape == (12, 12, 3)
    assert source.mean == (0.485, 0.456, 0.406)
    assert source.std == (0.229, 0.224, 0.225)
    for split, name in (('train', 'train'), ('test', second)):
        labels = source.labels[split]
        assert labels.dtype == np.int32
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        pixels = read_all(source, split)
        expected = [
            np.asarray(Image.open(tmp_path / name / CLASSES[k] / f'{i}.png'))
            for k in range(3)
            for i in range(3)
        ]
        np.testing.assert_array_equal(pixels, expected)
        some = np.array([5, 0, 5, 8])
        np.testing.assert_array_equal(source.read(split, some), pixels[some])
        assert source.read(split, some[:0]).shape == (0, 12, 12, 3)


def test_a_config_names_the_folder_from_home(tmp_path, monkeypatch):
    write_folder(tmp_path / 'photos')
    monkeypatch.setenv('HOME', str(tmp_path))
    config = config_dict.create(dir='~/photos', image_size=12)
    config.on_bad_image = config_dict.placeholder(str)
    config = config_dict.FrozenConfigDict(config)
    assert sources.make_source('folder', config).class_names == CLASSES


def on_white(image):
    """What an image with an alpha channel looks like."""
    pixels = np.asarray(image.convert('RGBA')).astype(float)
    alpha = pixels[..., 3:] / 255
    return alpha * pixels[..., :3] + (1 - alpha) * 255


def files_of_all_kinds(folder):
    """Writes the same picture in many ways; gives {file: (pixels, close)}."""
    rgb = photo(7)
    grey = rgb.convert('L')
    pixels = np.asarray(rgb).astype(float)
    greys = np.repeat(np.asarray(grey).astype(float)[..., None], 3, -1)
    lines = np.tile(np.arange(0, 240, 20, np.uint8), (12, 1))
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(lines))
    palette = rgb.quantize(16)
    cut = rgb.quantize(16)
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 77)
    kinds = {
        'rgb.webp': (rgb, pixels, 0),
        'rgb.tiff': (rgb, pixels, 0),
        'grey16.TIF': (wide, greys, 0),
        'rgb.avif': (rgb, pixels, 12),
        'rgb.jp2': (rgb, pixels, 0),
        'rgb.ppm': (rgb, pixels, 0),
        'rgb.tga': (rgb, pixels, 0),
        'rgb.pcx': (rgb, pixels, 0),
        'rgb.sgi': (rgb, pixels, 0),
        'rgb.qoi': (rgb, pixels, 0),
        'rgb.ico': (rgb, pixels, 0),
        'alpha.webp': (alpha, on_white(alpha), 1),
        'rgb.png': (rgb, pixels, 0),
        'rgb.JPEG': (rgb, pixels, 6),
        'rgb.bmp': (rgb, pixels, 0),
        'grey.jpg': (grey, greys, 3),
        'grey.png': (grey, greys, 0),
        'grey16.png': (wide, greys, 0),
        'bits.png': (grey.convert('1'), None, 0),
        'cmyk.jpg': (rgb.convert('CMYK'), pixels, 6),
        'palette.png': (palette, None, 0),
        'palette.gif': (palette, None, 0),
        'alpha.png': (alpha, on_white(alpha), 1),
        'grey_alpha.PNG': (alpha.convert('LA'), None, 1),
    }
    expected = {}
    for name, (image, seen, close) in kinds.items():
        best = SETTINGS.get(name.lower().rpartition('.')[2], {})
        image.save(folder / name, **best)
        seen = on_white(image) if seen is None else seen
        expected[name] = (seen, close)
    cut.save(folder / 'transparent.gif', transparency=3)
    seen = np.where(np.asarray(cut)[..., None] == 3, 255.0, on_white(cut))
    expected['transparent.gif'] = (seen, 0)
    palette.save(
        folder / 'film.gif', save_all=True, append_images=[photo(8), photo(9)]
    )
    expected['film.gif'] = (on_white(palette), 0)
    return expected


def test_every_kind_of_file_gives_rgb(tmp_path):
    write_folder(tmp_path)
    folder = tmp_path / 'train' / 'dog'
    folder.mkdir()
    (tmp_path / 'validation' / 'dog').mkdir()
    photo().save(tmp_path / 'validation' / 'dog' / 'a.png')
    expected = files_of_all_kinds(folder)
    source = make(tmp_path)
    positions = np.flatnonzero(source.labels['train'] == 3)
    found = source.read('train', positions)
    assert len(found) == len(expected) == 26
    for pixels, name in zip(found, sorted(expected), strict=True):
        seen, close = expected[name]
        assert np.abs(pixels - seen).max() <= close, name


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation, kind):
    write_folder(tmp_path)
    upright = photo(3)
    # What a camera held in another way stores of the same picture.
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright
    if orientation in undo:
        stored = upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'train' / 'ant' / '0.png'
    stored.save(path, kind, exif=exif, **SETTINGS.get(kind.lower(), {}))
    for eval_resize in (None, 12):
        source = make(tmp_path, eval_resize=eval_resize)
        pixels = source.read('train', np.array([0]))[0].astype(int)
        assert np.abs(pixels - np.asarray(upright)).max() <= 3


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
@pytest.mark.parametrize('exif', [b'no TIFF at all', b'MM\0*\0\0', b'MM'])
def test_broken_exif_does_not_spoil_an_image(tmp_path, exif, kind):
    write_folder(tmp_path)
    path = tmp_path / 'train' / 'ant' / '0.png'
    best = BEST if kind == 'JPEG' else {}
    photo(3).save(path, kind, exif=b'Exif\0\0' + exif, **best)
    pixels = make(tmp_path).read('train', np.array([0]))[0].astype(int)
    assert np.abs(pixels - np.asarray(photo(3))).max() <= 3


@pytest.mark.parametrize('size', [(40, 24), (24, 40), (24, 24), (5, 7)])
def test_the_central_square_is_resized(tmp_path, size):
    write_folder(tmp_path, size=size)
    source = make(tmp_path, image_size=8)
    original = Image.open(tmp_path / 'train' / 'ant' / '0.png')
    width, height = size
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    square = original.crop((left, top, left + side, top + side))
    expected = square.resize((8, 8), Image.Resampling.BILINEAR)
    found = source.read('train', np.array([0]))[0]
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_pixels_without_a_known_range_are_refused(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / 'train' / 'ant' / '0.png'
    for dtype in (np.float32, np.int32):
        Image.fromarray(np.ones((12, 12), dtype)).save(path, 'TIFF')
        with pytest.raises(errors.BadImageError) as error:
            make(tmp_path).read('train', np.array([0]))
        assert str(error.value) == (
            f'{path}: pixels of 32 bits: must have 8 or 16'
        )


def test_shrinking_averages(tmp_path):
    write_folder(tmp_path)
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(checkers.astype(np.uint8))
    image.save(tmp_path / 'train' / 'ant' / '0.png')
    pixels = make(tmp_path, image_size=8).read('train', np.array([0]))
    assert np.abs(pixels.astype(int) - 128).max() <= 4  # No aliases.


def test_a_large_jpeg_is_shrunk_as_it_should(tmp_path):
    write_folder(tmp_path)
    image = photo(5, (900, 700))
    image.save(tmp_path / 'train' / 'ant' / '0.png', 'JPEG', quality=95)
    pixels = make(tmp_path, image_size=16).read('train', np.array([0]))[0]
    square = image.crop((100, 0, 800, 700)).resize((16, 16), Image.BOX)
    assert np.abs(pixels.astype(int) - np.asarray(square)).max() <= 3


def test_the_number_of_threads_does_not_matter(tmp_path, monkeypatch):
    source = make(write_folder(tmp_path, per_class=40))
    order = np.random.default_rng(0).permutation(120)
    expected = source.read('train', order)
    for threads, rows in ((1, 32), (7, 1), (3, 1000)):
        monkeypatch.setattr(decode, '_THREADS', threads)
        monkeypatch.setattr(decode, '_ROWS_PER_TASK', rows)
        np.testing.assert_array_equal(source.read('train', order), expected)


def test_indexing_opens_no_image(tmp_path):
    write_folder(tmp_path)
    for path in tmp_path.glob('*/*/*.png'):
        path.write_bytes(b'')
    assert len(make(tmp_path).labels['train']) == 9


def test_display_names(tmp_path):
    write_folder(tmp_path)
    labels = 'cow\tcrane\n\nant\tcrane\nelk\tnot here\n'
    (tmp_path / 'labels.txt').write_text(labels)
    # Two share a name, and one has none.
    assert make(tmp_path).class_names == ('crane (ant)', 'bee', 'crane (cow)')
    (tmp_path / 'labels.txt').write_text('ant\tsmall\nbee small\n')
    with pytest.raises(ValueError) as error:
        make(tmp_path)
    assert str(error.value) == (
        f'{tmp_path}/labels.txt: line 2: must be <folder> <tab> <name>'
    )


def test_other_files_are_left_out_and_counted(tmp_path):
    write_folder(tmp_path)
    bee = tmp_path / 'train' / 'bee'
    (bee / 'boxes.txt').write_text('1 2 3 4')
    (bee / 'nested').mkdir()
    (tmp_path / 'labels.txt').write_text('')  # Read for names of classes.
    (tmp_path / 'validation' / 'cow' / 'phone.HEIC').write_text('')
    source = make(tmp_path, on_bad_image='skip')
    assert len(source.labels['train']) == 9
    assert source.skipped == ()  # Nothing was wrong with them.
    # list.txt lies beside the classes in both splits.
    assert source.about['left_out_files'] == {
        '.txt': 3,
        'folder': 1,
        '.heic': 1,
    }
    assert source.notes == (
        f"data.dir='{tmp_path}': 5 files left out, not images by their names: "
        f'3 .txt, 1 folder, 1 .heic ({bee}/boxes.txt, {bee}/nested/, '
        f'{tmp_path}/train/list.txt, ...)',
    )


def test_images_in_the_folder_of_no_class_are_left_out_and_counted(tmp_path):
    """In a class's folder, beside classes, beside splits and two deep."""
    write_folder(tmp_path)
    places = {
        'dev/ant': 4,
        'dev': 1,
        '.': 1,
        'train': 2,
        'train/bee/thumbs': 3,
    }
    for place, number in places.items():
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for k in range(number):
            photo().save(tmp_path / place / f'stray{k}.png')
    (tmp_path / 'dev' / 'loop').symlink_to(tmp_path)
    (tmp_path / 'README').write_text('')
    source = make(tmp_path)
    assert len(source.labels['train']) == 9
    assert source.about['misplaced_images'] == places
    assert source.about['left_out_files'] == {'.txt': 2, 'no suffix': 1}
    assert source.notes[0] == (
        f"data.dir='{tmp_path}': 11 images left out, in the folder of no "
        f'class: 4 in {tmp_path}/dev/ant, 3 in {tmp_path}/train/bee/thumbs, '
        f'2 in {tmp_path}/train, ...'
    )
    for path in (tmp_path / 'validation').rglob('*.png'):
        path.unlink()
    for path in sorted((tmp_path / 'validation').iterdir()):
        path.rename(tmp_path / 'dev' / f'of_{path.name}')
    (tmp_path / 'validation').rmdir()
    source = make(tmp_path, test_fraction=0.4)
    assert source.about['misplaced_images'] == places


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'dir': None}, 'data.dir=None: must be the path of an image folder'),
        (
            {'image_size': None},
            'data.image_size=None: must be an integer >= 1 with '
            'data.source=folder',
        ),
        ({'image_size': 0}, 'data.image_size=0: must be an integer >= 1'),
        (
            {'eval_resize': 11},
            'data.eval_resize=11: must be >= data.image_size=12',
        ),
        (
            {'eval_resize': 13.5},
            'data.eval_resize=13.5: must be an integer >= 1',
        ),
        (
            {'on_bad_image': 'ignore'},
            "data.on_bad_image='ignore': must be one of fail, skip",
        ),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError) as error:
        make(write_folder(tmp_path), **options)
    assert str(error.value) == message


@pytest.mark.skipif(
    REAL_FOLDER is None,
    reason='MNEMONICS_JAX_TEST_FOLDER names no unpacked tiny-imagenet-100',
)
def test_tiny_imagenet():
    start = time.perf_counter()
    source = make(REAL_FOLDER, image_size=32)
    assert time.perf_counter() - start < 10
    assert source.num_classes == len(set(source.class_names)) == 100
    assert np.bincount(source.labels['train']).tolist() == [500] * 100
    assert np.bincount(source.labels['test']).tolist() == [50] * 100
    images = read_all(source, 'test')
    grey = (images == images[..., :1]).all((1, 2, 3))
    assert 20 < grey.sum() < 300
    unit = images / 255
    np.testing.assert_allclose(unit.mean((0, 1, 2)), source.mean, atol=0.03)
    root = pathlib.Path(REAL_FOLDER)
    assert source.class_names[0] in (root / 'labels.txt').read_text()
