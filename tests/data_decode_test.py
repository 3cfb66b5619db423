"""Tests of views of encoded images, on files that Pillow writes here."""

import io

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax.data import decode, errors, pillow, random_crop

PLAIN = {'flip': False, 'brightness': 0.0}
BEST = {'quality': 100, 'subsampling': 0}
BILINEAR = Image.Resampling.BILINEAR
ORIENTATIONS = range(1, 9)

# How a camera held in some way stores an upright picture.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(size, cells=4, seed=0):
    """A colour image of (width, height), smooth where cells are few."""
    random = np.random.default_rng(seed)
    low = random.integers(0, 256, (cells, cells, 3), np.uint8)
    return Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)


def encode(image, kind='PNG', **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def held(image, orientation, kind='PNG'):
    """A file whose EXIF data say how it is to be turned."""
    if orientation in STORED:
        image = image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    best = BEST if kind == 'JPEG' else {}
    return encode(image, kind, exif=exif, **best)


def make_draws(seed):
    return np.random.default_rng(seed).random(decode.NUM_DRAWS)


def draws_of_the_whole():
    """No attempt fits an image that is about as high as wide: all is shown."""
    draws = make_draws(0)
    draws[:-2] = np.tile([0.999, 0.0, 0.5, 0.5], random_crop.ATTEMPTS)
    return draws


def resized(image, size):
    return np.asarray(image.resize((size, size), BILINEAR))


def error(found, expected):
    """The mean difference in grey levels."""
    return np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean()


@pytest.mark.parametrize('size', [7, 20, 50])
@pytest.mark.parametrize('shape', [(40, 36), (36, 40)])
def test_a_crop_of_everything_is_the_whole_image_resized(shape, size):
    image = photo(shape)
    draws = draws_of_the_whole()
    found = decode.decode_crop(encode(image), 3, size, draws, **PLAIN)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, resized(image, size))


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('shape', [(60, 45), (45, 60), (160, 12)])
def test_a_crop_is_the_box_that_the_rule_draws(shape, seed):
    image = photo(shape, cells=9)
    draws = make_draws(seed)
    top, left, height, width = decode.crop_box(
        shape[1], shape[0], draws[:-2].reshape(-1, 4)
    )
    # Nothing beyond the box is seen, or it would differ from a crop's copy.
    box = image.crop((left, top, left + width, top + height))
    found = decode.decode_crop(encode(image), 3, 24, draws, **PLAIN)
    np.testing.assert_array_equal(found, resized(box, 24))


def kinds_of_files():
    rgb = photo((40, 36))
    grey = rgb.convert('L')
    alpha = rgb.copy()
    alpha.putalpha(grey.rotate(90).resize(rgb.size))
    wide = np.asarray(grey).astype(np.uint16) * 256 + 99
    palette = rgb.quantize(16)
    return {
        'rgb.jpg': encode(rgb, 'JPEG'),
        'grey.jpg': encode(grey, 'JPEG'),
        'cmyk.jpg': encode(rgb.convert('CMYK'), 'JPEG'),
        'progressive.jpg': encode(rgb, 'JPEG', progressive=True),
        'grey.png': encode(grey),
        'grey16.png': encode(Image.fromarray(wide)),
        'bits.png': encode(grey.convert('1')),
        'alpha.png': encode(alpha),
        'grey_alpha.png': encode(alpha.convert('LA')),
        'palette.png': encode(palette),
        'transparent.png': encode(palette, transparency=3),
        'transparent.gif': encode(palette, 'GIF', transparency=3),
        'rgb.bmp': encode(rgb, 'BMP'),
    }


KINDS = kinds_of_files()


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_file_is_seen_as_by_plain_decoding(kind, channels):
    upright = decode.decode(KINDS[kind], channels)
    upright = Image.fromarray(upright[..., 0] if channels == 1 else upright)
    draws = draws_of_the_whole()
    found = decode.decode_crop(KINDS[kind], channels, 25, draws, **PLAIN)
    assert found.shape == (25, 25, channels)
    np.testing.assert_array_equal(
        found, resized(upright, 25).reshape(25, 25, channels)
    )
    found = decode.decode(KINDS[kind], channels, 20, 24)
    edges = (5, 3, 35, 33)
    expected = upright.resize((20, 20), BILINEAR, edges)
    interior = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(
        found.astype(int)[interior],
        np.asarray(expected, int).reshape(20, 20, channels)[interior],
        atol=1,
    )


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_a_turned_file_gives_the_view_of_the_upright_one(orientation, kind):
    image = photo((60, 44), cells=7)
    upright = encode(image)
    turned = held(image, orientation, kind)
    lossy = held(image, orientation, 'JPEG')
    for seed in range(3):
        draws = make_draws(seed)
        expected = decode.decode_crop(upright, 3, 24, draws, **PLAIN)
        found = decode.decode_crop(turned, 3, 24, draws, **PLAIN)
        np.testing.assert_array_equal(found, expected)
        found = decode.decode_crop(lossy, 3, 24, draws, **PLAIN)
        assert error(found, expected) < 1.5
    expected = decode.decode(upright, 3, 24, 27)
    np.testing.assert_array_equal(decode.decode(turned, 3, 24, 27), expected)
    assert error(decode.decode(lossy, 3, 24, 27), expected) < 1.5


@pytest.mark.parametrize('channels', [1, 3])
def test_a_draw_below_one_half_mirrors(channels):
    data = encode(photo((60, 45)))
    draws = make_draws(4)
    plain = decode.decode_crop(data, channels, 24, draws, **PLAIN)
    for mirror, expected in ((0.499, plain[:, ::-1]), (0.5, plain)):
        draws[-2] = mirror
        found = decode.decode_crop(
            data, channels, 24, draws, flip=True, brightness=0.0
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('light', [0.0, 0.25, 0.5, 0.999])
def test_brightness_multiplies_and_clips(channels, light):
    data = encode(photo((60, 45)))
    draws = make_draws(4)
    draws[-1] = light
    plain = decode.decode_crop(data, channels, 24, draws, **PLAIN)
    found = decode.decode_crop(
        data, channels, 24, draws, flip=False, brightness=0.4
    )
    factor = 0.6 + light * 0.8
    expected = np.clip(np.rint(plain * factor), 0, 255)
    np.testing.assert_array_equal(found, expected)
    if light == 0.999:
        assert (plain * factor > 256).any()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
@pytest.mark.parametrize('shape', [(480, 360), (360, 480)])
def test_evaluation_resizes_and_then_crops(shape, kind):
    image = photo(shape, cells=12)
    data = encode(image, kind, **BEST if kind == 'JPEG' else {})
    # To a shorter side of 72, of which 60 are kept: 6 go on one side.
    whole = image.resize((shape[0] // 5, shape[1] // 5), BILINEAR)
    left, top = (whole.width - 60) // 2, (whole.height - 60) // 2
    expected = np.asarray(whole.crop((left, top, left + 60, top + 60)))
    found = decode.decode(data, 3, 60, 72)
    assert found.shape == (60, 60, 3)
    assert error(found, expected) < 0.6
    difference = np.abs(found.astype(int) - expected)
    assert difference[1:-1, 1:-1].max() <= (3 if kind == 'JPEG' else 1)


def dot_at(shape, x, y):
    """A bright dot on black, some pixels wide; x and y are pixels' edges."""
    columns, rows = (np.arange(n) + 0.5 for n in shape)
    squares = (columns - x) ** 2 + (rows[:, None] - y) ** 2
    width = min(shape) / 40
    dot = 255 * np.exp(-squares / (2 * width**2))
    return Image.fromarray(dot.astype(np.uint8))


def centre_of(pixels):
    """Of the brightness, in pixels' edges: x, y."""
    weights = pixels[..., 0].astype(float)
    weights[weights < 20] = 0
    places = np.arange(pixels.shape[0]) + 0.5
    total = weights.sum()
    return weights.sum(0) @ places / total, weights.sum(1) @ places / total


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
@pytest.mark.parametrize(
    ('shape', 'kind', 'within'),
    [
        ((201, 150), 'PNG', 0.05),
        ((150, 217), 'PNG', 0.05),
        ((800, 600), 'JPEG', 0.05),
        # Where a turned JPEG is drafted, its far edge is at a part of a pixel.
        ((803, 605), 'JPEG', 0.5),
    ],
)
def test_a_dot_lands_where_geometry_says(shape, kind, within, orientation):
    width, height = shape
    x, y = 0.41 * width, 0.63 * height
    data = held(dot_at(shape, x, y), orientation, kind)
    side = min(shape) * 32 / 40
    left, top = (width - side) / 2, (height - side) / 2
    expected = [(x - left) / side * 32, (y - top) / side * 32]
    found = centre_of(decode.decode(data, 1, 32, 40))
    np.testing.assert_allclose(found, expected, atol=within)
    found = centre_of(
        decode.decode_crop(data, 1, 32, draws_of_the_whole(), **PLAIN)
    )
    top, left, h, w = decode.crop_box(
        height, width, draws_of_the_whole()[:-2].reshape(-1, 4)
    )
    expected = [(x - left) / w * 32, (y - top) / h * 32]
    np.testing.assert_allclose(found, expected, atol=within)


@pytest.mark.parametrize('size', [12, 40, 110])
def test_a_jpeg_that_shrinks_while_it_is_decoded_stays_sharp(monkeypatch, size):
    image = photo((720, 560), cells=60)
    data = encode(image, 'JPEG', quality=95)
    decoded = Image.open(io.BytesIO(data))
    scales = []
    draft = pillow._draft

    def spy(*args):
        scales.append(draft(*args))
        return scales[-1]

    monkeypatch.setattr(pillow, '_draft', spy)
    for seed in range(4):
        draws = make_draws(seed)
        top, left, height, width = decode.crop_box(
            560, 720, draws[:-2].reshape(-1, 4)
        )
        box = decoded.crop((left, top, left + width, top + height))
        expected = resized(box, size)
        found = decode.decode_crop(data, 3, size, draws, **PLAIN)
        assert min(height, width) >= 2 * size * scales[-1] or scales[-1] == 1
        assert error(found, expected) < 0.06 * expected.std()
    # What was decoded is the least of the halvings that keeps twice the size.
    assert max(scales) == {12: 8, 40: 4, 110: 2}[size]


def broken_files():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    noise = Image.fromarray(noise)
    whole = {k: encode(noise, k) for k in ('JPEG', 'PNG', 'BMP', 'GIF')}
    return {
        'empty': b'',
        'text': b'<html>404 not found</html>',
        **{kind: data[:-2500] for kind, data in whole.items()},
    }


BROKEN = broken_files()


@pytest.mark.parametrize('kind', BROKEN)
def test_what_is_no_image_fails_alike_in_every_view(kind):
    messages = set()
    for view in (
        lambda data: decode.decode(data, 3, 24),
        lambda data: decode.decode(data, 3, 24, 27),
        lambda data: decode.decode_crop(data, 3, 24, make_draws(0), **PLAIN),
    ):
        with pytest.raises(errors.BadImageError) as failure:
            view(BROKEN[kind])
        messages.add(str(failure.value))
    (message,) = messages
    start = {'empty': 'empty', 'text': 'no JPEG, PNG, '}
    assert message.startswith(start.get(kind, 'broken: '))
    assert '\n' not in message


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
@pytest.mark.parametrize('exif', [b'no TIFF at all', b'MM\0*\0\0', b'MM'])
def test_broken_exif_does_not_spoil_a_view(kind, exif):
    image = photo((40, 36))
    best = BEST if kind == 'JPEG' else {}
    data = encode(image, kind, exif=b'Exif\0\0' + exif, **best)
    draws = draws_of_the_whole()
    found = decode.decode_crop(data, 3, 20, draws, **PLAIN)
    assert error(found, resized(image, 20)) < 1


@pytest.mark.parametrize('size', [None, 24])
def test_the_shorter_side_is_at_least_the_size(size):
    with pytest.raises(ValueError) as failure:
        decode.decode(encode(photo((40, 36))), 3, size, 23)
    assert str(failure.value) == f'shorter=23: must be at least size={size}'


def test_many_are_decoded_in_the_view_that_is_asked_for():
    files = [encode(photo((40, 36), seed=seed)) for seed in range(3)]
    load, describe = files.__getitem__, 'image {}'.format
    found = decode.decode_many(
        load, describe, 3, (20, 20, 3), resize=True, shorter=24
    )
    expected = [decode.decode(data, 3, 20, 24) for data in files]
    np.testing.assert_array_equal(found, expected)
    plain = decode.decode_many(load, describe, 3, (20, 20, 3), resize=True)
    assert (plain != found).any((1, 2, 3)).all()
    files[1] = BROKEN['PNG']
    bad = decode.find_bad(load, 3, (20, 20, 3), shorter=24)
    assert list(bad) == [1]
    with pytest.raises(ValueError, match='shorter=10'):  # It is passed on.
        decode.find_bad(load, 3, (20, 20, 3), shorter=10)
