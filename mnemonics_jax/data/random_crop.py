"""The box of a random resized crop, for NumPy and JAX.

The area is uniform in [0.08, 1] of the image's, the logarithm of width / height
uniform in [log 3/4, log 4/3], the position uniform within the image. A box that
does not fit is drawn again; after ten attempts it is the largest central box
with a ratio in these bounds.
"""

import math
from typing import Any

ATTEMPTS = 10

_LEAST_AREA = 0.08
_RATIO = 4 / 3


def crop_box(height: int, width: int, draws: Any) -> Any:
    """Chooses a box of pixels.

    Args:
        height: image height, >= 1.
        width: image width, >= 1.
        draws: float[ATTEMPTS,4], a NumPy or JAX array, uniform in [0, 1): area,
            ratio, top and left of each attempt.

    Returns:
        int32[4]: top, left, height and width, within the image.
    """
    xp = draws.__array_namespace__()
    areas = (_LEAST_AREA + (1 - _LEAST_AREA) * draws[:, 0]) * (height * width)
    ratios = xp.exp(math.log(_RATIO) * (2 * draws[:, 1] - 1))
    heights = xp.round(xp.sqrt(areas / ratios))
    widths = xp.round(xp.sqrt(areas * ratios))
    fits = (heights <= height) & (widths <= width)
    fits &= (heights >= 1) & (widths >= 1)
    first = xp.argmax(fits)  # 0 if no attempt fits.
    found = fits[first]
    tall = min(height, round(width * _RATIO))
    wide = min(width, round(height * _RATIO))
    heights = xp.where(found, heights[first], tall)
    widths = xp.where(found, widths[first], wide)
    tops = xp.floor(draws[first, 2] * (height - heights + 1))
    lefts = xp.floor(draws[first, 3] * (width - widths + 1))
    tops = xp.where(found, tops, (height - tall) // 2)
    lefts = xp.where(found, lefts, (width - wide) // 2)
    return xp.stack([tops, lefts, heights, widths]).astype(xp.int32)
