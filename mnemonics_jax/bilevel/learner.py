"""Learning exemplars for your own model.

A model is a pure function `(params, images) -> logits`: `module.apply` of a
linen module, the function that `split_nnx` returns for an nnx module, or any
other.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax.bilevel import arguments, hypergradients, inner, outer
from mnemonics_jax.bilevel.arguments import Batch

if TYPE_CHECKING:  # Few use nnx, which takes time to import.
    from flax import nnx

Apply = Callable[[Any, jax.Array], jax.Array]
Metrics = dict[str, jax.Array]


class ExemplarLearner(NamedTuple):
    """Functions that learn exemplars for a model; all but `init` are jitted.

    There are n exemplars and q query images of one shape [...], in [0, 1];
    labels are int32 in 0..K-1. A mistake is a ValueError. Shapes and dtypes are
    checked when they are new, ranges of values on the host at each call, those
    on an accelerator with new shapes alone.

    Attributes:
        init: `(pixels f32[n, ...] in [0, 1]) -> ExemplarState`.
        step: `(state, params, labels [n], images [q, ...], targets [q]) ->
            (state, metrics)`, an outer step (the paper, Eq. 9): updates the
            pixels so that training `params` on them lowers the loss on
            `images`. `params` are not changed. Metrics are those of
            `outer.outer_loss`.
        gradient: `(params, pixels, labels, images, targets) -> (f32[n, ...],
            metrics)`, the gradient that `step` uses.
        train: `(params, pixels, labels, *, num_steps) -> params`, trained on
            the exemplars only (Eq. 8).
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
    """Makes functions that learn exemplars for a model (Eq. 8 and 9).

        theta'(E) = T steps of  theta' <- theta' - a2 grad_theta' L(theta'; E)
        E <- E - b1 grad_E L(theta'(E); D)

    Each inner step uses all exemplars; for minibatches use
    `bilevel.pixel_gradient`. Pixels are clipped to [0, 1] after each step.

    Args:
        apply: `(params, images f32[b, ...]) -> logits f32[b, K]`. The inner
            steps train all of `params`, so BatchNorm statistics must be part of
            the function.
        inner_tx: transform of the inner steps; `optax.sgd(a2)` in the paper.
        inner_steps: T, >= 1.
        outer_tx: transform of the pixels; `optax.sgd(b1)` in the paper. Its
            learning rate is in units of pixels in [0, 1].
        loss_fn: `(logits f32[b, K], labels int32[b]) -> f32[b]`; None for
            softmax cross entropy, in nats.
        hypergradient: one of `hypergradients.NAMES`, exact or approximate.
        terms: terms of an approximation, ignored by `unroll`.
        microbatch: images per microbatch, None for all.

    Raises:
        ValueError: a number is not a positive integer, a transform is none of
            optax, `apply` is a module or a class, or `hypergradient` is
            unknown.

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
        >>> targets = jax.numpy.arange(32) % 2
        >>> images = jax.random.uniform(jax.random.key(0), (32, 4, 4))
        >>> images = images.at[1::2, 2:].mul(0.2)  # Class 1: dark lower half.
        >>> state = learner.init(jax.numpy.full((2, 4, 4), 0.5))
        >>> params, labels, losses = jax.numpy.zeros((16, 2)), targets[:2], []
        >>> for _ in range(20):
        ...     state, metrics = learner.step(
        ...         state, params, labels, images, targets
        ...     )
        ...     losses.append(float(metrics['outer_loss']))
        >>> losses[-1] < 0.5 * losses[0]
        True
        >>> trained = learner.train(params, state.pixels, labels, num_steps=5)
        >>> bool((apply(trained, images).argmax(axis=1) == targets).all())
        True
    """
    arguments.check_apply(apply)
    arguments.check_transform('inner_tx', inner_tx)
    arguments.check_transform('outer_tx', outer_tx)
    arguments.check_count('inner_steps', inner_steps)
    if microbatch is not None:
        arguments.check_count('microbatch', microbatch)
    logits_loss = loss_fn or optax.softmax_cross_entropy_with_integer_labels

    def example_losses(
        params: Any, images: jax.Array, labels: jax.Array
    ) -> jax.Array:
        losses = logits_loss(apply(params, images), labels)
        arguments.check_losses(losses, len(images))
        return losses

    settings = _Settings(
        inner.InnerProblem(example_losses, inner_tx, microbatch=microbatch),
        hypergradients.make_hypergradient(hypergradient, terms),
        inner_steps,
        outer_tx,
    )
    return _checked(settings, arguments.Checker(apply, own_loss=bool(loss_fn)))


def split_nnx(
    model: 'nnx.Module',
) -> 'tuple[Apply, nnx.State[Any, Any]]':
    """Splits an nnx module into a pure function and its params.

    State other than `nnx.Param`, such as BatchNorm statistics, is fixed at its
    current value; call `model.eval()` first so that the statistics are used.

    Args:
        model: called as `model(images)`.

    Returns:
        `(params, images) -> output of the model`, and the params.

    Raises:
        ValueError: it is no nnx module, or a part of it is in training mode.

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
    arguments.check_module(model)
    from flax import nnx

    graph, params, *rest = nnx.split(model, nnx.Param, ...)

    def apply(params: Any, images: jax.Array) -> Any:
        return nnx.merge(graph, params, *rest)(images)

    return apply, params


class _Settings(NamedTuple):
    """Arguments of `make_exemplar_learner` in the form its functions use."""

    problem: inner.InnerProblem
    hypergradient: hypergradients.Hypergradient
    inner_steps: int
    outer_tx: optax.GradientTransformation


def _checked(settings: _Settings, check: arguments.Checker) -> ExemplarLearner:
    """The jitted functions, each behind checks of its arguments."""
    jitted_step = jax.jit(functools.partial(_step, settings))
    jitted_gradient = jax.jit(functools.partial(_gradient, settings))
    jitted_train = jax.jit(
        functools.partial(_train, settings), static_argnames='num_steps'
    )

    def init(pixels):
        arguments.check_images('pixels', pixels)
        arguments.check_image_range('pixels', pixels)
        return outer.init_state(jnp.asarray(pixels), settings.outer_tx)

    def step(state, params, labels, images, targets):
        if not isinstance(state, outer.ExemplarState):
            raise ValueError(
                f'state: {type(state).__name__}: must be an ExemplarState, '
                'which init makes'
            )
        exemplars = Batch(('pixels', 'labels'), state.pixels, labels)
        check(params, exemplars, Batch(('images', 'targets'), images, targets))
        return jitted_step(state, params, labels, images, targets)

    def gradient(params, pixels, labels, images, targets):
        exemplars = Batch(('pixels', 'labels'), pixels, labels)
        check(params, exemplars, Batch(('images', 'targets'), images, targets))
        return jitted_gradient(params, pixels, labels, images, targets)

    def train(params, pixels, labels, *, num_steps):
        arguments.check_count('num_steps', num_steps, 0)
        check(params, Batch(('pixels', 'labels'), pixels, labels))
        return jitted_train(params, pixels, labels, num_steps=num_steps)

    return ExemplarLearner(init, step, gradient, train)


def _full_batches(labels: jax.Array, num_steps: int) -> jax.Array:
    """Indices int32[num_steps, n] of all exemplars in each step."""
    return jnp.tile(jnp.arange(len(labels)), (num_steps, 1))


def _gradient(
    settings: _Settings,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    images: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, Metrics]:
    return settings.hypergradient(
        settings.problem,
        params,
        pixels,
        labels,
        _full_batches(labels, settings.inner_steps),
        outer.Query(images, targets, jnp.ones(len(targets))),
    )


def _step(
    settings: _Settings,
    state: outer.ExemplarState,
    params: Any,
    labels: jax.Array,
    images: jax.Array,
    targets: jax.Array,
) -> tuple[outer.ExemplarState, Metrics]:
    grads, metrics = _gradient(
        settings, params, state.pixels, labels, images, targets
    )
    return outer.apply_gradient(state, grads, settings.outer_tx), metrics


def _train(
    settings: _Settings,
    params: Any,
    pixels: jax.Array,
    labels: jax.Array,
    *,
    num_steps: int,
) -> Any:
    indices = _full_batches(labels, num_steps)
    return inner.unroll(settings.problem, params, pixels, labels, indices)[0]
