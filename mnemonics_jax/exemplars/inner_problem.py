"""The problem of learning exemplars inside a model, and its inner part.

Joins `bilevel`, which knows only losses and pixels, to a backbone and to the
classes of a phase.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax import bilevel, losses
from mnemonics_jax.backbones import heads, mask_frozen
from mnemonics_jax.core.parallel import Placement
from mnemonics_jax.core.rng import draw_minibatches
from mnemonics_jax.data import augment
from mnemonics_jax.types import Backbone, ExemplarSet, Phase, Variables


class LearnerSettings(NamedTuple):
    """Constants of the inner and the outer problem.

    Attributes:
        inner_steps: T, steps of the temporary model, >= 1.
        inner_lr: a2 in the paper, > 0.
        inner_batch: exemplars in an inner step, 0 for all.
        inner_scope: 'all' adapts every parameter, 'head' the rows of the head
            on frozen features (its scale stays).
        inner_start: 'current' starts at the current model; 'redraw' also
            redraws the head rows of the exemplars' classes at random in each
            outer step.
        outer_tx: optax transform of the pixels of new exemplars, with its rate.
        adjust_tx: optax transform for old exemplars, with a state of the same
            structure.
        query_batch: query images in an outer step, >= 1.
        query_augmentation: augmentation of query images on the device.
        remat: see `bilevel.InnerProblem`.
        microbatch: see `bilevel.InnerProblem`; also for features.
        objective: name in `objectives.OBJECTIVES`.
        hypergradient: name in `hypergradients.NAMES`.
        hypergradient_terms: terms of an approximate hypergradient, >= 1.
        means_weight: weight of the term `means` in a sum of objectives, >= 0.
        inner_augment: whether exemplars are augmented in the inner steps.
        augmentation: augmentation of exemplars, with `inner_augment`.
        mirror: whether means of exemplars include their mirror images.
        shown: `(pixels, kept) -> images`, what a codec stores of pixels, see
            `storage.Storage`; None where pixels are stored as they are.
    """

    inner_steps: int
    inner_lr: float
    inner_batch: int
    inner_scope: str
    inner_start: str
    outer_tx: optax.GradientTransformation
    adjust_tx: optax.GradientTransformation
    query_batch: int
    query_augmentation: augment.Augmentation
    remat: bool = True
    microbatch: int | None = None
    objective: str = 'unroll'
    hypergradient: str = 'unroll'
    hypergradient_terms: int = 10
    means_weight: float = 1.0
    inner_augment: bool = False
    augmentation: augment.Augmentation = augment.Augmentation()
    mirror: bool = False
    shown: Callable[[jax.Array, jax.Array], jax.Array] | None = None


class LearnerContext(NamedTuple):
    """What all functions of a learner need; fixed for a run.

    Attributes:
        backbone: model.
        settings: constants of both problems.
        layout: placement of images, features and pixels on the devices.
    """

    backbone: Backbone
    settings: LearnerSettings
    layout: bilevel.Layout


class FlatExemplars(NamedTuple):
    """Exemplars as one flat list with padding; the pixels are kept apart.

    Attributes:
        labels: int32[n].
        mask: bool[n], false for padding.
        classes: int32[2], low and high: the labels are in low..high-1.
    """

    labels: jax.Array
    mask: jax.Array
    classes: jax.Array


class OldExemplars(NamedTuple):
    """The memory of old classes while exemplars of new ones are learned.

    Attributes:
        exemplars: memory; the rows of other classes are empty.
        means: f32[K, D], class means of its features by the current model.
    """

    exemplars: ExemplarSet
    means: jax.Array


class ExemplarProblem(NamedTuple):
    """The problem of learning the pixels of some exemplars.

    A stage makes it once. A step replaces `key` and `query` by its own, and
    adjustment `exemplars` by the half that is updated.

    Attributes:
        variables: current model.
        exemplars: labels of the pixels; both halves stacked, [2, n], while old
            exemplars are adjusted.
        phase: phase; it says which classes are in the softmax.
        key: PRNG key; one for each half, [2], while old exemplars are adjusted.
        num_steps: int32[], outer steps, of each half in adjustment.
        query: query images: `multistep.StackedBatches` of several steps, in a
            step a `bilevel.Query`; None where there are none.
        old: memory of old classes; None where the objective does not read it.
        kept: bool[n, ...], the coefficients that learning may change, see
            `storage.Storage`; None without `LearnerSettings.shown`.
    """

    variables: Variables
    exemplars: FlatExemplars
    phase: Phase
    key: jax.Array
    num_steps: jax.Array
    query: Any = None
    old: OldExemplars | None = None
    kept: jax.Array | None = None


class InnerSetup(NamedTuple):
    """An inner problem with all that `bilevel.unroll` takes.

    Attributes:
        problem: see `bilevel.InnerProblem`.
        params: pytree, where the inner steps start.
        indices: int32[T, b], minibatches.
        merge: `(adapted params) -> Variables`, the whole model.
        labels: int32[V * n], labels of what `show` returns.
        show: `(pixels f32[n, H, W, C]) -> f32[V * n, H, W, C]`, V views of each
            exemplar, which `indices` refer to.
    """

    problem: bilevel.InnerProblem
    params: Any
    indices: jax.Array
    merge: Callable[[Any], Variables]
    labels: jax.Array
    show: Callable[[jax.Array], jax.Array]


def layout_of(placement: Placement) -> bilevel.Layout:
    """A layout over the devices of `placement`."""
    return bilevel.Layout(
        split=placement.split,
        spread=placement.spread,
        take=placement.take,
        share=placement.share,
        by_rows=placement.by_rows,
        alike=placement.alike,
    )


def inner_problem(
    context: LearnerContext, problem: ExemplarProblem
) -> InnerSetup:
    """The inner problem at the current model (the paper, Eq. 8).

    BatchNorm uses the running statistics throughout; the cross entropy is over
    all classes seen.

    Args:
        context: constants of the learner.
        problem: its `variables`, `exemplars`, `phase` and `key` are read; the
            key draws the start, the minibatches and the augmentation.
    """
    settings, exemplars = context.settings, problem.exemplars
    start_key, batch_key = jax.random.split(problem.key)
    start = inner_start(
        start_key, problem.variables, exemplars.classes, settings.inner_start
    )
    indices = draw_minibatches(
        batch_key, exemplars.mask, settings.inner_steps, settings.inner_batch
    )
    # The third key that a split would have given; the first two stay.
    view_key = jax.random.fold_in(problem.key, 2)
    indices, labels, show = draw_views(view_key, settings, exemplars, indices)
    adapt = adapt_head if settings.inner_scope == 'head' else adapt_all
    inner, params, merge = adapt(context, start, problem.phase)
    return InnerSetup(inner, params, indices, merge, labels, show)


def inner_start(
    key: jax.Array, variables: Variables, classes: jax.Array, start: str
) -> Variables:
    """The model that the inner steps start from, see `LearnerSettings`."""
    if start == 'current':
        return variables
    head = heads.redraw_rows(key, variables.params['head'], *classes)
    return variables.replace(params={**variables.params, 'head': head})


def draw_views(
    key: jax.Array,
    settings: LearnerSettings,
    exemplars: FlatExemplars,
    indices: jax.Array,
) -> tuple[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]]:
    """The exemplars as they are or, with `inner_augment`, augmented.

    Each inner step has its own views, so memory grows by T times the exemplars.
    Where the inner steps start from features, which are computed once, all
    steps share one view.

    Args:
        key: key of the augmentation.
        settings: constants of the problem.
        exemplars: n exemplars.
        indices: int32[T, b], minibatches of the n exemplars.

    Returns:
        `indices`, `labels` and `show` of `InnerSetup`.
    """
    if not settings.inner_augment:
        return indices, exemplars.labels, lambda pixels: pixels
    size = exemplars.labels.shape[0]
    num = 1 if settings.inner_scope == 'head' else settings.inner_steps
    shift = size * (jnp.arange(len(indices), dtype=jnp.int32) % num)

    def show(pixels):
        return augment.augment(
            key,
            jnp.tile(pixels, (num, 1, 1, 1)),
            jnp.arange(num * size),
            settings.augmentation,
        )

    shifted = jnp.where(indices >= 0, indices + shift[:, None], -1)
    return shifted, jnp.tile(exemplars.labels, num), show


# The problem, where it starts, and how adapted params make a whole model.
Adapted = tuple[bilevel.InnerProblem, Any, Callable[[Any], Variables]]


def adapt_head(
    context: LearnerContext, start: Variables, phase: Phase
) -> Adapted:
    """Adapts the rows of the head, on features that are computed once."""
    backbone, settings, layout = context

    def loss_fn(rows, features, labels):
        head = {**start.params['head'], **rows}
        logits, _ = backbone.classify(head, features)
        return losses.cross_entropy(logits, labels, phase.num_seen)

    def merge(rows):
        head = {**start.params['head'], **rows}
        return start.replace(params={**start.params, 'head': head})

    problem = bilevel.InnerProblem(
        loss_fn,
        optax.sgd(settings.inner_lr),
        embed=lambda pixels: backbone.embed(start, pixels)[0],
        remat=settings.remat,
        layout=layout,
        microbatch=settings.microbatch,
        replicate=True,
    )
    return problem, heads.row_params(start.params['head']), merge


def adapt_all(
    context: LearnerContext, start: Variables, phase: Phase
) -> Adapted:
    """Adapts every parameter that training does not freeze."""
    backbone, settings, layout = context

    def loss_fn(params, images, labels):
        outputs, _ = backbone.apply(start.replace(params=params), images)
        return losses.cross_entropy(outputs.logits, labels, phase.num_seen)

    mask = optax.stateless(lambda updates, _: mask_frozen(updates, phase.index))
    problem = bilevel.InnerProblem(
        loss_fn,
        optax.chain(optax.sgd(settings.inner_lr), mask),
        remat=settings.remat,
        layout=layout,
        microbatch=settings.microbatch,
    )
    return problem, start.params, lambda params: start.replace(params=params)
