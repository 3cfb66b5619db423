"""A user's backbone in one file: an MLP with BatchNorm.

Running this file trains it on digits in four phases. Use it in another run with

    python -m mnemonics_jax.main --config.plugins=examples/own_backbone.py \
        --config.backbone.name=mlp
"""

import jax
from flax import linen as nn


class Mlp(nn.Module):
    """The trunk; heads are added to it.

    Attributes:
        widths: widths of the layers.
    """

    widths: tuple[int, ...] = (128, 64)

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps normalised images [B, H, W, C] to features [B, D], no maps.

        BatchNorm statistics are over the examples in the mask bool[B]. Only
        methods such as PODNet need maps.
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
    """Trains on digits in four phases, with learned exemplars."""
    from small_run import run  # Not importable when this file is a plug-in.

    run(plugins=__file__, backbone__name='mlp')


if __name__ == '__main__':
    main()
