"""Augmentation on the device, a pure function of a key and example numbers."""

import jax
import jax.numpy as jnp


def crop_offsets_and_flips(
    key: jax.Array, indices: jax.Array, pad: int
) -> tuple[jax.Array, jax.Array]:
    """Draws what `pad_crop_flip` applies.

    Args:
        key: PRNG key of JAX's default kind (threefry), one per epoch.
        indices: int32[B], number of each example; its draw depends on the key
            and this number alone, not on the rest of the batch.
        pad: pixels of padding on each side, >= 0.

    Returns:
        Offsets int32[B,2], rows and columns, uniform over 0..2*pad, and flips
        bool[B], true for one half.
    """

    def draw(index: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, index), (3,), jnp.uint32)

    # The remainder's bias is below 1e-8: one draw instead of three.
    bits = jax.vmap(draw)(indices)
    offsets = (bits[:, :2] % (2 * pad + 1)).astype(jnp.int32)
    return offsets, (bits[:, 2] & 1).astype(bool)


def pad_crop_flip(
    key: jax.Array,
    images: jax.Array,
    indices: jax.Array,
    *,
    pad: int,
    flip: bool,
) -> jax.Array:
    """Shifts each image by up to `pad` pixels and mirrors half of them.

    Pixels that come in from outside are 0, black: as usual, the image is padded
    before it is normalised.

    Args:
        key: PRNG key, see `crop_offsets_and_flips`.
        images: f32[B,H,W,C] in [0, 1].
        indices: int32[B], number of each example.
        pad: >= 0, static.
        flip: whether to mirror left and right, static.

    Returns:
        f32[B,H,W,C].
    """
    if not pad and not flip:
        return images
    offsets, flips = crop_offsets_and_flips(key, indices, pad)
    if pad:
        shape = images.shape[1:]
        border = ((0, 0), (pad, pad), (pad, pad), (0, 0))

        def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
            start = (offset[0], offset[1], 0)
            return jax.lax.dynamic_slice(image, start, shape)

        images = jax.vmap(crop)(jnp.pad(images, border), offsets)
    if flip:
        mirrored = images[:, :, ::-1]
        images = jnp.where(flips[:, None, None, None], mirrored, images)
    return images
