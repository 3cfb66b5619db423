"""Pixels to quantised JPEG coefficients and back, in NumPy and in JAX.

Values are 32-bit integers in fixed point, as in libjpeg: sums in any order are
the same, so that NumPy and JAX find the same coefficients on every device, and
what training is shown is what Pillow decodes. The inverse is that of libjpeg's
accurate integer decoder ("islow", with "fancy" upsampling) to the last bit. The
forward transform keeps more bits than libjpeg's, which rounds colours to 8 bits
first: small steps of learning are not lost in it.

The same code on floats, without rounding and clipping, is the linear map that
derivatives are taken of. It works on values less mid-grey, which has the
coefficients 0.
"""

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar('Array', np.ndarray, jax.Array)

# JFIF's colours. Times 2**16: the rows are of Y, Cb, Cr and of R, G, B.
_TO_YCC = np.array(
    [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]],
    np.int32,
)
_TO_RGB = np.array(
    [[65536, 0, 91881], [65536, -22554, -46802], [65536, 116130, 0]], np.int32
)
_COLOUR_BITS = 16
# Of a pixel, in fixed point: 1/16 grey level.
_PIXEL_BITS = 4
# Orthonormal DCT-II, rows by frequency. With these bits no sum exceeds 2**31:
# a row's absolute values add up to at most sqrt(8).
_DCT_BITS = 14
_DCT = np.round(
    2**_DCT_BITS
    * np.cos(np.outer(np.arange(8), np.arange(8) + 0.5) * math.pi / 8)
    * np.where(np.arange(8) == 0, math.sqrt(1 / 8), 0.5)[:, None]
).astype(np.int32)
# Bits of the result of the first pass beyond those of the pixels.
_PASS_BITS = 2
# Bits of coefficients before they are quantised.
_FORWARD_BITS = _PIXEL_BITS + _PASS_BITS + _DCT_BITS
# The first half of libjpeg's inverse, rows by sample; it has the factor sqrt(8)
# and 13 bits. Its sums of rounded constants differ from rounded sums by one.
_INVERSE_HALF = np.array(
    [
        [8192, 11363, 10703, 9633, 8192, 6437, 4433, 2260],
        [8192, 9633, 4433, -2259, -8192, -11362, -10704, -6436],
        [8192, 6437, -4433, -11362, -8192, 2261, 10704, 9633],
        [8192, 2260, -10703, -6436, 8192, 9633, -4433, -11363],
    ],
    np.int32,
)
# The other half mirrors it: odd frequencies change sign.
_INVERSE = np.concatenate(
    [_INVERSE_HALF, _INVERSE_HALF[::-1] * np.array([1, -1] * 4, np.int32)]
)
_INVERSE_BITS = 13
# Tables of Annex K, for quality 50, by frequency down and across.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int32,
)
_CHROMA = np.full((8, 8), 99, np.int32)
_CHROMA[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
# libjpeg interpolates colours only where their plane is wider than this.
_NARROW = 2


class Plane(NamedTuple):
    """One colour component of an image: its size, and that in blocks."""

    height: int
    width: int
    down: int
    across: int


class Layout(NamedTuple):
    """What coefficients int32[n, blocks, 8, 8] mean.

    The blocks are those of all planes, plane after plane, row by row.

    Attributes:
        image_shape: H, W and C.
        step: pixels across and down that share a colour, 1 or 2.
        planes: of Y, Cb and Cr, or Y alone.
        tables: int32[blocks, 8, 8], steps that coefficients are rounded to.
    """

    image_shape: tuple[int, int, int]
    step: int
    planes: tuple[Plane, ...]
    tables: np.ndarray


def make_layout(
    image_shape: tuple[int, int, int], quality: int, subsampling: str
) -> Layout:
    """The layout of images; arguments as for `storage.make`."""
    height, width, channels = image_shape
    step = 2 if channels == 3 and subsampling == '4:2:0' else 1
    planes = []
    for size in (1, *(step,) * (channels - 1)):
        h, w = math.ceil(height / size), math.ceil(width / size)
        planes.append(Plane(h, w, math.ceil(h / 8), math.ceil(w / 8)))
    kinds = [_LUMA, *(_CHROMA,) * (channels - 1)]
    tables = [
        np.broadcast_to(_scaled(kind, quality), (p.down * p.across, 8, 8))
        for kind, p in zip(kinds, planes, strict=True)
    ]
    return Layout(image_shape, step, tuple(planes), np.concatenate(tables))


def coefficients(images: Array, layout: Layout) -> Array:
    """Quantised coefficients int32[n, blocks, 8, 8] of images [n, H, W, C].

    Args:
        images: uint8, or f32 or f64 and clipped to [0, 1]; NumPy's or JAX's,
            and so is the result.
        layout: of the images.
    """
    xp = _library(images)
    if images.dtype == np.uint8:
        fixed = images.astype(np.int32) << _PIXEL_BITS
    else:
        levels = xp.round(images.clip(0, 1) * (255 << _PIXEL_BITS))
        fixed = levels.astype(np.int32)
    found = _forward(fixed - (128 << _PIXEL_BITS), layout)
    # Halves are rounded away from zero, as in libjpeg.
    halves = layout.tables << (_FORWARD_BITS - 1)
    sizes = (abs(found) + halves) // (layout.tables << _FORWARD_BITS)
    return xp.where(found < 0, -sizes, sizes)


def decoded(quantised: Array, layout: Layout) -> Array:
    """Grey levels int32[n, H, W, C] in 0..255 of `coefficients`."""
    return _inverse(quantised * layout.tables, layout).clip(-128, 127) + 128


def smooth_change(
    change: jax.Array, kept: jax.Array, layout: Layout
) -> jax.Array:
    """How much decoded pixels change with pixels, without rounding: linear.

    Args:
        change: f32 or f64 [n, H, W, C], a direction.
        kept: [n, blocks, 8, 8], true where coefficients are not set to zero.
        layout: of the images.

    Returns:
        The derivative in this direction, of the same type and shape.
    """
    found = _forward(change, layout) * kept.astype(change.dtype)
    scale = 2.0 ** (_PIXEL_BITS - _FORWARD_BITS)
    return _inverse(found * scale, layout)


def _scaled(table, quality):
    """A table for a quality by the IJG's rule, within 8 bits."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((table * percent + 50) // 100).clip(1, 255)


def _library(x):
    return np if isinstance(x, np.ndarray) else jnp


def _is_exact(x):
    return jnp.issubdtype(x.dtype, jnp.integer)


def _descale(x, bits, half=None):
    """x / 2**bits, of integers rounded."""
    if _is_exact(x):
        return (x + (1 << (bits - 1) if half is None else half)) >> bits
    return x / 2**bits


def _product(a, b):
    """The matrix product of a constant and an array, in either order."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    dtype = jnp.result_type(a, b)
    a, b = (x.astype(dtype) for x in (a, b))
    # Accelerators multiply floats with fewer bits unless they are told not to.
    return jnp.matmul(a, b, precision='highest')


def _padded(planes, height, width):
    """Planes [n, h, w] with their last rows and columns repeated."""
    spare = (height - planes.shape[1], width - planes.shape[2])
    if not any(spare):
        return planes
    pads = ((0, 0), (0, spare[0]), (0, spare[1]))
    return _library(planes).pad(planes, pads, mode='edge')


def _forward(centred, layout):
    """Coefficients, not quantised, of images [n, H, W, C] less mid-grey.

    Those of integers have `_FORWARD_BITS`, with `_PIXEL_BITS` before.
    """
    if len(layout.planes) == 1:
        planes = [centred[..., 0]]
    else:
        full = _product(centred, _TO_YCC.T)
        planes = [_descale(full[..., 0], _COLOUR_BITS)]
        planes += [_box(full[..., i], layout) for i in (1, 2)]
    blocks = [
        _blocks(x, plane)
        for x, plane in zip(planes, layout.planes, strict=True)
    ]
    x = _library(centred).concatenate(blocks, axis=1)
    x = _descale(_product(_DCT, x), _DCT_BITS - _PASS_BITS)
    return _product(x, _DCT.T)


def _blocks(x, plane):
    """A plane [n, h, w] as blocks [n, blocks, 8, 8]."""
    x = _padded(x, 8 * plane.down, 8 * plane.across)
    x = x.reshape(-1, plane.down, 8, plane.across, 8).transpose(0, 1, 3, 2, 4)
    return x.reshape(-1, plane.down * plane.across, 8, 8)


def _unblocked(x, plane):
    """Undoes `_blocks`."""
    x = x.reshape(-1, plane.down, plane.across, 8, 8).transpose(0, 1, 3, 2, 4)
    x = x.reshape(-1, 8 * plane.down, 8 * plane.across)
    return x[:, : plane.height, : plane.width]


def _box(colour, layout):
    """The mean of each box of pixels [n, H, W] that share a colour.

    Its rows are those of the plane, its columns those of whole blocks.
    """
    step = layout.step
    if step == 1:
        return _descale(colour, _COLOUR_BITS)
    plane = layout.planes[1]
    height, width = plane.height, 8 * plane.across
    # As libjpeg: to the right pixels are repeated, below means are.
    x = _padded(colour, height * step, width * step)
    x = x.reshape(-1, height, step, width, step).sum(axis=(2, 4))
    # Sums of 32-bit integers are 64-bit ones in NumPy.
    return _descale(x.astype(colour.dtype), _COLOUR_BITS + 2)


def _inverse(found, layout):
    """Images [n, H, W, C] less mid-grey of coefficients that are not quantised.

    Integers are rounded and clipped where libjpeg does so.
    """
    # By the factors sqrt(8), 2 bits stay between the passes.
    x = _descale(_product(_INVERSE, found), _INVERSE_BITS - 2)
    x = _descale(_product(x, _INVERSE.T), _INVERSE_BITS + 2 + 3)
    if _is_exact(x):
        x = x.clip(-128, 127)
    ends = np.cumsum([p.down * p.across for p in layout.planes])
    planes = [
        _unblocked(x[:, end - plane.down * plane.across : end], plane)
        for end, plane in zip(ends, layout.planes, strict=True)
    ]
    if len(planes) == 1:
        return planes[0][..., None]
    if layout.step == 2:
        planes[1:] = [_upsampled(y, layout) for y in planes[1:]]
    full = _library(x).stack(planes, axis=-1)
    return _descale(_product(full, _TO_RGB.T), _COLOUR_BITS)


def _upsampled(plane, layout):
    """Twice as many pixels of [n, h, w], by triangles, cropped to the image."""
    height, width = layout.image_shape[:2]
    narrow = plane.shape[2] <= _NARROW
    x = _doubled(_doubled(plane, 1, narrow), 2, narrow)[:, :height, :width]
    # libjpeg rounds halves up and down in turn.
    return _descale(x, 4, 8 - np.arange(width, dtype=np.int32) % 2)


def _doubled(x, axis, narrow):
    """Twice as many values along an axis, times 4: 3/4 near and 1/4 far."""
    xp = _library(x)
    if narrow:
        return 4 * x.repeat(2, axis=axis)
    pads = [(1, 1) if i == axis else (0, 0) for i in range(3)]
    around = xp.pad(x, pads, mode='edge')
    skipped = (slice(None),) * axis
    before = around[(*skipped, slice(None, -2))]
    after = around[(*skipped, slice(2, None))]
    both = xp.stack([3 * x + before, 3 * x + after], axis=axis + 1)
    shape = list(x.shape)
    shape[axis] *= 2
    return both.reshape(shape)
