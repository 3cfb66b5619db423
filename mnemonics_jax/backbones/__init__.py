"""Backbones, found by name in the `BACKBONES` dicts of this folder's files.

`BACKBONES` maps names to constructors of linen modules, called as
`trunk(x, train=..., mask=...)`: normalised images [B, H, W, C] to features
[B, D] and a tuple of maps [B, h, w, c], the output of each stage before its
final ReLU. Only the initial parameters are random. A trunk computes in the
dtype of its images, with parameters and statistics in float32 or, if those are
float64, in float64.
"""

import functools
import importlib
import pkgutil
import types as python_types
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mnemonics_jax import types
from mnemonics_jax.backbones import (
    contract,
    heads,
    logit_correction,
    weight_transfer,
)
from mnemonics_jax.core import plugins
from mnemonics_jax.core import precision as precisions

# What a model computes in. 'bf16' is for trunks only, all else is float32 then.
# With 'float64' parameters and statistics are float64, and what follows from
# them, too: images, pixels, losses, features and means. In docstrings f32, the
# usual dtype, stands for both.
PRECISIONS = ('float32', 'bf16', 'float64')


def backbone_names() -> list[str]:
    """Returns the names that `make_backbone` knows, sorted."""
    return sorted(_trunks())


def make_backbone(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    head: str = 'cosine',
    final_relu: bool = False,
    norm_group: int = 0,
    precision: str = 'float32',
) -> types.Backbone:
    """Builds a trunk and a head, as pure functions.

    Args:
        name: one of `backbone_names()`.
        num_classes: rows of the head, for the classes of all phases.
        image_shape: (H, W, C).
        mean: mean per channel, for pixels in [0, 1].
        std: standard deviation per channel, for pixels in [0, 1].
        head: one of `heads.HEADS`; 'cosine' is the paper's.
        final_relu: whether features are averages after a ReLU; the paper's may
            be negative. For trunks with an attribute of this name.
        norm_group: `group` of `conv.BatchNorm`, a divisor of the size of
            training batches, or 0. For trunks with an attribute of this name.
        precision: one of `PRECISIONS`. Parameters, statistics, gradients,
            features, maps and the head are float32 with 'bf16', too; 'float64'
            begins with the parameters of 'float32'.

    Returns:
        A model whose first operation is `(images - mean) / std`.

    Raises:
        ValueError: a network of a user's own breaks its contract, or see
            `make_trunk` and `from_trunk`.
    """
    trunk = make_trunk(name, final_relu=final_relu, norm_group=norm_group)
    if isinstance(trunk, types.Backbone):
        contract.check_backbone(trunk, num_classes, image_shape, head)
        if precision != 'float32':
            raise ValueError(
                f'precision={precision!r}: must be float32 with a Backbone '
                'object, which has a precision of its own'
            )
        return trunk
    if any(name in m.BACKBONES for m in _plugins()):
        contract.check_trunk(trunk, name, image_shape, norm_group or 1)
    return from_trunk(
        trunk,
        num_classes=num_classes,
        image_shape=image_shape,
        mean=mean,
        std=std,
        head=head,
        precision=precision,
    )


def make_trunk(
    name: str, *, final_relu: bool = False, norm_group: int = 0
) -> nn.Module | types.Backbone:
    """Makes a trunk, without knowing the images.

    An object given in Python may be a whole model.

    Args:
        name: one of `backbone_names()`.
        final_relu: see `make_backbone`.
        norm_group: see `make_backbone`.

    Raises:
        ValueError: there is no such backbone, it is no linen module, or it
            lacks the attribute of an option that is not off.
    """
    plugins.check_object('backbones', name)
    trunks = _trunks()
    if name not in trunks:
        raise ValueError(
            f'backbone.name={name!r}: must be one of '
            f'{", ".join(sorted(trunks))}'
        )
    trunk = plugins.attempt(f'backbone.name={name!r}', trunks[name])
    if not isinstance(trunk, nn.Module | types.Backbone):
        raise ValueError(
            f'backbone.name={name!r}: made {type(trunk).__name__}: must be a '
            'linen module'
        )
    options: tuple[tuple[str, Any, str], ...] = (
        ('final_relu', final_relu, 'false'),
        ('norm_group', norm_group, '0'),
    )
    for option, value, off in options:
        if not value:
            continue
        if isinstance(trunk, types.Backbone) or not hasattr(trunk, option):
            raise ValueError(
                f'backbone.{option}={value}: must be {off} with '
                f'backbone.name={name}, whose module has no such attribute'
            )
        trunk = trunk.clone(**{option: value})
    return trunk


def from_trunk(
    trunk: nn.Module,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    head: str = 'cosine',
    precision: str = 'float32',
) -> types.Backbone:
    """Builds a model from a user's trunk.

    Args:
        trunk: a linen module with the interface of those in `BACKBONES`.
        num_classes: see `make_backbone`.
        image_shape: (H, W, C).
        mean: see `make_backbone`.
        std: see `make_backbone`.
        head: see `make_backbone`.
        precision: see `make_backbone`.

    Raises:
        ValueError: `mean`, `std`, `head` or `precision` is invalid, or JAX
            has no float64, see `core.precision`.
    """
    channels = image_shape[-1]
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise ValueError(
            f'mean={mean}, std={std}: must have {channels} values, one per '
            'channel, std > 0'
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f'precision={precision!r}: must be one of {", ".join(PRECISIONS)}'
        )
    precisions.check(precision)
    classifier = heads.make_head(head)

    init = functools.partial(_init, trunk, classifier, num_classes, image_shape)
    if precision == 'float64':
        init = functools.partial(init, dtype=jnp.float64)
    embed = functools.partial(_embed, trunk, tuple(mean), tuple(std))
    if precision == 'bf16':
        embed = functools.partial(embed, dtype=jnp.bfloat16)
    return types.Backbone(init, embed, classifier.apply)


def mask_frozen(updates: types.Params, phase_index: jax.Array) -> types.Params:
    """Zeroes the updates of params that no SGD step of a phase changes.

    These are the correction of logits, and kernels or scales with weight
    transfer.

    Args:
        updates: updates of params, with `head`.
        phase_index: int32[].
    """
    updates = weight_transfer.mask_updates(updates, phase_index)
    head = logit_correction.mask_updates(updates['head'])
    return {**updates, 'head': head}


def _plugins() -> Collection[python_types.ModuleType]:
    return plugins.registered('backbones').values()


def _trunks() -> dict[str, Callable[[], nn.Module]]:
    """Collects the `BACKBONES` of plug-ins and this folder's files."""
    trunks = {}
    for module in _plugins():
        trunks.update(module.BACKBONES)
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f'{__name__}.{info.name}')
        trunks.update(getattr(module, 'BACKBONES', {}))
    return trunks


def _init(
    trunk: nn.Module,
    classifier: heads.Head,
    num_classes: int,
    image_shape: tuple[int, int, int],
    key: jax.Array,
    *,
    dtype: DTypeLike = jnp.float32,
) -> types.Variables:
    """The `init` of a `types.Backbone`."""
    trunk_key, head_key = jax.random.split(key)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    apply = functools.partial(trunk.apply, train=False, mask=None)
    variables = trunk.lazy_init(trunk_key, images, train=False, mask=None)
    features, _ = jax.eval_shape(apply, variables, images)
    found = types.Variables(
        params={
            'trunk': variables.get('params', {}),
            'head': classifier.init(head_key, num_classes, features.shape[-1]),
        },
        batch_stats=variables.get('batch_stats', {}),
    )
    # Initializers draw in float64 by themselves if JAX has it.
    return jax.tree.map(
        lambda x: (
            x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
        ),
        found,
    )


def _embed(
    trunk: nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    variables: types.Variables,
    images: jax.Array,
    *,
    train: bool = False,
    mask: jax.Array | None = None,
    dtype: jnp.dtype | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...], types.Params]:
    """The `embed` of a `types.Backbone`."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f'images of dtype {images.dtype}: must be floats in [0, 1]; divide '
            'by 255'
        )
    images = images.astype(jnp.promote_types(images.dtype, variables.dtype))
    # Constants in the dtype of the images do not promote it.
    images = images - jnp.asarray(mean, images.dtype)
    images = images / jnp.asarray(std, images.dtype)
    image_dtype = images.dtype
    inputs = {
        'params': variables.params['trunk'],
        'batch_stats': variables.batch_stats,
    }
    (features, maps), updated = trunk.apply(
        inputs,
        images.astype(dtype or image_dtype),
        train=train,
        mask=mask if train else None,
        mutable=['batch_stats'] if train else [],
    )
    if not train:
        updated = inputs
    # Losses compute in the precision of the images.
    if dtype is not None:
        features = features.astype(image_dtype)
        maps = tuple(each.astype(image_dtype) for each in maps)
    return features, maps, updated.get('batch_stats', {})
