"""Queries in which each class seen counts alike."""

import jax
import jax.numpy as jnp

from mnemonics_jax.bilevel.outer import Query
from mnemonics_jax.core.rng import draw_minibatches
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.exemplars.inner_problem import Context
from mnemonics_jax.types import ExemplarSet, Phase


def balance(
    context: Context,
    query: Query,
    held: ExemplarSet | None,
    phase: Phase,
    key: jax.Array,
) -> Query:
    """A query of real images of new classes, joined by old exemplars.

    As many of these as there are real images, drawn without repetition and
    augmented; all of them if there are fewer.

    Args:
        context: of the learner.
        query: real images of the new classes.
        held: the memory of the old ones; None without any.
        phase: which classes are old.
        key: of the draw and of the augmentation.

    Returns:
        The query, weighted by `class_weights`.
    """
    if held is not None:
        query = _join(query, _old(context, held, len(query.labels), key))
    weights = class_weights(query.labels, query.weights, phase)
    return query._replace(weights=weights)


def _old(
    context: Context, held: ExemplarSet, size: int, key: jax.Array
) -> Query:
    """At most `size` exemplars of a memory."""
    draw_key, augment_key = jax.random.split(key)
    mask = held.mask.reshape(-1)
    index = draw_minibatches(draw_key, mask, 1, size)[0]
    slots = jnp.maximum(index, 0)
    stored = held.images.reshape(-1, *held.images.shape[2:])
    images = augment.augment(
        augment_key,
        context.layout.split(to_float(stored[slots])),
        slots,
        context.settings.augmentation,
    )
    labels = (slots // held.mask.shape[1]).astype(jnp.int32)
    return Query(images, labels, (index >= 0).astype(jnp.float32))


def _join(one: Query, other: Query) -> Query:
    return Query(
        jnp.concatenate([one.images, other.images]),
        jnp.concatenate([one.labels, other.labels]),
        jnp.concatenate([one.weights, other.weights]),
    )


def class_weights(
    labels: jax.Array, weights: jax.Array, phase: Phase
) -> jax.Array:
    """Weights of rows by which each class seen counts alike.

    With n_c rows of class c (of weight > 0), of g(c) classes that are old like
    c (or new like c) and of which p(c) have any row at all,

        w = g(c) / (p(c) n_c):

    classes that are missing by chance pass their share to others of their kind,
    so that old and new ones count by their numbers.

    Args:
        labels: int32[q], below `num_seen`.
        weights: f32[q], 0 for padding.
        phase: which classes are old.

    Returns:
        f32[q], 0 for padding; of a row of each class seen once all 1.
    """
    valid = weights > 0
    # No class has a number beyond that of rows when all rows are of one.
    same = (labels[:, None] == labels) & valid & valid[:, None]
    count = jnp.maximum(jnp.sum(same, axis=1), 1)
    is_old = labels < phase.num_old
    # A class is counted once: each of its rows is 1 / n_c of it.
    shares = jnp.where(valid, 1 / count, 0)
    kinds = (
        (is_old, phase.num_old),
        (~is_old, phase.num_seen - phase.num_old),
    )
    scale = sum(
        jnp.where(kind, number / jnp.maximum(jnp.sum(shares * kind), 1), 0)
        for kind, number in kinds
    )
    return shares * scale
