"""Quantised JPEG coefficients to bytes: baseline Huffman coding, vectorised.

Codes are those of Annex K for every image, so that all share one header.
"""

import struct
from typing import NamedTuple

import numpy as np

from mnemonics_jax.data.storage.jpeg.transform import Layout

# Annex K, luma then chroma: how many codes there are of 1 to 16 bits, and the
# symbols in the order of their codes.
_DC_COUNTS = (
    '00010501010101010100000000000000',
    '00030101010101010101010000000000',
)
_AC_COUNTS = (
    '0002010303020403050504040000017d',
    '00020102040403040705040400010277',
)
_DC_SYMBOLS = ('000102030405060708090a0b',) * 2
_AC_SYMBOLS = (
    '01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282'
    '090a161718191a25262728292a3435363738393a434445464748494a535455565758595a63'
    '6465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6'
    'a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6'
    'e7e8e9eaf1f2f3f4f5f6f7f8f9fa',
    '000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a'
    '162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a'
    '636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4'
    'a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5'
    'e6e7e8e9eaf2f3f4f5f6f7f8f9fa',
)
_END_OF_BLOCK = 0x00
_SIXTEEN_ZEROS = 0xF0
_END_OF_IMAGE = b'\xff\xd9'

# Position in an 8 x 8 block of the k-th coefficient that is written: along
# diagonals, in turn up and down.
ZIGZAG = np.array(
    sorted(
        range(64),
        key=lambda i: (
            i // 8 + i % 8,
            i // 8 if (i // 8 + i % 8) % 2 else i % 8,
        ),
    )
)
# Bits of a coefficient's size.
_NUM_BITS = np.array([i.bit_length() for i in range(2**12)])


class Order(NamedTuple):
    """The blocks of an image in the order in which they are written.

    Attributes:
        blocks: int[s], index of each block. Dummies, which fill up the groups
            of blocks at the edges, have the index of the block before them in
            the same plane.
        dummy: bool[s].
        planes: int[s], of which plane each is.
    """

    blocks: np.ndarray
    dummy: np.ndarray
    planes: np.ndarray


def scan_order(layout: Layout) -> Order:
    """The order of the blocks of images.

    A group has `step` x `step` blocks of Y and one each of Cb and Cr.
    """
    step = layout.step
    firsts = np.cumsum([0, *(p.down * p.across for p in layout.planes)])
    groups_down = -(-layout.planes[0].down // step)
    groups_across = -(-layout.planes[0].across // step)
    blocks, dummy, planes = [], [], []
    last = list(firsts)
    for group in np.ndindex(groups_down, groups_across):
        for k, plane in enumerate(layout.planes):
            size = step if k == 0 else 1
            for inner in np.ndindex(size, size):
                y, x = (group[i] * size + inner[i] for i in (0, 1))
                outside = y >= plane.down or x >= plane.across
                if not outside:
                    last[k] = firsts[k] + y * plane.across + x
                blocks.append(last[k])
                dummy.append(outside)
                planes.append(k)
    return Order(np.array(blocks), np.array(dummy), np.array(planes))


def header(layout: Layout) -> bytes:
    """All of a JPEG file before the entropy-coded data.

    It has no JFIF marker: readers take components 1, 2 and 3 for Y, Cb and Cr.
    """
    height, width, channels = layout.image_shape
    # Of luma and of chroma: their first planes.
    num_kinds = min(channels, 2)
    firsts = (0, layout.planes[0].down * layout.planes[0].across)
    quantisation = b''.join(
        bytes([i, *layout.tables[firsts[i]].flat[ZIGZAG].tolist()])
        for i in range(num_kinds)
    )
    codes = b''.join(
        bytes([16 * is_ac + i]) + bytes.fromhex(counts[i] + symbols[i])
        for i in range(num_kinds)
        for is_ac, counts, symbols in (
            (0, _DC_COUNTS, _DC_SYMBOLS),
            (1, _AC_COUNTS, _AC_SYMBOLS),
        )
    )
    frame = struct.pack('>BHHB', 8, height, width, channels)
    scan = bytes([channels])
    for k in range(channels):
        sampling = 0x11 if k else 0x11 * layout.step
        frame += bytes([k + 1, sampling, min(k, 1)])
        scan += bytes([k + 1, 0x11 * min(k, 1)])
    scan += bytes([0, 63, 0])
    segments = (
        (0xDB, quantisation),
        (0xC0, frame),
        (0xC4, codes),
        (0xDA, scan),
    )
    return b'\xff\xd8' + b''.join(
        struct.pack('>BBH', 0xFF, marker, len(data) + 2) + data
        for marker, data in segments
    )


def encode(quantised: np.ndarray, order: Order) -> list[bytes]:
    """Entropy-coded data and the end-of-image marker of each image.

    Args:
        quantised: int32[n, blocks, 8, 8]; means from -1024 to 1023, all others
            from -1023 to 1023.
        order: of the blocks.
    """
    num = len(quantised)
    if not num:
        return []
    found = quantised.reshape(num, -1, 64)[:, order.blocks][..., ZIGZAG]
    # A dummy has the mean of the block before it, and nothing else.
    found[:, order.dummy, 1:] = 0
    for k in range(order.planes[-1] + 1):
        means = found[:, order.planes == k, 0]
        found[:, order.planes == k, 0] = np.diff(means, axis=1, prepend=0)
    words, sizes, images = _words(found, np.minimum(order.planes, 1))
    return _packed(words, sizes, images, num)


def _words(found, kinds):
    """What is written, as one word for each coefficient that is not zero.

    Args:
        found: int32[n, s, 64] in the order that they are written, means as
            differences.
        kinds: int[s], 0 for luma and 1 for chroma.

    Returns:
        uint64[w] words, int[w] their bits, int[w] the image of each.
    """
    written = found != 0
    written[..., 0] = True  # The means always are.
    images, blocks, k = np.nonzero(written)
    values = found[written]
    kind = kinds[blocks]
    is_mean = k == 0
    # Means have no run; before other coefficients there was at least a mean.
    zeros = np.diff(k, prepend=0) - 1
    zeros[is_mean] = 0
    amplitude_bits = _NUM_BITS[abs(values)]
    symbols = (zeros % 16 << 4) + amplitude_bits
    codes, code_bits = _CODES[:, is_mean.astype(int), kind, symbols]
    words = np.zeros(len(k), np.uint64)
    sizes = np.zeros(len(k), np.int64)

    def append(where, code, bits):
        words[where] <<= bits.astype(np.uint64)
        words[where] |= code.astype(np.uint64)
        sizes[where] += bits

    def append_symbol(where, symbol):
        code, bits = _CODES[:, 0, kind[where], symbol]
        append(where, code, bits)

    # In all at most 63 bits: 3 x 11, 16 + 10, 4.
    for count in (1, 2, 3):
        append_symbol(np.flatnonzero(zeros >= 16 * count), _SIXTEEN_ZEROS)
    append(slice(None), codes, code_bits)
    # Negative values are written as their ones' complement.
    low = np.where(values < 0, values + (1 << amplitude_bits) - 1, values)
    append(slice(None), low, amplitude_bits)
    ends = np.append(is_mean[1:], True) & (k != 63)
    append_symbol(np.flatnonzero(ends), _END_OF_BLOCK)
    return words, sizes, images


def _packed(words, sizes, images, num):
    """The words of each image as bytes, filled up with ones, and the marker."""
    totals = np.bincount(images, sizes, num).astype(np.int64)
    lengths = -(-totals // 8)
    # Bits of an image are shifted by what fills up the images before it.
    fill = np.cumsum(8 * lengths - totals) - (8 * lengths - totals)
    ends = np.cumsum(sizes)
    positions = np.arange(ends[-1])
    shifts = np.repeat(ends, sizes) - 1 - positions
    bits = np.ones(8 * lengths.sum(), np.uint8)
    bits[positions + np.repeat(fill, totals)] = (
        np.repeat(words, sizes) >> shifts.astype(np.uint64)
    ) & np.uint64(1)
    data = np.packbits(bits).tobytes()
    streams = []
    first = 0
    for length in lengths.tolist():
        coded = data[first : first + length]
        # A 0xFF in the data is told from a marker by a zero after it.
        streams.append(coded.replace(b'\xff', b'\xff\x00') + _END_OF_IMAGE)
        first += length
    return streams


def _code_tables():
    """int[2, 2, 2, 256]: codes and their bits; AC, DC; luma, chroma; symbol."""
    tables = np.zeros((2, 2, 2, 256), np.int64)
    all_counts = (_AC_COUNTS, _DC_COUNTS)
    all_symbols = (_AC_SYMBOLS, _DC_SYMBOLS)
    for is_mean, kind in np.ndindex(2, 2):
        symbols = iter(bytes.fromhex(all_symbols[is_mean][kind]))
        code = 0
        for bits, count in enumerate(
            bytes.fromhex(all_counts[is_mean][kind]), start=1
        ):
            for _ in range(count):
                tables[:, is_mean, kind, next(symbols)] = code, bits
                code += 1
            code <<= 1
    return tables


_CODES = _code_tables()
