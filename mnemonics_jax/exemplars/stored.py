"""Exemplars as they are stored: encoded, counted in bytes, and decoded.

All functions work on the host. A budget of bytes is that of one class: it keeps
the longest prefix of its ranks of which the encoded images fit. The header that
all images of a codec share is counted once for the whole memory.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mnemonics_jax.data import storage
from mnemonics_jax.data.encoded import Rows
from mnemonics_jax.data.storage import Storage
from mnemonics_jax.types import EncodedImages, ExemplarSet


class StoredRows(NamedTuple):
    """Rows of stored exemplars.

    Attributes:
        images: [c, s, H, W, C] as training reads them, in the dtype of the
            storage; zeros in empty slots.
        mask: bool[c, s].
        encoded: the bytes of the images of each row, in rank order.
    """

    images: np.ndarray
    mask: np.ndarray
    encoded: Rows


def store(
    codec: Storage,
    images: np.ndarray,
    mask: np.ndarray,
    budget: int = 0,
    kept: np.ndarray | None = None,
) -> StoredRows:
    """Stores rows of images.

    Args:
        codec: how they are stored.
        images: [c, s, H, W, C], uint8, or f32 or f64 in [0, 1], in rank order.
        mask: bool[c, s]; the others are ignored.
        budget: bytes that a row may take, 0 for any number.
        kept: bool[c, s, ...], see `Storage.kept`; None for all coefficients.
    """
    mask = np.array(mask)
    chosen = None if kept is None else np.asarray(kept)[mask]
    streams = codec.encode(np.asarray(images)[mask], chosen)
    lengths = np.zeros(mask.shape, np.int64)
    lengths[mask] = [codec.num_bytes(stream) for stream in streams]
    fits = mask & fitting(lengths, budget)
    streams = [s for s, fit in zip(streams, fits[mask], strict=True) if fit]
    decoded = np.zeros(images.shape, codec.dtype)
    decoded[fits] = codec.decode(streams)
    ends = np.cumsum(fits.sum(axis=1))
    rows = [streams[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return StoredRows(decoded, fits, rows)


def too_large(rows: StoredRows, budget: int) -> np.ndarray:
    """The rows that would be empty with a budget, bool[c]; none without one."""
    sizes = [len(row[0]) if row else budget + 1 for row in rows.encoded]
    return (np.array(sizes) > budget) & (budget > 0)


def replace_rows(
    rows: StoredRows, others: StoredRows, which: np.ndarray
) -> StoredRows:
    """Rows with those where `which`, bool[c], is true from `others`."""
    chosen = which.reshape(-1, 1)
    encoded = [
        other if choose else own
        for own, other, choose in zip(
            rows.encoded, others.encoded, which, strict=True
        )
    ]
    return StoredRows(
        np.where(chosen[..., None, None, None], others.images, rows.images),
        np.where(chosen, others.mask, rows.mask),
        encoded,
    )


def fitting(lengths: np.ndarray, budget: int) -> np.ndarray:
    """The slots of each row that fit into a budget, bool[c, s].

    Args:
        lengths: int[c, s], bytes of each image, in rank order.
        budget: bytes that a row may take, 0 for any number.
    """
    if not budget:
        return np.ones(np.shape(lengths), bool)
    return np.cumsum(lengths, axis=1, dtype=np.int64) <= budget


def num_bytes(
    codec: Storage, held: ExemplarSet, encoded: EncodedImages | None
) -> int:
    """Bytes of a memory: its encoded images and the header, once.

    Args:
        codec: how they are stored.
        held: the memory.
        encoded: what is stored of it; None where its arrays are.
    """
    if encoded is not None:
        return len(codec.header) + int(np.asarray(encoded.lengths).sum())
    count = int(np.asarray(held.mask).sum())
    size = int(np.prod(held.images.shape[2:]))
    return count * size * held.images.dtype.itemsize


def fingerprint(
    held: ExemplarSet, encoded: EncodedImages | None
) -> dict[str, Any]:
    """What encoded images were decoded to and by what, for `results.json`.

    Another version of the decoder may give other pixels; see `other_pixels`.
    """
    if encoded is None:
        return {}
    return {
        'decoded_sha256': _digest(held.images, held.mask),
        'decoder': storage.decoder_version(),
    }


def other_pixels(
    images: np.ndarray, mask: np.ndarray, recorded: Mapping[str, Any]
) -> str | None:
    """What to say if images decode to other pixels than in the run; else None.

    Args:
        images: [K, m, H, W, C], just decoded.
        mask: bool[K, m].
        recorded: `fingerprint` of it, with other entries.
    """
    if _digest(images, mask) == recorded['decoded_sha256']:
        return None
    versions, now = recorded['decoder'], storage.decoder_version()
    return (
        'exemplars: decode to other pixels than in the run: must be read with '
        f'{_in_words(versions)}, not {_in_words(now)}'
    )


def _digest(images: ArrayLike, mask: ArrayLike) -> str:
    """SHA-256 of the images in the used slots, in hexadecimal."""
    used = np.asarray(images)[np.asarray(mask)]
    return hashlib.sha256(used.tobytes()).hexdigest()


def _in_words(versions: Mapping[str, str | None]) -> str:
    return ', '.join(f'{name} {v}' for name, v in versions.items() if v)
