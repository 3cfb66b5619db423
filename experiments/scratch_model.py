"""Small networks trained from scratch on a set of exemplars.

They use instance norm, since ten images are too few for BatchNorm statistics.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mnemonics_jax import losses
from mnemonics_jax.backbones import conv
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.types import Backbone, Params, Variables

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
_EPSILON = 1e-5
# Images per batch without gradients.
_ROWS = 500


class Training(NamedTuple):
    """Settings of training; static, the same for each row of a table.

    Attributes:
        steps: number of steps of SGD with momentum.
        rate: initial learning rate, with cosine decay.
        batch: maximum batch size.
        augmentation: augmentation of the images.
    """

    steps: int
    rate: float
    batch: int
    augmentation: augment.Augmentation


class InstanceNorm(nn.Module):
    """Instance norm with a learned scale and bias per channel."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to the same shape."""
        scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
        bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        variance = jnp.var(x, axis=(1, 2), keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * scale + bias


class Perceptron(nn.Module):
    """One hidden layer on average-pooled pixels.

    Attributes:
        width: number of hidden units.
        square: side of the pooling window; 1 for no pooling.
    """

    width: int
    square: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images [B, H, W, C] to features [B, width] and no maps."""
        del train, mask
        x = nn.avg_pool(x, (self.square,) * 2, (self.square,) * 2)
        x = nn.Dense(self.width)(x.reshape(len(x), -1))
        return nn.relu(x), ()


class Convolutions(nn.Module):
    """3x3 convolutions on 2x2 patches; each but the last is pooled.

    Features are the flattened last map, to keep positions.

    Attributes:
        widths: output channels of the convolutions.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Images [B, H, W, C], H and W even, to features and each output."""
        del train, mask  # No statistics over the batch.
        num, height, width, channels = x.shape
        x = x.reshape(num, height // 2, 2, width // 2, 2, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(num, height // 2, width // 2, 4 * channels)
        maps = []
        for depth, features in enumerate(self.widths):
            x = nn.avg_pool(x, (2, 2), (2, 2)) if depth else x
            x = nn.relu(InstanceNorm()(conv.Conv(features, 3)(x)))
            maps.append(x)
        return x.reshape(num, -1), tuple(maps)


def logits(backbone: Backbone, params: Params, images: jax.Array) -> jax.Array:
    """Logits f32[b, K] of images f32[b, H, W, C] in [0, 1]."""
    features, _, _ = backbone.embed(Variables(params, {}), images)
    return backbone.classify(params['head'], features)[0]


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross entropy f32[b] in nats.

    Args:
        scores: logits f32[b, K].
        labels: int32[b], or soft labels f32[b, K] that sum to 1.
    """
    if labels.ndim == 2:
        return optax.softmax_cross_entropy(scores, labels)
    return losses.cross_entropy(scores, labels, scores.shape[-1])


def transform(
    training: Training, *, decays: bool = True
) -> optax.GradientTransformation:
    """SGD with momentum and weight decay, with or without cosine decay."""
    rate = training.rate
    if decays:
        rate = optax.cosine_decay_schedule(rate, training.steps)
    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(rate, MOMENTUM)
    )


def step(
    backbone: Backbone,
    tx: optax.GradientTransformation,
    settings: augment.Augmentation,
    state: tuple[Params, optax.OptState],
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[tuple[Params, optax.OptState], jax.Array]:
    """One step of SGD on the mean cross entropy of augmented images.

    Args:
        backbone: backbone with a linear head.
        tx: result of `transform`.
        settings: settings of augmentation.
        state: params, and the state of `tx`.
        key: random key of augmentation.
        images: [b, H, W, C], uint8 or float32 in [0, 1].
        labels: labels as in `cross_entropy`.

    Returns:
        The new state, and the loss before the step.
    """
    params, opt_state = state
    images = to_float(images)
    images = augment.augment(key, images, jnp.arange(len(images)), settings)

    def loss_of(params):
        return jnp.mean(cross_entropy(logits(backbone, params, images), labels))

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss


def fit(
    backbone: Backbone,
    training: Training,
    seed: tuple[int, ...],
    images: np.ndarray,
    labels: np.ndarray,
) -> Params:
    """Trains a fresh network.

    Args:
        backbone: backbone with a linear head.
        training: settings of training.
        seed: seed of initial weights, minibatches and augmentation.
        images: [n, H, W, C], uint8 or float32 in [0, 1].
        labels: n labels as in `cross_entropy`.

    Returns:
        The params after the last step.
    """
    key = jax.random.key(0)
    for number in seed:
        key = jax.random.fold_in(key, number)
    tx = transform(training)
    params = backbone.init(key).params
    state = params, tx.init(params)
    advance = _fit_step(backbone, training)
    generator = np.random.default_rng(seed)
    for number, rows in enumerate(
        batches(generator, len(images), training.batch, training.steps)
    ):
        state, _ = advance(
            state, jax.random.fold_in(key, number), images[rows], labels[rows]
        )
    return state[0]


@functools.lru_cache(maxsize=8)
def _fit_step(backbone, training):
    tx = transform(training)
    return jax.jit(functools.partial(step, backbone, tx, training.augmentation))


def batches(
    generator: np.random.Generator, num: int, size: int, steps: int
) -> Iterator[np.ndarray]:
    """Rows of the minibatch of each step.

    Batches have min(num, size) rows of a permutation; rows that do not fill a
    batch are dropped before the next permutation.
    """
    size = min(num, size)
    order = np.empty(0, int)
    for _ in range(steps):
        if len(order) < size:
            order = generator.permutation(num)
        rows, order = order[:size], order[size:]
        yield rows


def features(
    backbone: Backbone, params: Params, images: np.ndarray
) -> np.ndarray:
    """Features f32[n, D] of images [n, H, W, C], uint8 or float32."""
    return _in_batches(_embed(backbone), params, images)


def accuracy(
    backbone: Backbone, params: Params, images: np.ndarray, labels: np.ndarray
) -> float:
    """Accuracy on images [n, H, W, C] with labels int32[n]."""
    scores = _in_batches(_score(backbone), params, images)
    return float(np.mean(scores.argmax(axis=1) == labels))


@functools.lru_cache(maxsize=8)
def _embed(backbone):
    return jax.jit(lambda p, x: backbone.embed(Variables(p, {}), x)[0])


@functools.lru_cache(maxsize=8)
def _score(backbone):
    return jax.jit(functools.partial(logits, backbone))


def _in_batches(function, params, images):
    results = [
        function(params, to_float(jnp.asarray(images[i : i + _ROWS])))
        for i in range(0, len(images), _ROWS)
    ]
    return np.concatenate(results)
