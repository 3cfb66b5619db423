"""Plug-in with the network of the studies on images, for two CPU cores.

--config.plugins=experiments/small_network.py --config.backbone.name=folded
"""

import jax

from mnemonics_jax.backbones import convnet


class Folded(convnet.ConvNet):
    """The ConvNet on a quarter of the positions: 2x2 pixels become channels."""

    widths: tuple[int, ...] = (32, 64, 96)

    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images [B, H, W, C], H and W even, to features and each output."""
        num, height, width, channels = x.shape
        x = x.reshape(num, height // 2, 2, width // 2, 2, channels)
        x = x.swapaxes(2, 3).reshape(num, height // 2, width // 2, -1)
        return super().__call__(x, train=train, mask=mask)


BACKBONES = {'folded': Folded}
