"""The exemplar memory between phases: filled, shrunk, split and stored.

An `ExemplarSet` has one row per class with slots in rank order: the best n
exemplars of a class are a prefix. The functions are pure and take padded rows,
so that shapes do not depend on the phase. `types.Carry` hands the memory from a
phase to the next, and is saved in checkpoints.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.types import ExemplarSet


def share(*, per_class: int, total: int, num_seen: int) -> int:
    """What each class may have, in exemplars or bytes; see `capacity`."""
    return per_class or total // num_seen


def capacity(
    *, per_class: int, total: int, num_seen: int, num_available: int
) -> int:
    """Exemplars per class when `num_seen` classes share the memory.

    Args:
        per_class: exemplars per class (the paper's main mode), or 0.
        total: exemplars in all, shared equally and rounded down, or 0; exactly
            one of the two is > 0.
        num_seen: classes seen.
        num_available: training images of the largest class. A smaller class
            leaves slots empty; they are not given to other classes.

    Returns:
        The count, at most `num_available`.
    """
    wanted = share(per_class=per_class, total=total, num_seen=num_seen)
    return min(wanted, num_available)


def empty(
    num_classes: int, slots: int, image_shape: tuple[int, ...], storage: str
) -> ExemplarSet:
    """An empty memory, images [K, m, H, W, C] of zeros."""
    shape = (num_classes, slots, *image_shape)
    return ExemplarSet(
        images=jnp.zeros(shape, jnp.dtype(storage)),
        mask=jnp.zeros(shape[:2], bool),
    )


def to_storage(images: jax.Array, storage: str) -> jax.Array:
    """Images in [0, 1] as they are stored: uint8 rounded and clipped, or f32.

    Rounding matters: the authors' code truncates, which lowers every fourth to
    seventh grey level by one on a round trip.
    """
    images = jnp.clip(images, 0, 1)
    if storage == 'uint8':
        return jnp.round(images * 255).astype(jnp.uint8)
    return images.astype(jnp.float32)


def put_rows(
    memory: ExemplarSet, images: jax.Array, mask: jax.Array, first: jax.Array
) -> ExemplarSet:
    """Writes the rows of consecutive classes.

    Args:
        memory: memory; slots after the s given ones become empty.
        images: [c, s, H, W, C] in the memory's dtype, with s <= m.
        mask: bool[c, s].
        first: int32[], class of the first row; rows beyond K are dropped.

    Returns:
        The new memory.
    """
    slots = memory.mask.shape[1]
    spare = ((0, 0), (0, slots - mask.shape[1]))
    images = jnp.pad(images, (*spare, (0, 0), (0, 0), (0, 0)))
    mask = jnp.pad(mask, spare)
    rows = first + jnp.arange(mask.shape[0])
    return ExemplarSet(
        images=memory.images.at[rows].set(images, mode='drop'),
        mask=memory.mask.at[rows].set(mask, mode='drop'),
    )


def shrink(memory: ExemplarSet, kept: jax.Array) -> ExemplarSet:
    """Keeps the slots where `kept`, bool[K, m] or [m], and zeros the rest."""
    mask = memory.mask & kept
    images = jnp.where(mask[..., None, None, None], memory.images, 0)
    return ExemplarSet(images.astype(memory.images.dtype), mask)


def halves(
    memory: ExemplarSet,
    num_classes: jax.Array,
    dtype: DTypeLike = jnp.float32,
) -> tuple[ExemplarSet, ExemplarSet]:
    """Splits the first `num_classes` classes into A and B (the paper, Eq. 10).

    A has the even ranks and B the odd ones, so that both are balanced over
    classes and similar in rank. Of an odd number A has one more, so that B may
    have none of a class; both have the shape [K, ceil(m / 2), ...].

    Returns:
        A and B, images of `dtype` in [0, 1]; masks of other classes are false.
    """
    spare = memory.mask.shape[1] % 2
    images = jnp.pad(
        to_float(memory.images, dtype), ((0, 0), (0, spare), *((0, 0),) * 3)
    )
    old = jnp.arange(memory.mask.shape[0])[:, None] < num_classes
    mask = jnp.pad(memory.mask & old, ((0, 0), (0, spare)))
    return (
        ExemplarSet(images[:, 0::2], mask[:, 0::2]),
        ExemplarSet(images[:, 1::2], mask[:, 1::2]),
    )


def merge_halves(
    memory: ExemplarSet, half_a: ExemplarSet, half_b: ExemplarSet
) -> ExemplarSet:
    """Writes A and B back into `memory` where their masks are true."""
    num_classes, slots = memory.mask.shape

    def interleave(a, b):
        both = jnp.stack([a, b], axis=2)
        return both.reshape(num_classes, -1, *a.shape[2:])[:, :slots]

    changed = interleave(half_a.mask, half_b.mask)[..., None, None, None]
    images = interleave(half_a.images, half_b.images)
    stored = to_storage(images, str(memory.images.dtype))
    return memory.replace(images=jnp.where(changed, stored, memory.images))


def drift_grey_levels(
    before: jax.Array, after: jax.Array, mask: jax.Array
) -> jax.Array:
    """Mean |change| of the pixels of masked images, in levels of 0..255.

    Args:
        before: [..., H, W, C], uint8 or f32 in [0, 1].
        after: the same shape.
        mask: bool[...].

    Returns:
        f32[]; 0 if no image is masked in.
    """
    dtype = jnp.result_type(jnp.float32, before, after)
    changes = jnp.abs(to_float(after, dtype) - to_float(before, dtype))
    changes = changes.mean((-3, -2, -1)) * 255
    return jnp.sum(jnp.where(mask, changes, 0)) / jnp.maximum(jnp.sum(mask), 1)
