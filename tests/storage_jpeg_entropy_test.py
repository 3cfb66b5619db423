"""Bytes of JPEG, against a decoder that reads a bit at a time, and Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from mnemonics_jax.data import storage
from mnemonics_jax.data.storage.jpeg import entropy, transform
from tests import storage_images

# Groups of blocks are whole, or filled up at the right and at the bottom.
CASES = [
    ((28, 28, 1), '4:2:0'),
    ((20, 42, 3), '4:2:0'),
    ((30, 34, 3), '4:4:4'),
    ((32, 32, 3), '4:2:0'),
    ((1, 1, 3), '4:2:0'),
]


class Bits:
    """The bits of entropy-coded data, one after the other."""

    def __init__(self, data):
        assert data[-2:] == b'\xff\xd9'
        data = data[:-2].replace(b'\xff\x00', b'\xff')
        self.bits = ''.join(f'{byte:08b}' for byte in data)
        self.position = 0

    def read(self, count):
        found = self.bits[self.position : self.position + count]
        assert len(found) == count
        self.position += count
        return found

    def symbol(self, codes):
        code = ''
        while code not in codes:
            code += self.read(1)
        return codes[code]

    def value(self, size):
        bits = self.read(size)
        if not size:
            return 0
        number = int(bits, 2)
        return number if bits[0] == '1' else number - 2**size + 1


def huffman_codes(segment):
    """Class and number of a table -> its codes, '010' -> symbol."""
    tables = {}
    while segment:
        counts, symbols = (
            segment[1:17],
            list(segment[17 : 17 + sum(segment[1:17])]),
        )
        codes, code = {}, 0
        for size, count in enumerate(counts, start=1):
            for _ in range(count):
                codes[f'{code:0{size}b}'] = symbols[len(codes)]
                code += 1
            code *= 2
        tables[segment[0]] = codes
        segment = segment[17 + len(symbols) :]
    return tables


def read_coefficients(data):
    """Coefficients int[blocks, 8, 8] of a JPEG file, plane after plane."""
    parts, stream = storage_images.segments(data)
    tables = {}
    for marker, segment in parts:
        if marker == 0xC4:
            tables.update(huffman_codes(segment))
        elif marker == 0xC0:
            height, width = (int.from_bytes(segment[i : i + 2]) for i in (1, 3))
            factors = [segment[i] & 15 for i in range(7, len(segment), 3)]
    if len(factors) == 1:
        factors = [1]
    most = max(factors)
    groups = [-(-size // (8 * most)) for size in (height, width)]
    planes = [
        np.zeros((groups[0] * f, groups[1] * f, 8, 8), int) for f in factors
    ]
    bits, last = Bits(stream), [0] * len(factors)
    for group in np.ndindex(*groups):
        for k, factor in enumerate(factors):
            for inner in np.ndindex(factor, factor):
                block = np.zeros(64, int)
                last[k] += bits.value(bits.symbol(tables[min(k, 1)]))
                block[0] = last[k]
                read_others(bits, tables[16 + min(k, 1)], block)
                y, x = (group[i] * factor + inner[i] for i in (0, 1))
                planes[k][y, x] = block.reshape(8, 8)
    # What is left fills up a byte.
    rest = bits.bits[bits.position :]
    assert len(rest) < 8
    assert set(rest) <= {'1'}
    found = []
    for plane, factor in zip(planes, factors, strict=True):
        h, w = (-(-size * factor // (8 * most)) for size in (height, width))
        found.append(plane[:h, :w].reshape(-1, 8, 8))
    return np.concatenate(found)


def zigzag():
    """Positions along the diagonals, walked as the standard draws them."""
    found, y, x = [], 0, 0
    up = True
    while len(found) < 64:
        found.append(8 * y + x)
        if up and x == 7:
            y, up = y + 1, False
        elif up and y == 0:
            x, up = x + 1, False
        elif not up and y == 7:
            x, up = x + 1, True
        elif not up and x == 0:
            y, up = y + 1, True
        else:
            y, x = (y - 1, x + 1) if up else (y + 1, x - 1)
    return found


ZIGZAG = zigzag()


def read_others(bits, codes, block):
    k = 1
    while k < 64:
        run, size = divmod(bits.symbol(codes), 16)
        if (run, size) == (0, 0):
            return
        k += run
        block[ZIGZAG[k]] = bits.value(size)
        k += 1


@pytest.mark.parametrize('quality', [5, 50, 95, 100])
@pytest.mark.parametrize(('shape', 'subsampling'), CASES)
def test_equal_coefficients_are_equal_bytes_to_pillows(
    shape, subsampling, quality
):
    layout = transform.make_layout(shape, quality, subsampling)
    order = entropy.scan_order(layout)
    for kind in storage_images.KINDS:
        image = storage_images.make(kind, 1, shape)[0]
        image = np.round(image * 255).astype(np.uint8)
        file = storage_images.pillow_jpeg(image, quality, subsampling)
        found = read_coefficients(file).astype(np.int32)
        _, stream = storage_images.segments(file)
        assert entropy.encode(found[None], order) == [stream], kind


@pytest.mark.parametrize('quality', [50, 95])
@pytest.mark.parametrize(('shape', 'subsampling'), CASES)
def test_bytes_have_the_coefficients(shape, subsampling, quality):
    codec = storage.make('jpeg', shape, quality, subsampling)
    layout = transform.make_layout(shape, quality, subsampling)
    for kind in storage_images.KINDS:
        images = storage_images.make(kind, 2, shape)
        expected = transform.coefficients(images, layout)
        for i, stream in enumerate(codec.encode(images)):
            found = read_coefficients(codec.file(stream))
            np.testing.assert_array_equal(found, expected[i], kind)


def test_longest_codes_and_runs():
    """Three runs of sixteen zeros before the longest code, and the ends."""
    layout = transform.make_layout((16, 16, 3), 100, '4:2:0')
    order = entropy.scan_order(layout)
    rng = np.random.default_rng(0)
    found = np.zeros((40, 6, 64), np.int32)
    for image in found:
        for block in image:
            k = rng.choice(64, rng.integers(0, 4), replace=False)
            block[k] = rng.choice([-1023, 1023, 1, -1, 512], len(k))
    found[0, :, 0] = [-1024, 1023, -1024, 1023, -1024, 1023]
    found[1, :, ZIGZAG[49]] = 1023  # 48 zeros, and 14 zeros after it.
    found[2, :, 63] = -1023
    found = found.reshape(40, 6, 8, 8)
    codec = storage.make('jpeg', (16, 16, 3), 100)
    for stream, expected in zip(
        entropy.encode(found, order), found, strict=True
    ):
        np.testing.assert_array_equal(
            read_coefficients(codec.file(stream)), expected
        )


@pytest.mark.parametrize('quality', [1, 10, 49, 50, 51, 75, 95, 100])
@pytest.mark.parametrize(('shape', 'subsampling'), CASES[:3])
def test_the_header_has_what_pillows_has(shape, subsampling, quality):
    codec = storage.make('jpeg', shape, quality, subsampling)
    file = storage_images.pillow_jpeg(
        np.zeros(shape, np.uint8), quality, subsampling
    )

    def contents(parts, marker):
        return b''.join(segment for m, segment in parts if m == marker)

    parts, rest = storage_images.segments(codec.header)
    theirs, _ = storage_images.segments(file)
    assert rest == b''
    tables = huffman_codes(contents(theirs, 0xC4))
    if shape[2] == 1:
        tables = {i: t for i, t in tables.items() if i in (0, 16)}
    assert huffman_codes(contents(parts, 0xC4)) == tables
    for marker in (0xDB, 0xDA):
        assert contents(parts, marker) == contents(theirs, marker)
    # Grey planes have no step, whatever is written.
    frames = [bytearray(contents(p, 0xC0)) for p in (parts, theirs)]
    if shape[2] == 1:
        frames[0][7] = frames[1][7] = 0
    assert frames[0] == frames[1]
    assert len(codec.header) < len(file) - len(parts)


@pytest.mark.parametrize(('shape', 'subsampling'), CASES[:4])
def test_as_many_bytes_as_pillow_and_as_good(shape, subsampling):
    """Not the same: Pillow rounds colours to 8 bits before the transform."""
    for quality in (25, 50, 75):
        codec = storage.make('jpeg', shape, quality, subsampling)
        images = storage_images.make('smooth', 8, shape)
        images = np.round(images * 255).astype(np.uint8)
        ours = codec.encode(images)
        theirs = [
            storage_images.segments(
                storage_images.pillow_jpeg(image, quality, subsampling)
            )[1]
            for image in images
        ]
        sizes = [sum(map(len, streams)) for streams in (ours, theirs)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
        found = [
            storage.psnr(codec.decode(streams), images).mean()
            for streams in (ours, theirs)
        ]
        assert found[0] == pytest.approx(found[1], abs=0.05)


def test_grey_images_of_flat_blocks_are_pillows_files_to_the_byte():
    levels = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    image = levels.repeat(8, 0).repeat(8, 1)[..., None]
    for channels in (1, 3):
        pixels = np.repeat(image, channels, axis=-1)
        codec = storage.make('jpeg', pixels.shape, 90)
        file = storage_images.pillow_jpeg(pixels, 90, '4:2:0')
        stream = codec.encode(pixels[None])[0]
        assert stream == storage_images.segments(file)[1]
        with Image.open(io.BytesIO(codec.file(stream))) as decoded:
            assert decoded.mode == ('L' if channels == 1 else 'RGB')
