"""Residual networks of the paper, for CIFAR (32x32) and ImageNet (224x224).

As in the authors' code, the last block has no final ReLU, so features may be
negative and their cosines cover the whole range [-1, 1]; `final_relu` adds it.
"""

import functools
from typing import Any

import jax
from flax import linen as nn

from mnemonics_jax.backbones import conv


@jax.custom_vjp
def _in_two_kernels(x: jax.Array) -> jax.Array:
    """Returns x, which XLA computes before what reads it.

    Without statistics of the batch in between, XLA for TPU would compute a
    convolution inside the one that reads it, parts of it several times. By its
    own estimate two kernels take three quarters of that, unless a chip has only
    a few images. Where x is differentiated, only its gradient is kept apart:
    then the kernel of x also gives the signs that the ReLU's gradient needs.
    """
    return jax.lax.optimization_barrier(x)


_in_two_kernels.defvjp(
    lambda x: (x, None), lambda _, grads: (jax.lax.optimization_barrier(grads),)
)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; no final ReLU."""

    features: int
    stride: int
    norm_group: int

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> jax.Array:
        flags: dict[str, Any] = {'train': train, 'mask': mask}
        norm = functools.partial(conv.ConvNorm, norm_group=self.norm_group)
        y = norm(self.features, 3, self.stride)(x, **flags)
        y = nn.relu(y) if train else _in_two_kernels(nn.relu(y))
        y = norm(self.features, 3)(y, **flags)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = norm(self.features, 1, self.stride)(x, **flags)
        return x + y


class ResNet(nn.Module):
    """Stem, stages of basic blocks, and average pooling.

    Each stage after the first doubles the width and halves the image size.

    Attributes:
        num_blocks: number of blocks in each stage.
        width: channels of the first stage.
        imagenet_stem: whether to start with a 7x7 convolution of stride 2 and a
            max pool of stride 2, instead of a 3x3 convolution.
        final_relu: whether features are averages after a ReLU.
        norm_group: `group` of `conv.BatchNorm`.
    """

    num_blocks: tuple[int, ...]
    width: int
    imagenet_stem: bool = False
    final_relu: bool = False
    norm_group: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images [B, H, W, C] to features [B, D] and maps.

        The maps are the stages' outputs and, without `imagenet_stem`, the input
        of the last block if its stage has several, as in PODNet's code.
        """
        flags: dict[str, Any] = {'train': train, 'mask': mask}
        norm = functools.partial(conv.ConvNorm, norm_group=self.norm_group)
        if self.imagenet_stem:
            x = norm(self.width, 7, 2)(x, **flags)
            # Max pooling commutes with the ReLU that follows.
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        else:
            x = norm(self.width, 3)(x, **flags)
        maps = []
        last = (len(self.num_blocks) - 1, self.num_blocks[-1] - 1)
        for stage, count in enumerate(self.num_blocks):
            for block in range(count):
                if (stage, block) == last and block and not self.imagenet_stem:
                    maps.append(x)
                stride = 2 if stage > 0 and block == 0 else 1
                width = self.width * 2**stage
                make = _BasicBlock(width, stride, self.norm_group)
                x = make(nn.relu(x), **flags)
            maps.append(x)
        return conv.average(nn.relu(x) if self.final_relu else x), tuple(maps)


BACKBONES = {
    'resnet8': functools.partial(ResNet, (1, 1, 1), 16),
    'resnet20': functools.partial(ResNet, (3, 3, 3), 16),
    'resnet32': functools.partial(ResNet, (5, 5, 5), 16),
    'resnet18': functools.partial(ResNet, (2, 2, 2, 2), 64, True),
}
