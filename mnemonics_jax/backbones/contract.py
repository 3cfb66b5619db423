"""The contract of networks that come from a user: checked before a run.

`jax.eval_shape` runs them on shapes alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnemonics_jax import types
from mnemonics_jax.backbones import heads
from mnemonics_jax.core import plugins

_BATCH = 2


def check_trunk(
    trunk: nn.Module,
    name: str,
    image_shape: tuple[int, int, int],
    multiple: int = 1,
) -> None:
    """Raises ValueError unless a trunk maps images to features and maps.

    Args:
        trunk: a linen module.
        name: its name in `BACKBONES`.
        image_shape: (H, W, C).
        multiple: what batches of training are multiples of.
    """
    num = _BATCH * multiple
    field = f'backbone.name={name!r}'
    images = _floats(num, *image_shape)
    key = jax.eval_shape(jax.random.key, 0)
    variables = plugins.attempt(
        f'{field}: trunk(x, train=False, mask=None)',
        jax.eval_shape,
        functools.partial(trunk.init, train=False, mask=None),
        key,
        images,
    )
    for train in (False, True):
        found = plugins.attempt(
            f'{field}: trunk(x, train={train}, mask=...)',
            jax.eval_shape,
            lambda variables, x, mask, train=train: trunk.apply(
                variables,
                x,
                train=train,
                mask=mask if train else None,
                mutable=['batch_stats'],
            )[0],
            variables,
            images,
            jax.ShapeDtypeStruct((num,), bool),
        )
        is_pair = isinstance(found, tuple | list) and len(found) == 2
        if not is_pair or not _are_maps(found[1]):
            raise ValueError(
                f'{field}: returned {plugins.described(found)} for '
                f'B={num} images: must be (features [B, D], maps), maps a '
                'tuple of arrays [B, h, w, c], which may be empty'
            )
        if len(getattr(found[0], 'shape', ())) != 2 or len(found[0]) != num:
            raise ValueError(
                f'{field}: features are {plugins.described(found[0])} for '
                f'B={num} images: must be [B, D]'
            )


def check_backbone(
    backbone: types.Backbone,
    num_classes: int,
    image_shape: tuple[int, int, int],
    head: str,
) -> None:
    """Raises ValueError unless a model given as an object fits a run.

    Args:
        backbone: the model.
        num_classes: classes of the data.
        image_shape: (H, W, C) of the data.
        head: `backbone.head`, whose params it must have.
    """
    key = jax.eval_shape(jax.random.key, 0)
    variables = plugins.attempt(
        'backbone: init', jax.eval_shape, backbone.init, key
    )
    if not isinstance(variables, types.Variables) or not (
        {'trunk', 'head'} <= set(variables.params)
    ):
        raise ValueError(
            'backbone: init: must return Variables with params trunk and head'
        )
    outputs, _ = plugins.attempt(
        'backbone: apply',
        jax.eval_shape,
        backbone.apply,
        variables,
        _floats(_BATCH, *image_shape),
    )
    for name, array in (('logits', outputs.logits), ('scores', outputs.scores)):
        if getattr(array, 'shape', None) != (_BATCH, num_classes):
            raise ValueError(
                f'backbone: {name} are {plugins.described(array)} for '
                f'{_BATCH} images: must be [{_BATCH}, {num_classes}], a column '
                'for each class of the data'
            )
    rows = jax.eval_shape(
        lambda key: heads.make_head(head).init(key, num_classes, 1), key
    )
    own = variables.params['head']
    if set(own) != set(rows):
        raise ValueError(
            f'backbone: params of the head are {", ".join(sorted(own))}: must '
            f'be {", ".join(sorted(rows))} with backbone.head={head}'
        )


def _are_maps(maps: Any) -> bool:
    return isinstance(maps, tuple | list) and all(
        len(getattr(x, 'shape', ())) == 4 for x in maps
    )


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
