"""Exemplars learned for networks that are trained on nothing else.

The paper's bilevel problem (Eq. 8 and 9) with a network that is not one: in
each outer step one is drawn from a pool of networks of different ages, all
trained from nothing on the exemplars as they are at the time. Its head starts
from zeros and takes the inner steps on the features of the exemplars; real
images judge it. The gradient is exact, down to the pixels. When a network has
reached its age, a fresh one takes its place.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import packing, scratch_model
from mnemonics_jax import augment, bilevel, losses, outer
from mnemonics_jax.numerics import to_float
from mnemonics_jax.types import Backbone, Params, Variables


class Recipe(NamedTuple):
    """How exemplars are learned; static.

    Attributes:
        outer_steps: updates of the pixels.
        rate: of Adam, for pixels in [0, 1]; falls to 0 along a cosine.
        inner_steps: of the head, by gradient descent with momentum.
        inner_rate: of those, for features over the root of their number.
        pool: networks at a time.
        most_steps: age at which a network is replaced, at most; each has its
            own, drawn from 1 on.
        most_shown: exemplars of each class in an outer step, at most.
        queries: real images in an outer step.
        query_augmentation: of those.
    """

    outer_steps: int
    rate: float
    inner_steps: int = 30
    inner_rate: float = 6.0
    pool: int = 5
    most_steps: int = 120
    most_shown: int = 16
    queries: int = 256
    query_augmentation: augment.Augmentation = augment.Augmentation()


class Learned(NamedTuple):
    """Exemplars and how they came about.

    Attributes:
        pixels: f32[n, h, w, C] in [0, 1].
        losses: of the outer steps, in nats.
    """

    pixels: np.ndarray
    losses: list[float]


def head_problem(
    backbone: Backbone, params: Params, recipe: Recipe
) -> bilevel.InnerProblem:
    """The inner problem: a linear head on a network's features."""

    def embed(images):
        found, _, _ = backbone.embed(Variables(params, {}), images)
        return found * found.shape[-1] ** -0.5

    def loss_fn(head, inputs, labels):
        scores, _ = backbone.classify(head, inputs)
        return losses.cross_entropy(scores, labels, scores.shape[-1])

    tx = optax.sgd(recipe.inner_rate, scratch_model.MOMENTUM)
    return bilevel.InnerProblem(loss_fn, tx, embed, remat=False)


def outer_step(
    backbone: Backbone,
    recipe: Recipe,
    settings: augment.Augmentation,
    tx: optax.GradientTransformation,
    state: outer.ExemplarState,
    params: Params,
    key: jax.Array,
    rows: jax.Array,
    labels: jax.Array,
    query: bilevel.Query,
) -> tuple[outer.ExemplarState, jax.Array]:
    """One update of the pixels by the exact gradient of the bilevel problem.

    Args:
        backbone: from `scratch_model.make`.
        recipe: how.
        settings: of the augmentation of exemplars.
        tx: of the pixels.
        state: pixels f32[n, h, w, C], packed or not.
        params: of the network that was drawn.
        key: of all augmentation.
        rows: int32[b], the exemplars that teach in this step.
        labels: int32[b], theirs.
        query: real images [q, H, W, C], uint8 or float32, which judge.

    Returns:
        The new state, and the loss before it, f32[] in nats.
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
    problem = head_problem(backbone, params, recipe)
    head = jax.tree.map(jnp.zeros_like, params['head'])
    indices = jnp.tile(jnp.arange(len(rows)), (recipe.inner_steps, 1))

    def loss_of(pixels):
        shown = packing.unpack(pixels[rows], shape)
        shown = augment.augment(exemplar_key, shown, rows, settings)
        return bilevel.outer_loss(problem, head, shown, labels, indices, query)[
            0
        ]

    loss, grads = jax.value_and_grad(loss_of)(state.pixels)
    progress = state.step / recipe.outer_steps
    scale = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return outer.apply_gradient(state, grads, tx, scale), loss


class _Pool:
    """Networks of different ages, trained on the exemplars as they change."""

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
        """A place, and the params of its network."""
        place = int(self._generator.integers(self._recipe.pool))
        return place, self._places[place][0][0]

    def train(self, place, key, images, labels) -> None:
        """One more step for a network, or a fresh one in its place."""
        state, left = self._places[place]
        state, _ = self._step(state, key, images, labels)
        again = [state, left - 1] if left > 1 else self._fresh()
        self._places[place] = again


def learn(
    backbone: Backbone,
    training: scratch_model.Training,
    recipe: Recipe,
    seed: int,
    start: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    image_labels: np.ndarray,
) -> Learned:
    """Learns the pixels of exemplars.

    Args:
        backbone: from `scratch_model.make`.
        training: of the networks in the pool, at a constant rate; their batch
            and augmentation are those of the networks that will be judged.
        recipe: how.
        seed: of all that is random.
        start: f32[n, h, w, C] in [0, 1], packed or not.
        labels: int32[n], of n / K exemplars a class in the order of classes.
        images: uint8[N, H, W, C], real.
        image_labels: int32[N].
    """
    generator = np.random.default_rng((seed, len(start)))
    keys = jax.random.split(jax.random.key(seed), 3)
    tx = optax.adam(recipe.rate, b2=0.99)
    state = outer.init_state(jnp.asarray(start), tx)
    pool = _Pool(backbone, training, recipe, generator, keys[0])
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
        few = generator.permutation(len(labels))[: training.batch]
        pool.train(
            place,
            jax.random.fold_in(keys[2], number),
            unpack(state.pixels[few]),
            labels[few],
        )
    return Learned(np.asarray(state.pixels), [float(x) for x in history])


def draw_rows(
    generator: np.random.Generator, labels: np.ndarray, most: int
) -> np.ndarray:
    """int[k * min(m, most)]: as many exemplars of each of k classes of m."""
    rows = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    return np.concatenate([generator.permutation(r)[:most] for r in rows])
