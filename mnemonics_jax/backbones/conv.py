"""Convolution with gradients that are fast inside loops on CPU.

The bilevel problem differentiates twice through a `lax.scan` of inner steps.
Inside a loop, XLA's CPU backend has fast code only for convolutions with axes
in the order NHWC, HWIO and with images no smaller than the kernel. Automatic
differentiation permutes the axes, so that gradients are tens of times slower
in the loop than outside. The loop-safe form transposes the data instead, and
replaces convolutions of tiny images by matrix products.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.experimental import xla_metadata

from mnemonics_jax.core import parallel

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


class _Geometry(NamedTuple):
    """Stride and sizes; two of (x, kernel, y) do not determine the third's."""

    stride: int
    image: tuple[int, int]
    kernel: tuple[int, int]

    def padding(self, sign: int) -> list[tuple[int, int]]:
        """Padding; at the end plus or minus the pixels that no kernel covers.

        With an even image and stride 2 the last kernel ends one pixel early.
        """
        return [
            (side // 2, side // 2 + sign * ((size - 1) % self.stride))
            for side, size in zip(self.kernel, self.image, strict=True)
        ]


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    *,
    loop_safe: bool | None = None,
) -> jax.Array:
    """Convolution with zero padding of (kernel side - 1) / 2 on every side.

    As in the authors' networks. 'SAME' differs: with stride 2 it pads images of
    even size unevenly.

    Args:
        x: [B, H, W, Ci].
        kernel: [kh, kw, Ci, Co], kh and kw odd.
        stride: stride of both axes.
        loop_safe: whether to use the form for loops on CPU, which supports
            reverse-mode differentiation of any order but no forward mode. None
            means True if the program is for the CPU.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), Co], in the promoted dtype.

    Raises:
        ValueError: a kernel side is even.
    """
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f'kernel sides {kernel.shape[:2]}: must be odd')
    if loop_safe is None:
        loop_safe = parallel.default_platform() == 'cpu'
    x, kernel = nn.dtypes.promote_dtype(x, kernel)
    _, height, width, _ = x.shape
    rows, columns, *_ = kernel.shape
    geometry = _Geometry(stride, (height, width), (rows, columns))
    if not loop_safe:
        return _convolve(x, kernel, geometry)
    outputs = [-(-size // stride) for size in geometry.image]
    if geometry.kernel == (1, 1) or min(outputs) < max(geometry.kernel):
        return _sum_of_products(x, kernel, stride, outputs)
    return _outputs(x, kernel, geometry)


# What JAX calls v6e. Its compiler crashes without a barrier before strided
# convolutions (benchmarks/v6e_crash.py), which costs other TPUs up to 3 % of a
# step.
CRASHING = 'TPU v6 lite'


class Conv(nn.Module):
    """`conv2d` with a learnable kernel and no bias, as in the paper.

    The initial kernel is Kaiming normal over the fan-out: mean 0, standard
    deviation sqrt(2 / (kh * kw * features)).

    Attributes:
        features: number of output channels.
        kernel_size: side of the kernel, odd.
        stride: stride of both axes.
    """

    features: int
    kernel_size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, Ci] to [B, Ho, Wo, features]."""
        size = self.kernel_size
        shape = (size, size, x.shape[-1], self.features)
        init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
        kernel = self.param('kernel', init, shape, jnp.float32)
        if self.stride > 1 and parallel.default_kind() == CRASHING:
            x = lax.optimization_barrier(x)
        return conv2d(x, kernel.astype(x.dtype), self.stride)


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` with the running variance of PyTorch.

    It averages the unbiased variances of batches; a batch itself is divided by
    its biased one. Training statistics are over the unmasked examples of the
    global batch, on all devices, and at least float32.

    Attributes:
        group: 0, or the number of consecutive examples that are normalised by
            their own statistics (ghost batch normalisation, Hoffer et al.
            2017). The running statistics then take the mean over examples of
            those of their groups.
    """

    group: int = 0

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Maps [B, H, W, C] to the same shape; mask is bool[B, 1, 1, 1]."""
        trains = not (use_running_average or self.is_initializing())
        if trains and self.group:
            return self._by_groups(x, mask)
        before: Any = self.get_variable('batch_stats', 'var')
        y = super().__call__(x, use_running_average, mask=mask)
        if trains:
            examples = len(x) if mask is None else jnp.sum(mask)
            others = jnp.maximum(examples * x.shape[1] * x.shape[2] - 1, 1)
            biased: Any = self.get_variable('batch_stats', 'var')
            # A biased variance lacks 1 / (n - 1) of itself.
            lacks = (biased - self.momentum * before) / others
            self.put_variable('batch_stats', 'var', biased + lacks)
        return y

    def _by_groups(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        found = group_statistics(x, mask, self.group)
        share = found.examples / jnp.maximum(jnp.sum(found.examples), 1)
        for name, each in (('mean', found.mean), ('var', found.unbiased)):
            before: Any = self.get_variable('batch_stats', name)
            now = jnp.sum(share[:, None] * each, axis=0)
            mixed = self.momentum * before + (1 - self.momentum) * now
            self.put_variable('batch_stats', name, mixed)

        def of_examples(each):
            shape = (len(each), self.group, each.shape[-1])
            rows = jnp.broadcast_to(each[:, None], shape)
            return rows.reshape(len(x), 1, 1, -1)

        scale: Any = self.get_variable('params', 'scale')
        bias: Any = self.get_variable('params', 'bias')
        factor = lax.rsqrt(found.biased + self.epsilon) * scale
        y = (x - of_examples(found.mean)) * of_examples(factor) + bias
        return y.astype(self.dtype or y.dtype)


class GroupStatistics(NamedTuple):
    """Statistics of each of G groups of examples.

    Attributes:
        examples: number of examples that count, [G].
        mean: mean over examples and pixels, [G, C].
        biased: their variance, [G, C].
        unbiased: the unbiased variance, [G, C].
    """

    examples: jax.Array
    mean: jax.Array
    biased: jax.Array
    unbiased: jax.Array


def group_statistics(
    x: jax.Array, mask: jax.Array | None, size: int
) -> GroupStatistics:
    """Statistics of groups of consecutive examples, at least float32.

    Each example is summed by itself first: groups that lie on several devices
    exchange these sums alone.

    Args:
        x: [B, H, W, C].
        mask: bool[B, 1, 1, 1], examples that count; None for all. A group of
            none has statistics 0.
        size: examples of a group; a divisor of B.

    Raises:
        ValueError: B is no multiple of size.
    """
    num, height, width, _ = x.shape
    if num % size:
        raise ValueError(
            f'a batch of {num}: must be a multiple of {size}, the examples of '
            'a group that BatchNorm normalises'
        )
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if mask is None:
        mask = jnp.ones((num, 1, 1, 1), bool)
    x = jnp.where(mask, x, 0)

    def summed(each):
        return each.reshape(num // size, size, -1).sum(1)

    examples = summed(mask.astype(x.dtype))
    pixels = jnp.maximum(examples, 1) * (height * width)
    mean = summed(x.sum((1, 2))) / pixels
    square = summed((x * x).sum((1, 2))) / pixels
    # Rounding may make the difference negative.
    biased = jnp.maximum(0, square - mean * mean)
    unbiased = biased * (pixels / jnp.maximum(pixels - 1, 1))
    return GroupStatistics(examples[:, 0], mean, biased, unbiased)


class ConvNorm(nn.Module):
    """A convolution and BatchNorm, with initial scale 1 and bias 0.

    Convolutions compute in the dtype of x; parameters and statistics of
    BatchNorm, and operations on them, are at least float32.

    Attributes:
        features: see `Conv`.
        kernel_size: see `Conv`.
        stride: see `Conv`.
        norm_group: `group` of `BatchNorm`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    norm_group: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        """Maps [B, H, W, Ci] to [B, Ho, Wo, features]; mask is bool[B]."""
        x = Conv(self.features, self.kernel_size, self.stride)(x)
        if mask is not None:
            mask = mask[:, None, None, None]
        norm = BatchNorm(
            momentum=0.9, epsilon=1e-5, dtype=x.dtype, group=self.norm_group
        )
        return norm(x, use_running_average=not train, mask=mask)


def average(x: jax.Array) -> jax.Array:
    """Averages [B, H, W, C] over all pixels: [B, C], at least float32."""
    return jnp.mean(
        x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)
    )


def _sum_of_products(x, kernel, stride, outputs):
    """Convolution as a matrix product for each position in the kernel.

    Slower for large images, faster for tiny ones.
    """
    height, width = kernel.shape[:2]
    pads = [(0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)]
    x = jnp.pad(x, pads)
    rows, columns = [(size - 1) * stride + 1 for size in outputs]
    return sum(
        x[:, i : i + rows : stride, j : j + columns : stride] @ kernel[i, j]
        for i in range(height)
        for j in range(width)
    )


# A convolution y(x, kernel), its gradient with respect to x and its gradient
# with respect to the kernel are the three gradients of one function that is
# linear in x, kernel and y. So the gradients of each of the three functions
# below are the other two, and derivatives of every order are convolutions in
# the fast order of axes.


def _convolve(x, kernel, geometry):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(geometry.stride,) * 2,
        padding=[(side // 2, side // 2) for side in geometry.kernel],
        dimension_numbers=_DIMENSIONS,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _outputs(x, kernel, geometry):
    """The outputs y."""
    return _convolve(x, kernel, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _image_grads(y, kernel, geometry):
    """Gradient with respect to x, for the cotangent y of the outputs."""
    return lax.conv_general_dilated(
        y,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        window_strides=(1, 1),
        padding=geometry.padding(1),
        lhs_dilation=(geometry.stride,) * 2,
        dimension_numbers=_DIMENSIONS,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_grads(x, y, geometry):
    """Gradient with respect to the kernel, for the cotangent y of the outputs.

    The channels of x act as examples, the examples as channels, and y as a
    large dilated kernel.
    """
    return lax.conv_general_dilated(
        _computed_once(x).transpose(3, 1, 2, 0),
        y.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding=geometry.padding(-1),
        rhs_dilation=(geometry.stride,) * 2,
        dimension_numbers=_DIMENSIONS,
    ).transpose(1, 2, 0, 3)


_identity = jax.jit(lambda x: x)


def _computed_once(x):
    """Returns x through a call that XLA does not inline.

    XLA would fuse the following transposition with the computation of x and
    repeat that: in a residual network the sum of all earlier blocks. It removes
    `lax.optimization_barrier` before fusion.
    """
    with xla_metadata.set_xla_metadata(inlineable='false'):
        return _identity(x)


def _keep_inputs(function):
    """The forward rule of all three; the residuals are the two inputs."""
    return lambda a, b, geometry: (function(a, b, geometry), (a, b))


_outputs.defvjp(
    _keep_inputs(_outputs),
    lambda geometry, inputs, y: (
        _image_grads(y, inputs[1], geometry),
        _kernel_grads(inputs[0], y, geometry),
    ),
)
_image_grads.defvjp(
    _keep_inputs(_image_grads),
    lambda geometry, inputs, x: (
        _outputs(x, inputs[1], geometry),
        _kernel_grads(x, inputs[0], geometry),
    ),
)
_kernel_grads.defvjp(
    _keep_inputs(_kernel_grads),
    lambda geometry, inputs, kernel: (
        _image_grads(inputs[1], kernel, geometry),
        _outputs(inputs[0], kernel, geometry),
    ),
)
