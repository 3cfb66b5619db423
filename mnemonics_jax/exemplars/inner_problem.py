"""The inner problem inside a model: what is adapted, from where, and on what.

Joins `bilevel`, which knows only losses and pixels, to a backbone and to the
classes of a phase.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax import bilevel, losses
from mnemonics_jax.backbones import heads, weight_transfer
from mnemonics_jax.core.numerics import between
from mnemonics_jax.core.parallel import Placement
from mnemonics_jax.core.rng import draw_minibatches
from mnemonics_jax.data import augment
from mnemonics_jax.types import Backbone, Phase, Variables

SCOPES = ('all', 'head')
STARTS = ('current', 'redraw', 'previous', 'path', 'forgot')
# Those that begin with the model before the phase, if there is one.
FROM_BEFORE = ('previous', 'path')


class LearnerSettings(NamedTuple):
    """The inner and the outer problem.

    Attributes:
        inner_steps: T, steps of the temporary model.
        inner_lr: a2 of the paper, > 0.
        inner_batch: exemplars a step, 0 for all.
        inner_scope: 'all' adapts every parameter, 'head' the head's rows on
            frozen features (its scale stays).
        inner_start: 'current' model, or 'redraw' the head rows of the classes
            that the exemplars are of, at random in each outer step; 'previous',
            the model that the phase's training started from (in phase 0:
            'redraw'); 'path', a model between that one and the current one,
            another in each outer step (in phase 0: 'redraw'); 'forgot', the
            model after some steps without exemplars, see `forgetting`.
        outer_tx: transform of the pixels' gradient, learning rate included.
        adjust_tx: the same for old exemplars; of the same kind.
        query_batch: images a step that judge.
        query_augmentation: of the query images, on the device.
        remat: see `bilevel.InnerProblem`.
        microbatch: images in work at once, None for all; see there.
        objective: what the pixels are learned by, a name in `objectives`.
        hypergradient: how it is differentiated through the inner steps, where
            it has any; a name in `hypergradients`.
        hypergradient_terms: >= 1, see there.
        means_weight: of the term `means` in a sum of objectives, >= 0.
        balanced_queries: whether old exemplars judge new ones, too, each class
            seen counting alike, see `queries`.
        inner_augment: whether exemplars are augmented where they teach.
        augmentation: of exemplars, then and among queries.
        mirror: whether means of exemplars take in their mirror images.
        forget_lr: rate of the steps by which a model forgets.
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
    balanced_queries: bool = False
    inner_augment: bool = False
    augmentation: augment.Augmentation = augment.Augmentation()
    mirror: bool = False
    forget_lr: float = 0.05


class FlatExemplars(NamedTuple):
    """Exemplars as the learner sees them: one flat list with padding.

    Attributes:
        labels: int32[n].
        mask: bool[n], false for padding.
        classes: int32[2], low and high: the classes they are of.
    """

    labels: jax.Array
    mask: jax.Array
    classes: jax.Array


class Context(NamedTuple):
    """What every function of a learner needs, fixed for a run.

    Attributes:
        backbone: the model.
        settings: of both problems.
        layout: of images, features and pixels.
    """

    backbone: Backbone
    settings: LearnerSettings
    layout: bilevel.Layout


def layout_of(placement: Placement) -> bilevel.Layout:
    """A layout over the devices of `placement`."""
    return bilevel.Layout(
        placement.split, placement.spread, placement.take, placement.gather
    )


class Inner(NamedTuple):
    """One inner problem, ready to be unrolled.

    Attributes:
        problem: see `bilevel.InnerProblem`.
        params: where it starts.
        indices: int32[T, b], its minibatches.
        merge: `(adapted params) -> Variables`, back into the whole model.
        labels: int32[V * n], of what is trained on.
        show: `(pixels [n, ...]) -> [V * n, ...]`, what is trained on: V views
            of each exemplar, which `indices` refer to.
    """

    problem: bilevel.InnerProblem
    params: Any
    indices: jax.Array
    merge: Callable[[Any], Variables]
    labels: jax.Array
    show: Callable[[jax.Array], jax.Array]


def inner_start(
    key: jax.Array,
    variables: Variables,
    classes: jax.Array,
    start: str,
) -> Variables:
    """The model that the inner steps start from, see `LearnerSettings`.

    For 'previous', 'path' and 'forgot' it is what `variables` are.
    """
    if start in ('current', 'forgot'):
        return variables
    head = heads.redraw_rows(key, variables.params['head'], *classes)
    return variables.replace(params={**variables.params, 'head': head})


class Views(NamedTuple):
    """What inner steps see of the exemplars; see `Inner`."""

    indices: jax.Array
    labels: jax.Array
    show: Callable[[jax.Array], jax.Array]


def draw_views(
    key: jax.Array,
    settings: LearnerSettings,
    exemplars: FlatExemplars,
    indices: jax.Array,
) -> Views:
    """The exemplars as they are or, with `inner_augment`, augmented.

    Each inner step then has a view of its own: together they take the room of T
    times the exemplars. Where the inner steps begin with features, which are
    computed once, all steps share one view.

    Args:
        key: of the augmentation.
        settings: of the inner problem.
        exemplars: n of them.
        indices: int32[T, b], minibatches of the n exemplars.
    """
    if not settings.inner_augment:
        return Views(indices, exemplars.labels, lambda pixels: pixels)
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

    return Views(
        jnp.where(indices >= 0, indices + shift[:, None], -1),
        jnp.tile(exemplars.labels, num),
        show,
    )


def inner_problem(
    context: Context,
    variables: Variables,
    exemplars: FlatExemplars,
    phase: Phase,
    key: jax.Array,
    start: Variables | None = None,
) -> Inner:
    """The inner problem at a model.

    BatchNorm uses the running statistics throughout, cross entropy is over all
    classes seen.

    Args:
        context: of the learner.
        variables: the current model.
        exemplars: what the temporary model is trained on.
        phase: which classes are in the softmax, and what is frozen.
        key: of the start and of the minibatches.
        start: another model to start from, see `LearnerSettings`. What is not
            adapted stays at it.
    """
    settings = context.settings
    start_key, batch_key = jax.random.split(key)
    redrawn = exemplars.classes
    if settings.inner_start in FROM_BEFORE:
        # Before phase 0 there is no model: then as 'redraw', later no row.
        redrawn = jnp.where(phase.index == 0, redrawn, 0)
    model = variables if start is None else start
    if start is not None and settings.inner_start == 'path':
        model = between(jax.random.fold_in(key, 3), start, variables)
    start = inner_start(start_key, model, redrawn, settings.inner_start)
    indices = draw_minibatches(
        batch_key, exemplars.mask, settings.inner_steps, settings.inner_batch
    )
    # The third key that a split would have given; the first two stay.
    views = draw_views(jax.random.fold_in(key, 2), settings, exemplars, indices)

    adapt = adapt_head if settings.inner_scope == 'head' else adapt_all
    problem, params, merge = adapt(context, start, phase)
    return Inner(problem, params, merge=merge, **views._asdict())


class Adapted(NamedTuple):
    """What is adapted in a model; see `Inner`."""

    problem: bilevel.InnerProblem
    params: Any
    merge: Callable[[Any], Variables]


def adapt_head(context: Context, start: Variables, phase: Phase) -> Adapted:
    """The head's rows, on features that are computed once."""
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
        embed=lambda pixels: backbone.embed(start, layout.split(pixels))[0],
        remat=settings.remat,
        layout=layout,
        microbatch=settings.microbatch,
    )
    return Adapted(problem, heads.row_params(start.params['head']), merge)


def adapt_all(context: Context, start: Variables, phase: Phase) -> Adapted:
    """Every parameter, but what weight transfer freezes in training, too."""
    backbone, settings, layout = context

    def loss_fn(params, images, labels):
        outputs, _ = backbone.apply(start.replace(params=params), images)
        return losses.cross_entropy(outputs.logits, labels, phase.num_seen)

    problem = bilevel.InnerProblem(
        loss_fn,
        weight_transfer.masked(optax.sgd(settings.inner_lr), phase.index),
        remat=settings.remat,
        layout=layout,
        microbatch=settings.microbatch,
    )
    return Adapted(
        problem, start.params, lambda params: start.replace(params=params)
    )
