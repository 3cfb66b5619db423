"""A backbone of one's own, in one file: an MLP with BatchNorm.

This file trains it on digits, class by class; with any other run it goes by

    python -m mnemonics_jax.main --config.plugins=examples/own_backbone.py \
        --config.backbone.name=mlp
"""

import jax
from flax import linen as nn


class Mlp(nn.Module):
    """Images to features; a trunk, on which heads are put.

    Attributes:
        widths: of its layers.
    """

    widths: tuple[int, ...] = (128, 64)

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Normalised images [B, H, W, C] to features [B, D], and no maps.

        Statistics are of the examples that the mask bool[B] keeps. Maps are for
        methods that compare them, such as PODNet.
        """
        x = x.reshape(len(x), -1)
        if mask is not None:
            mask = mask[:, None]
        for depth, width in enumerate(self.widths):
            x = nn.relu(x) if depth else x
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
            x = norm(nn.Dense(width)(x), mask=mask)
        return x, ()


BACKBONES = {'mlp': Mlp}


def main() -> None:
    """Digits in four phases, few epochs, with exemplars that are learned."""
    from small_run import run  # A plug-in runs where this is not found.

    run(plugins=__file__, backbone__name='mlp')


if __name__ == '__main__':
    main()
