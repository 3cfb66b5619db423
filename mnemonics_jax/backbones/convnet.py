"""A small network for small images, such as 8x8 digits."""

import functools

import jax
from flax import linen as nn

from mnemonics_jax.backbones import conv


class ConvNet(nn.Module):
    """3x3 convolutions with BatchNorm, then average pooling.

    Each convolution but the first halves the image size. There is no final
    ReLU, as in the residual networks.

    Attributes:
        widths: output channels of the convolutions.
        final_relu: whether features are averages after a ReLU.
        norm_group: `group` of `conv.BatchNorm`.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    final_relu: bool = False
    norm_group: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images [B, H, W, C] to features [B, widths[-1]] and each output."""
        maps = []
        for depth, width in enumerate(self.widths):
            x = nn.relu(x) if depth else x
            stride = 2 if depth else 1
            block = conv.ConvNorm(width, 3, stride, self.norm_group)
            x = block(x, train=train, mask=mask)
            maps.append(x)
        return conv.average(nn.relu(x) if self.final_relu else x), tuple(maps)


BACKBONES = {
    'convnet': ConvNet,
    # For smoke tests: compiles in a third of the time.
    'convnet_tiny': functools.partial(ConvNet, widths=(8, 16)),
}
