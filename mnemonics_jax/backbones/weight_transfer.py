"""Weight transfer: convolutions frozen after phase 0, with learned scales.

The effective kernel is W * S with S of shape [1, 1, C_in, C_out], one scale per
pair of channels, initially 1. Phase 0 trains W with S = 1. Later phases train
S, BatchNorm and the head, and keep W frozen.

There are no shifts: a shift replaces a convolution's bias, and the convolutions
of these networks have none. BatchNorm's bias serves instead.

The result is an ordinary `Backbone` whose params have a third entry, 'scales'.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from mnemonics_jax.types import Backbone, Params, Variables


def init_scales(trunk: Params) -> Params:
    """Scales of ones, f32[1, 1, Ci, Co] for each kernel f32[kh, kw, Ci, Co]."""
    kernels = {
        path: jnp.ones((1, 1, *kernel.shape[2:]), kernel.dtype)
        for path, kernel in traverse_util.flatten_dict(trunk).items()
        if _is_kernel(path, kernel)
    }
    return traverse_util.unflatten_dict(kernels)


def merge(trunk: Params, scales: Params) -> Params:
    """The trunk with every kernel times its scales."""
    scales = traverse_util.flatten_dict(scales)
    merged = {
        path: value * scales[path] if path in scales else value
        for path, value in traverse_util.flatten_dict(trunk).items()
    }
    return traverse_util.unflatten_dict(merged)


def wrap(backbone: Backbone) -> Backbone:
    """Adds scales to a model.

    Args:
        backbone: a model with params {'trunk', 'head'}.

    Returns:
        A model with params {'trunk', 'head', 'scales'}, equal to `backbone`
        while the scales are 1.
    """

    def init(key: jax.Array) -> Variables:
        variables = backbone.init(key)
        scales = init_scales(variables.params['trunk'])
        return variables.replace(params={**variables.params, 'scales': scales})

    def embed(variables: Variables, images: jax.Array, **kwargs: Any) -> Any:
        params = variables.params
        trunk = merge(params['trunk'], params['scales'])
        plain = {'trunk': trunk, 'head': params['head']}
        return backbone.embed(variables.replace(params=plain), images, **kwargs)

    return backbone._replace(init=init, embed=embed)


def mask_updates(updates: Params, phase_index: jax.Array) -> Params:
    """Zeroes the updates of kernels or scales, depending on the phase.

    Args:
        updates: updates of params; without 'scales' they are not changed.
        phase_index: int32[], 0 trains kernels, later phases train scales.
    """
    if 'scales' not in updates:
        return updates
    is_base = phase_index == 0
    trunk = {
        path: jnp.where(is_base, value, 0) if _is_kernel(path, value) else value
        for path, value in traverse_util.flatten_dict(updates['trunk']).items()
    }
    return {
        **updates,
        'trunk': traverse_util.unflatten_dict(trunk),
        'scales': jax.tree.map(
            lambda value: jnp.where(is_base, 0, value), updates['scales']
        ),
    }


def _is_kernel(path: tuple[str, ...], value: jax.Array) -> bool:
    return path[-1] == 'kernel' and value.ndim == 4
