"""Learns exemplars for networks trained from scratch.

The paper's bilevel problem (Eq. 8 and 9) with the exact gradient through all
inner steps, starting from networks that never saw real data. Each outer step
draws a network from a pool, trains it on the exemplars and evaluates it on
query images. A pool of one that is replaced after each step only has fresh
networks. Otherwise networks have different ages, since they are also trained on
the exemplars as these change; the gradient ignores that training.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import packing, scratch_model
from mnemonics_jax import bilevel
from mnemonics_jax.bilevel import outer
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.types import Backbone, Params, Variables


class Recipe(NamedTuple):
    """Settings of learning; static.

    Attributes:
        outer_steps: number of updates of the pixels.
        rate: learning rate of Adam for pixels in [0, 1], with cosine decay.
        scope: parameters of the inner steps: 'all' or a 'head'.
        inner_steps: number of inner steps of SGD with momentum.
        inner_rate: learning rate of the inner steps.
        pool: number of networks in the pool.
        most_steps: maximum age of a network; each age is drawn from 1 to this.
        most_shown: maximum exemplars per class in an outer step.
        queries: query images in an outer step.
        query_augmentation: augmentation of query images.
    """

    outer_steps: int
    rate: float
    scope: str
    inner_steps: int
    inner_rate: float
    pool: int
    most_steps: int
    most_shown: int
    queries: int = 256
    query_augmentation: augment.Augmentation = augment.Augmentation()


class Learned(NamedTuple):
    """Learned exemplars.

    Attributes:
        pixels: f32[n, h, w, C] in [0, 1].
        labels: int32[n], or class weights f32[n, K] in [0, 1], see `soft`.
        losses: loss of each outer step, in nats.
    """

    pixels: np.ndarray
    labels: np.ndarray
    losses: list[float]


class State(NamedTuple):
    """State of the pixels and, for soft labels, of the class weights."""

    pixels: outer.ExemplarState
    weights: outer.ExemplarState | None


def soft(weights: jax.Array) -> jax.Array:
    """Soft labels f32[n, K] that sum to 1, from class weights in [0, 1]."""
    return weights / jnp.maximum(jnp.sum(weights, -1, keepdims=True), 1e-6)


def inner_problem(
    backbone: Backbone, params: Params, recipe: Recipe
) -> tuple[bilevel.InnerProblem, Any]:
    """The inner problem of the recipe's scope, and its initial params.

    Args:
        backbone: backbone with a linear head.
        params: params of the drawn network.
        recipe: settings. Scope 'all' trains all of `params`; 'head' trains a
            head from zeros on features divided by sqrt(D).
    """
    tx = optax.sgd(recipe.inner_rate, scratch_model.MOMENTUM)
    if recipe.scope == 'all':

        def loss_of_all(params, images, labels):
            scores = scratch_model.logits(backbone, params, images)
            return scratch_model.cross_entropy(scores, labels)

        return bilevel.InnerProblem(loss_of_all, tx, remat=False), params

    def embed(images):
        found, _, _ = backbone.embed(Variables(params, {}), images)
        return found * found.shape[-1] ** -0.5

    def loss_of_head(head, inputs, labels):
        scores, _ = backbone.classify(head, inputs)
        return scratch_model.cross_entropy(scores, labels)

    start = jax.tree.map(jnp.zeros_like, params['head'])
    return bilevel.InnerProblem(loss_of_head, tx, embed, remat=False), start


def outer_step(
    backbone: Backbone,
    recipe: Recipe,
    settings: augment.Augmentation,
    tx: optax.GradientTransformation,
    state: State,
    params: Params,
    key: jax.Array,
    rows: jax.Array,
    labels: jax.Array,
    query: bilevel.Query,
) -> tuple[State, jax.Array]:
    """One update of the pixels by the exact gradient of the bilevel problem.

    Args:
        backbone: backbone with a linear head.
        recipe: settings.
        settings: augmentation of exemplars.
        tx: transform of the pixels and of class weights.
        state: state with pixels f32[n, h, w, C], packed or not.
        params: params of the drawn network.
        key: random key of all augmentation.
        rows: int32[b], exemplars of this step.
        labels: int32[b], their labels, unused if labels are soft.
        query: real images [q, H, W, C], uint8 or float32.

    Returns:
        The new state, and the loss before the update, f32[] in nats.
    """
    exemplar_key, query_key = jax.random.split(key)
    shape = query.images.shape[1:3]
    images = augment.augment(
        query_key,
        to_float(query.images),
        jnp.arange(len(query.images)),
        recipe.query_augmentation,
    )
    query = query._replace(images=images)
    problem, first = inner_problem(backbone, params, recipe)
    indices = jnp.tile(jnp.arange(len(rows)), (recipe.inner_steps, 1))

    def loss_of(pixels, weights):
        shown = packing.unpack(pixels[rows], shape)
        shown = augment.augment(exemplar_key, shown, rows, settings)
        targets = labels if weights is None else soft(weights[rows])
        loss, _ = bilevel.outer_loss(
            problem, first, shown, targets, indices, query
        )
        return loss

    learned = state.pixels.pixels, state.weights and state.weights.pixels
    loss, grads = jax.value_and_grad(loss_of, (0, 1))(*learned)
    progress = state.pixels.step / recipe.outer_steps
    scale = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    changed = [
        each and outer.apply_gradient(each, gradient, tx, scale)
        for each, gradient in zip(state, grads, strict=True)
    ]
    return State(*changed), loss


class Pool:
    """Networks of different ages, trained on the changing exemplars."""

    def __init__(self, backbone, training, recipe, generator, key):
        self._backbone, self._recipe, self._key = backbone, recipe, key
        self._generator = generator
        self._tx = scratch_model.transform(training, decays=False)
        self._made = 0
        self._places = [self._fresh() for _ in range(recipe.pool)]
        self._step = jax.jit(
            functools.partial(
                scratch_model.step, backbone, self._tx, training.augmentation
            )
        )

    def _fresh(self) -> list[Any]:
        self._made += 1
        key = jax.random.fold_in(self._key, self._made)
        params = self._backbone.init(key).params
        left = int(self._generator.integers(1, self._recipe.most_steps + 1))
        return [(params, self._tx.init(params)), left]

    def draw(self) -> tuple[int, Params]:
        """A random place in the pool, and the params of its network."""
        place = int(self._generator.integers(self._recipe.pool))
        return place, self._places[place][0][0]

    def train(self, place, key, images, labels) -> None:
        """Trains a network by one step, or replaces it if too old."""
        state, left = self._places[place]
        state, _ = self._step(state, key, images, labels)
        self._places[place] = [state, left - 1] if left > 1 else self._fresh()


def learn(
    backbone: Backbone,
    training: scratch_model.Training,
    recipe: Recipe,
    seed: int,
    start: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    image_labels: np.ndarray,
    *,
    soft_labels: bool = False,
) -> Learned:
    """Learns the pixels of exemplars, and their labels if these are soft.

    Args:
        backbone: backbone with a linear head.
        training: training of the networks in the pool, at a constant rate.
            Batch size and augmentation are those of the tested networks.
        recipe: settings of learning.
        seed: random seed.
        start: initial pixels f32[n, h, w, C] in [0, 1], packed or not.
        labels: int32[n], ascending, n / K exemplars per class.
        images: real images, uint8[N, H, W, C].
        image_labels: int32[N].
        soft_labels: whether to also learn soft labels, starting from `labels`.
    """
    generator = np.random.default_rng((seed, len(start)))
    keys = jax.random.split(jax.random.key(seed), 3)
    tx = optax.adam(recipe.rate, b2=0.99)
    state = State(outer.init_state(jnp.asarray(start), tx), None)
    if soft_labels:
        weights = jax.nn.one_hot(labels, labels.max() + 1)
        state = state._replace(weights=outer.init_state(weights, tx))
    pool = Pool(backbone, training, recipe, generator, keys[0])
    advance = jax.jit(
        functools.partial(
            outer_step, backbone, recipe, training.augmentation, tx
        )
    )
    shape = images.shape[1:3]
    unpack = jax.jit(lambda pixels: packing.unpack(pixels, shape))
    history = []
    for number in range(recipe.outer_steps):
        place, params = pool.draw()
        rows = draw_rows(generator, labels, recipe.most_shown)
        chosen = generator.integers(len(images), size=recipe.queries)
        query = bilevel.Query(
            images[chosen],
            image_labels[chosen],
            np.ones(len(chosen), np.float32),
        )
        key = jax.random.fold_in(keys[1], number)
        state, loss = advance(state, params, key, rows, labels[rows], query)
        history.append(loss)
        batch = generator.permutation(len(labels))[: training.batch]
        pool.train(
            place,
            jax.random.fold_in(keys[2], number),
            unpack(state.pixels.pixels[batch]),
            soft(state.weights.pixels[batch]) if soft_labels else labels[batch],
        )
    found = state.weights.pixels if soft_labels else labels
    return Learned(
        np.asarray(state.pixels.pixels),
        np.asarray(found),
        [float(x) for x in history],
    )


def draw_rows(
    generator: np.random.Generator, labels: np.ndarray, most: int
) -> np.ndarray:
    """Random rows int[k * min(m, most)] of k classes of m exemplars each."""
    rows = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    return np.concatenate([generator.permutation(r)[:most] for r in rows])
