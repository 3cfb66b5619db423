"""Exemplars for a model of one's own: an outer step, and what it needs.

A model is a pure function `(params, images) -> logits`: `module.apply` of a
linen module, what `split_nnx` makes of an nnx module, or any function.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mnemonics_jax.bilevel import hypergradients, inner, outer

Apply = Callable[[Any, jax.Array], jax.Array]
Metrics = dict[str, jax.Array]


class ExemplarLearner(NamedTuple):
    """Functions that learn exemplars for a model; all but `init` are jitted.

    Letters: n exemplars, q query images, of one shape [...]; labels are int32.

    Attributes:
        init: `(pixels f32[n, ...] in [0, 1]) -> ExemplarState`.
        step: `(state, params, labels [n], images [q, ...], targets [q]) ->
            (state, metrics)`, an outer step (the paper, Eq. 9): the pixels move
            so that a model that starts at `params` and trains on them does
            better on `images`. `params` are not changed. Metrics are those of
            `outer.outer_loss`.
        gradient: `(params, pixels, labels, images, targets) -> (f32[n, ...],
            metrics)`, what `step` hands to the outer transform.
        train: `(params, pixels, labels, *, num_steps) -> params`, the model
            trained on exemplars alone (Eq. 8).
    """

    init: Callable[[jax.Array], outer.ExemplarState]
    step: Callable[..., tuple[outer.ExemplarState, Metrics]]
    gradient: Callable[..., tuple[jax.Array, Metrics]]
    train: Callable[..., Any]


def make_exemplar_learner(
    apply: Apply,
    *,
    inner_tx: optax.GradientTransformation,
    inner_steps: int,
    outer_tx: optax.GradientTransformation,
    loss_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    hypergradient: str = 'unroll',
    terms: int = 10,
    microbatch: int | None = None,
) -> ExemplarLearner:
    """Functions that learn exemplars for a model (the paper, Eq. 8 and 9).

        theta'(E) = T steps of  theta' <- theta' - a2 grad_theta' L(theta'; E)
        E <- E - b1 grad_E L(theta'(E); D)

    All exemplars E are in each inner step; for minibatches there is
    `bilevel.pixel_gradient`. Pixels are clipped to [0, 1] after each step.

    Args:
        apply: `(params, images f32[b, ...]) -> logits f32[b, K]`. Everything in
            `params` is trained by the inner steps, so statistics of BatchNorm
            belong into the function.
        inner_tx: of the inner steps; `optax.sgd(a2)` in the paper.
        inner_steps: T, >= 1.
        outer_tx: of the pixels; `optax.sgd(b1)` in the paper. Its rate is in
            units of pixels in [0, 1].
        loss_fn: `(logits f32[b, K], labels int32[b]) -> f32[b]`; None for
            softmax cross entropy, in nats.
        hypergradient: one of `hypergradients.NAMES`, exact or approximate.
        terms: of an approximation, see there; `unroll` has no use for it.
        microbatch: images in work at once, None for all.

    Raises:
        ValueError: a number is not positive, or there is no such hypergradient.

    Example:
        >>> import jax, optax
        >>> from mnemonics_jax import make_exemplar_learner
        >>> def apply(params, images):
        ...     return images.reshape(len(images), -1) @ params
        >>> learner = make_exemplar_learner(
        ...     apply,
        ...     inner_tx=optax.sgd(1.0),
        ...     inner_steps=5,
        ...     outer_tx=optax.adam(0.05),
        ... )
        >>> targets = jax.numpy.arange(32) % 2  # Of class 1 the lower half is
        >>> images = jax.random.uniform(jax.random.key(0), (32, 4, 4))
        >>> images = images.at[1::2, 2:].mul(0.2)  # dark.
        >>> state = learner.init(jax.numpy.full((2, 4, 4), 0.5))
        >>> params, labels, losses = jax.numpy.zeros((16, 2)), targets[:2], []
        >>> for _ in range(20):
        ...     state, metrics = learner.step(
        ...         state, params, labels, images, targets
        ...     )
        ...     losses.append(float(metrics['outer_loss']))
        >>> losses[-1] < 0.5 * losses[0]
        True
        >>> taught = learner.train(params, state.pixels, labels, num_steps=5)
        >>> bool((apply(taught, images).argmax(axis=1) == targets).all())
        True
    """
    for name, value in (
        ('inner_steps', inner_steps),
        ('microbatch', 1 if microbatch is None else microbatch),
    ):
        if value < 1:
            raise ValueError(f'{name}={value}: allowed: a whole number >= 1')
    values_of = loss_fn or optax.softmax_cross_entropy_with_integer_labels

    def example_losses(
        params: Any, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        return values_of(apply(params, images), labels)

    setting = _Setting(
        inner.InnerProblem(example_losses, inner_tx, microbatch=microbatch),
        hypergradients.make_hypergradient(hypergradient, terms),
        inner_steps,
        outer_tx,
    )
    return ExemplarLearner(
        init=lambda pixels: outer.init_state(jnp.asarray(pixels), outer_tx),
        step=jax.jit(functools.partial(_step, setting)),
        gradient=jax.jit(functools.partial(_gradient, setting)),
        train=jax.jit(
            functools.partial(_train, setting), static_argnames='num_steps'
        ),
    )


def split_nnx(model: nnx.Module) -> tuple[Apply, nnx.State[Any, Any]]:
    """An nnx module as a pure function and its params.

    What is no `nnx.Param`, such as statistics of BatchNorm, is held as it is
    now; switch the model to `model.eval()` before, so that these are used.

    Args:
        model: called as `model(images)`.

    Returns:
        `(params, images) -> what the model returns`, and the params.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from mnemonics_jax import split_nnx
        >>> model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        >>> apply, params = split_nnx(model)
        >>> images = jax.numpy.ones((2, 4))
        >>> bool((apply(params, images) == model(images)).all())
        True
        >>> zeros = jax.tree.map(jax.numpy.zeros_like, params)
        >>> apply(zeros, images).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    graph, params, *rest = nnx.split(model, nnx.Param, ...)

    def apply(params: Any, images: jax.Array) -> Any:
        return nnx.merge(graph, params, *rest)(images)

    return apply, params


class _Setting(NamedTuple):
    """What a learner was made with."""

    problem: inner.InnerProblem
    hypergradient: hypergradients.Hypergradient
    inner_steps: int
    outer_tx: optax.GradientTransformation


def _everything(labels: jax.Array, num_steps: int) -> jax.Array:
    """Minibatches int32[num_steps, n] of all exemplars each."""
    return jnp.tile(jnp.arange(len(labels)), (num_steps, 1))


def _gradient(
    setting: _Setting,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    images: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, Metrics]:
    return setting.hypergradient(
        setting.problem,
        params,
        pixels,
        labels,
        _everything(labels, setting.inner_steps),
        outer.Query(images, targets, jnp.ones(len(targets))),
    )


def _step(
    setting: _Setting,
    state: outer.ExemplarState,
    params: Any,
    labels: jax.Array,
    images: jax.Array,
    targets: jax.Array,
) -> tuple[outer.ExemplarState, Metrics]:
    grads, metrics = _gradient(
        setting, params, state.pixels, labels, images, targets
    )
    return outer.apply_gradient(state, grads, setting.outer_tx), metrics


def _train(
    setting: _Setting,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    *,
    num_steps: int,
) -> Any:
    indices = _everything(labels, num_steps)
    return inner.unroll(setting.problem, params, pixels, labels, indices)[0]
