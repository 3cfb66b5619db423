"""Networks and inputs shared by our code and the PyTorch peers."""

import importlib.util
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax import backbones
from mnemonics_jax.types import Backbone, Variables


def why_no_peers() -> str | None:
    """Why the peers cannot run; None if they can."""
    if importlib.util.find_spec('torch') is None:
        return 'no peers: torch is missing, the extra `bench`'
    import torch

    if jax.default_backend() != 'cpu' and not torch.cuda.is_available():
        return 'no peers: torch sees no GPU'
    return None


# Without the peers, only ours is timed.
HAS_TORCH = why_no_peers() is None
if HAS_TORCH:
    import torch_network

PATCHES = 4  # On a side of an image.
MEAN, STD = (0.5, 0.48, 0.44), (0.27, 0.26, 0.28)

# Bound of relative errors in float32: sums of up to 131,072 terms in another
# order, through 31 layers.
BOUND = 1e-3
# Bound for gradients through 32 layers of BatchNorm at random weights, which
# are small differences of large numbers: those of a float32 training step are
# 0.2 % from the float64 ones here and 1 % in PyTorch.
DEEP_BOUND = 0.03


class Sizes(NamedTuple):
    """Sizes of network and batches, and the number of devices of ours."""

    backbone: str = 'resnet32'
    image_size: int = 32
    batch: int = 128
    num_classes: int = 100
    precision: str = 'float32'
    num_devices: int = 1


class Problem(NamedTuple):
    """A network with its weights.

    Attributes:
        backbone: the model functions.
        variables: NumPy arrays, none at its default value.
        reference: variables of another seed, as the previous phase's model.
        sizes: sizes of network and batches.
        device: PyTorch device of the peers.
    """

    backbone: Backbone
    variables: Variables
    reference: Variables
    sizes: Sizes
    device: str


def make_problem(sizes: Sizes, *, device: str = 'cpu') -> Problem:
    """A problem with random weights."""
    size = sizes.image_size
    backbone = backbones.make_backbone(
        sizes.backbone,
        num_classes=sizes.num_classes,
        image_shape=(size, size, 3),
        mean=MEAN,
        std=STD,
        precision=sizes.precision,
    )
    drawn = [
        _vary(jax.device_get(backbone.init(jax.random.key(seed))), seed)
        for seed in (0, 1)
    ]
    return Problem(backbone, *drawn, sizes, device)


def _vary(variables: Variables, seed: int) -> Variables:
    """Scales by factors in [0.8, 1.2], and shifts biases and means from 0."""
    random = np.random.default_rng(seed)

    def vary(path, x):
        shift = random.uniform(-0.2, 0.2, x.shape)
        moved = jax.tree_util.keystr(path[-1:]) in ("['bias']", "['mean']")
        return np.float32(x * (1 + shift) + (shift if moved else 0))

    return jax.tree_util.tree_map_with_path(vary, variables)


def draw(
    problem: Problem, *shape: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images f32[*shape, H, W, 3] in [0, 1] and labels int32[*shape]."""
    random = np.random.default_rng(seed)
    size = problem.sizes.image_size
    # Patches, since images of pure noise all look the same to a network.
    side = max(size // PATCHES, 1)
    coarse = random.random((*shape, -(-size // side), -(-size // side), 3))
    coarse = coarse.repeat(side, -3).repeat(side, -2)[..., :size, :size, :]
    fine = random.random((*shape, size, size, 3))
    images = np.float32(0.8 * coarse + 0.2 * fine)
    labels = random.integers(0, problem.sizes.num_classes, shape)
    return images, labels.astype(np.int32)


def make_network(problem: Problem, variables: Variables | None = None) -> Any:
    """The peers' network with `variables`, by default the problem's."""
    return torch_network.make_network(
        problem.variables if variables is None else variables,
        mean=MEAN,
        std=STD,
        device=problem.device,
    )
