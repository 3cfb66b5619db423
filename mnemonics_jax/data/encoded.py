"""The encoded images of a memory: as lists, as arrays and in result files."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mnemonics_jax.data.storage import Storage, make
from mnemonics_jax.types import EncodedImages, ExemplarSet

# For each class its encoded images, in rank order.
Rows = list[list[bytes]]

# Arrays of a result file with images, and with encoded ones.
IMAGES = ('images', 'mask')
ENCODED = (*EncodedImages._fields, 'image_shape', 'codec')


def join(rows: Rows, num_classes: int, slots: int) -> EncodedImages:
    """Encoded images of the first classes as arrays."""
    lengths = np.zeros((num_classes, slots), np.int32)
    for row, streams in zip(lengths, rows, strict=False):
        row[: len(streams)] = [len(stream) for stream in streams]
    data = b''.join(stream for row in rows for stream in row)
    return EncodedImages(np.frombuffer(data, np.uint8), lengths)


def split(encoded: EncodedImages) -> Rows:
    """The images of each class, in rank order.

    Raises:
        ValueError: there are more or fewer bytes than the images have.
    """
    data, lengths = bytes(np.asarray(encoded.data)), np.asarray(encoded.lengths)
    ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
    if len(data) != lengths.sum():
        raise ValueError(
            f'exemplars: {len(data)} bytes: must be {lengths.sum()}, those of '
            'the encoded images'
        )
    return [
        [data[end - size : end] for end, size in zip(*row, strict=True) if size]
        for row in zip(ends, lengths, strict=True)
    ]


def replace(
    encoded: EncodedImages, kept: np.ndarray, rows: Rows, num_old: int
) -> EncodedImages:
    """Drops images of old classes, and adds those of new ones.

    Args:
        encoded: images of the first `num_old` classes.
        kept: bool[K, m], the slots that stay: of each class the first ones.
        rows: images of the next classes.
        num_old: number of old classes.
    """
    num_classes, slots = encoded.lengths.shape
    old = [
        row[: int(keep.sum())]
        for row, keep in zip(split(encoded), kept, strict=True)
    ]
    return join([*old[:num_old], *rows], num_classes, slots)


def decode(
    storage: Storage, encoded: EncodedImages
) -> tuple[np.ndarray, np.ndarray]:
    """What encoded images decode to, on the host.

    Returns:
        Images [K, m, H, W, C] in the dtype of the storage, zeros in empty
        slots, and their mask, bool[K, m].

    Raises:
        ValueError: one is not an image of the shape of the storage.
    """
    mask = np.asarray(encoded.lengths) > 0
    decoded = storage.decode([s for row in split(encoded) for s in row])
    images = np.zeros((*mask.shape, *decoded.shape[1:]), storage.dtype)
    images[mask] = decoded
    return images, mask


def to_arrays(
    held: ExemplarSet,
    encoded: EncodedImages | None,
    num_seen: int,
    options: Any,
) -> dict[str, np.ndarray]:
    """The rows of the classes seen as arrays of a file; see `from_arrays`.

    Args:
        held: the memory.
        encoded: what is stored of it; None where its arrays are.
        num_seen: n, number of classes seen.
        options: config section `exemplars`.

    Returns:
        'mask' bool[n, m], and 'images' [n, m, H, W, C]; or in place of the
        images 'data' and 'lengths' of `EncodedImages`, 'image_shape', and in
        'codec' the other arguments of `storage.make`.
    """
    seen = slice(num_seen)
    mask = np.asarray(held.mask)[seen]
    if encoded is None:
        return {'images': np.asarray(held.images)[seen], 'mask': mask}
    codec = options.storage, str(options.quality), options.subsampling
    return {
        **encoded._replace(lengths=encoded.lengths[seen])._asdict(),
        'image_shape': np.array(held.images.shape[2:]),
        'codec': np.array(codec),
        'mask': mask,
    }


def from_arrays(
    arrays: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The exemplars of a result file, as training reads them.

    Args:
        arrays: content of `exemplars/phase_<i>.npz` or of `selected_<i>.npz`.

    Returns:
        Images [n, m, H, W, C] and their mask, bool[n, m].

    Raises:
        ValueError: the encoded images are damaged.
    """
    if 'images' in arrays:
        return arrays['images'], arrays['mask']
    name, quality, subsampling = map(str, arrays['codec'])
    height, width, channels = map(int, arrays['image_shape'])
    codec = make(name, (height, width, channels), int(quality), subsampling)
    encoded = EncodedImages(*(arrays[n] for n in EncodedImages._fields))
    return decode(codec, encoded)
