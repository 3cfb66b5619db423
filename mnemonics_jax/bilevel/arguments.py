"""Checks of what a user gives an exemplar learner, one line for each mistake.

Shapes and dtypes are checked at each call with new ones, also under `jax.jit`;
ranges only outside of it, where there are values to look at.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

# Resizing in floats may leave the range by rounding.
_ROUNDING = 1e-3


class Batch(NamedTuple):
    """Images with labels, and what they are called in messages.

    Attributes:
        names: name of the images and of the labels.
        images: f32[b, ...] in [0, 1].
        labels: int[b].
    """

    names: tuple[str, str]
    images: Any
    labels: Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises ValueError unless `value` is an integer >= `least`."""
    is_integer = isinstance(value, int | np.integer) and value is not True
    if not is_integer or value < least:
        raise ValueError(f'{name}={value!r}: must be an integer >= {least}')


def check_transform(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an optax transform."""
    if not callable(getattr(value, 'update', None)):
        rate = value if isinstance(value, float) else 0.1
        raise ValueError(
            f'{name}={value!r}: must be an optax transform, such as '
            f'optax.sgd({rate})'
        )


def check_apply(apply: Any) -> None:
    """Raises ValueError unless `apply` can be a function of params."""
    if _is_nnx(apply):
        raise ValueError(
            'apply: an nnx module: must be a function (params, images) -> '
            'logits, which split_nnx makes of it'
        )
    if isinstance(apply, linen.Module):
        raise ValueError(
            'apply: a linen module: must be a function (params, images) -> '
            'logits, such as its method apply'
        )
    if inspect.isclass(apply):
        raise ValueError(
            f'apply: the class {apply.__name__}: must be a function (params, '
            'images) -> logits, such as split_nnx makes of an nnx module, or '
            'the method apply of a linen module'
        )
    if not callable(apply):
        raise ValueError(
            f'apply: {type(apply).__name__}: must be a function (params, '
            'images) -> logits'
        )


def _is_nnx(value: Any) -> bool:
    """Whether it is an nnx module, without importing nnx: that takes time."""
    nnx = sys.modules.get('flax.nnx')
    return nnx is not None and isinstance(value, nnx.Module)


def check_module(model: Any) -> None:
    """Raises ValueError unless `model` is an nnx module in evaluation mode.

    In training mode its state would change, or be random, at each call; a
    function's cannot.
    """
    if not _is_nnx(model) or not callable(model):
        found = type(model).__name__
        if inspect.isclass(model):
            found = f'the class {model.__name__}'
        raise ValueError(
            f'model: {found}: must be an nnx module that can be called, such '
            'as nnx.Linear(4, 3, rngs=nnx.Rngs(0))'
        )
    from flax import nnx

    for path, part in nnx.iter_graph(model):
        for field, wrong in (
            ('use_running_average', False),
            ('deterministic', False),
        ):
            if getattr(part, field, None) is wrong:
                name = '.'.join(map(str, path))
                raise ValueError(
                    f'model: {type(part).__name__} {name!r} is in training '
                    'mode: must be in evaluation mode; call model.eval() first'
                )


def check_images(name: str, images: Any) -> None:
    """Raises ValueError unless the images are floats."""
    if not hasattr(images, 'dtype'):
        raise ValueError(
            f'{name}: {type(images).__name__}: must be an array of floats in '
            '[0, 1]'
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f'{name}: dtype {images.dtype}: must be floats in [0, 1]; divide '
            'by 255'
        )
    if not images.ndim or not len(images):
        raise ValueError(f'{name}: none: must be at least one')


def check_image_range(name: str, images: Any) -> None:
    """Raises ValueError unless all values are in [0, 1]; tracers may be."""
    values = _values(images)
    if values is None:
        return
    low, high = float(values.min()), float(values.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return
    what = (
        'divide by 255' if low >= 0 and high > 2 else 'normalise in the model'
    )
    raise ValueError(
        f'{name}: values in [{low:.3g}, {high:.3g}]: must be in [0, 1]; {what}'
    )


def check_labels(batch: Batch, *, own_loss: bool) -> None:
    """Raises ValueError unless there is an integer for each image.

    Args:
        batch: the images and labels.
        own_loss: whether a user's loss reads the labels, which may then be
            anything with a row for each image.
    """
    (of, name), labels, count = batch.names, batch.labels, len(batch.images)
    if not hasattr(labels, 'dtype'):
        raise ValueError(
            f'{name}: {type(labels).__name__}: must be an array of integers'
        )
    found = labels.shape[0] if labels.ndim else 1
    if not labels.ndim or found != count:
        raise ValueError(f'{name}: {found} for {count} {of}: must be as many')
    if own_loss:
        return
    if labels.ndim > 1:
        raise ValueError(
            f'{name}: shape {tuple(labels.shape)}: must be ({count},)'
            f'{_as_one_axis(name, labels.shape)}'
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f'{name}: dtype {labels.dtype}: must be integers')


def _as_one_axis(name: str, shape: tuple[int, ...]) -> str:
    """How labels of another shape become those that they mean, if known."""
    if len(shape) != 2:
        return ''
    if shape[1] == 1:
        return f'; take {name}[:, 0]'
    return '; of one-hot labels take argmax(axis=1)'


def check_label_range(name: str, labels: Any, num_classes: int) -> None:
    """Raises ValueError unless labels are in 0..K-1; tracers may be."""
    values = _values(labels)
    if values is None:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f'{name}: values in {low}..{high}: must be in '
            f'0..{num_classes - 1}, the classes of the logits'
        )


def check_logits(logits: Any, count: int) -> None:
    """Raises ValueError unless logits are [b, K]."""
    if not hasattr(logits, 'shape'):
        raise ValueError(
            f'apply: returned {type(logits).__name__}: must be logits alone'
        )
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(
            f'apply: returned shape {tuple(logits.shape)}: must be logits '
            f'[{count}, K]'
        )


def check_losses(losses: Any, count: int) -> None:
    """Raises ValueError unless there is a loss for each example."""
    shape = tuple(getattr(losses, 'shape', ()))
    if shape != (count,):
        raise ValueError(
            f'loss_fn: returned shape {shape}: must be ({count},), one loss '
            'for each example, without their mean'
        )


class Checker:
    """Checks shapes when they are new, and at each call values on the host.

    Looking at these takes a fraction of a millisecond; those on an accelerator
    would have to be waited for, and are looked at with new shapes alone.
    """

    def __init__(
        self, apply: Callable[[Any, jax.Array], jax.Array], *, own_loss: bool
    ) -> None:
        """Checks nothing yet.

        Args:
            apply: see `make_exemplar_learner`.
            own_loss: see `check_labels`.
        """
        self._apply, self._own_loss = apply, own_loss
        # Number of classes by the shapes and dtypes that were checked.
        self._known: dict[Any, int | None] = {}

    def __call__(self, params: Any, *batches: Batch) -> None:
        """Raises ValueError for the first mistake."""
        try:
            key = tuple(
                (x.shape, x.dtype) for batch in batches for x in batch[1:]
            )
        except AttributeError:  # Of no array, which is told below.
            key = None
        if key is None or key not in self._known:
            num_classes = self._check(params, batches)
            # What is traced has not been looked at.
            arrays = [x for batch in batches for x in batch[1:]]
            if not any(isinstance(x, jax.core.Tracer) for x in arrays):
                self._known[key] = num_classes
        else:
            for batch in batches:
                self._look(batch, self._known[key])

    def _look(self, batch: Batch, num_classes: int | None) -> None:
        """Checks ranges of a batch whose shapes are known."""
        if _is_on_host(batch.images):
            check_image_range(batch.names[0], batch.images)
        if num_classes is not None and _is_on_host(batch.labels):
            check_label_range(batch.names[1], batch.labels, num_classes)

    def _check(self, params: Any, batches: tuple[Batch, ...]) -> int | None:
        """Checks all; returns the number of classes if the loss has any."""
        for batch in batches:
            check_images(batch.names[0], batch.images)
            check_labels(batch, own_loss=self._own_loss)
        first = batches[0]
        for other in batches[1:]:
            if other.images.shape[1:] != first.images.shape[1:]:
                raise ValueError(
                    f'{other.names[0]}: shape {tuple(other.images.shape)}: '
                    f'must be as {first.names[0]}, '
                    f'{tuple(first.images.shape)}, but for the first axis'
                )
        for batch in batches:
            check_image_range(batch.names[0], batch.images)
        if self._own_loss:
            return None
        logits = jax.eval_shape(self._apply, params, first.images)
        check_logits(logits, len(first.images))
        for batch in batches:
            check_label_range(batch.names[1], batch.labels, logits.shape[1])
        return logits.shape[1]


def _is_on_host(array: Any) -> bool:
    if isinstance(array, jax.core.Tracer):
        return False
    if not isinstance(array, jax.Array):
        return True
    return all(device.platform == 'cpu' for device in array.devices())


def _values(array: Any) -> np.ndarray | None:
    """The values on the host; None if this process cannot see them."""
    if isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    return np.asarray(array)
