"""A user's data source in one file: random drawings of six shapes.

Images in folders and `.npz` files need no source of their own: use
data.source=folder or data.source=arrays. Running this file trains on the
shapes. Use it in another run with

    python -m mnemonics_jax.main --config.plugins=examples/own_dataset.py \
        --config.data.source=own_dataset
"""

from typing import Any

import numpy as np

from mnemonics_jax import Source

SIZE, TRAIN, TEST = 12, 100, 30  # Pixels per side, images per class.
SHAPES = {
    'disc': lambda x, y: x**2 + y**2 < 1,
    'ring': lambda x, y: abs(x**2 + y**2 - 0.7) < 0.35,
    'square': lambda x, y: np.maximum(abs(x), abs(y)) < 0.8,
    'cross': lambda x, y: np.minimum(abs(x), abs(y)) < 0.25,
    'diagonal': lambda x, y: abs(x - y) < 0.4,
    'bar': lambda x, y: abs(x) + 0 * y < 0.3,
}


def draw(shape: Any, random: np.random.Generator) -> np.ndarray:
    """Draws a shape at a random position and scale, noisy: uint8[H, W, 1]."""
    axis = np.linspace(-1.6, 1.6, SIZE)
    dx, dy = random.uniform(-0.4, 0.4, 2)
    scale = random.uniform(0.8, 1.3)
    inside = shape((axis - dx) * scale, (axis[:, None] - dy) * scale)
    noisy = 160 * inside + random.normal(40, 30, inside.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)[..., None]


def make(options: Any) -> Source:
    """Makes the source; it needs no option of the section `data`."""
    del options
    random = np.random.default_rng(0)
    counts = {'train': TRAIN, 'test': TEST}
    images = {
        split: np.stack(
            [draw(s, random) for s in SHAPES.values() for _ in range(n)]
        )
        for split, n in counts.items()
    }
    return Source(
        num_classes=len(SHAPES),
        image_shape=(SIZE, SIZE, 1),
        mean=(float(images['train'].mean()) / 255,),
        std=(float(images['train'].std()) / 255,),
        class_names=tuple(SHAPES),
        labels={
            split: np.repeat(np.arange(len(SHAPES), dtype=np.int32), n)
            for split, n in counts.items()
        },
        read=lambda split, positions: images[split][positions],
    )


def main() -> None:
    """Trains on six shapes in three phases."""
    from small_run import run  # Not importable when this file is a plug-in.

    run(
        plugins=__file__,
        data__source='own_dataset',
        protocol__base_classes=2,
        protocol__phases=2,
    )


if __name__ == '__main__':
    main()
