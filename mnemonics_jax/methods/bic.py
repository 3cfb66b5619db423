"""BiC (Wu et al. 2019): bias correction of the logits of new classes.

L = (1 - lambda) L_ce + lambda L_kd with lambda = old / seen classes and T = 2.
A tenth of the memory, and as many images per new class, are held out of
training. After training, two scalars are fitted on them: the logits of the new
classes become alpha o + beta. The correction stays with its classes, so the
next phase distils from corrected logits and trains through it.

The convex problem is solved by 50 damped Newton steps. If the held-out images
are separable there is no minimum; the damping then keeps the scalars moderate.
`ridge` adds a penalty on the distance to (1, 0), which the paper does not have.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mnemonics_jax import losses
from mnemonics_jax.core import rules
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.types import HeldOut, Method, Outputs, Params, Phase, Terms

SETTINGS = {
    'temperature': (2.0, rules.POSITIVE, 'Divides old logits in distillation.'),
    'holdout': (
        0.1,
        rules.number(0, 0.5, above=True),
        'Share of the memory held out to correct the new logits.',
    ),
    'ridge': (
        0.0,
        rules.NOT_NEGATIVE,
        "Weight of a penalty on the correction; 0 is the paper's objective.",
    ),
}
DEFAULTS = {'backbone.head': 'linear', 'method.imprint': False}
HEADS = ('linear', 'cosine')

NEWTON_STEPS = 50


def balanced_loss(
    temperature: float,
) -> Callable[[Outputs, Outputs, jax.Array, Phase], Terms]:
    """Cross entropy and distillation, weighted by the share of old classes."""

    def loss(outputs, ref_outputs, labels, phase):
        cross_entropy = losses.cross_entropy(
            outputs.logits, labels, phase.num_seen
        )
        distilled = losses.distillation(
            outputs.logits, ref_outputs.logits, phase.num_old, temperature
        )
        dtype = cross_entropy.dtype
        share = jnp.asarray(phase.num_old, dtype) / phase.num_seen
        ones = jnp.ones_like(cross_entropy)
        return {
            'cross_entropy': ((1 - share) * cross_entropy, ones),
            'distillation': (share * distilled, ones),
        }

    return loss


def fit_correction(held_out: HeldOut, phase: Phase, ridge: float) -> jax.Array:
    """Fits alpha and beta of the new classes' logits.

    Args:
        held_out: logits f32[h, K] not yet corrected for the new classes.
        phase: the phase of the new classes.
        ridge: weight of (alpha - 1)^2 + beta^2, >= 0.

    Returns:
        f32[2], alpha and beta.
    """
    classes = jnp.arange(held_out.logits.shape[1])
    new = (classes >= phase.num_old) & (classes < phase.num_seen)
    identity = jnp.array([1.0, 0.0], held_out.logits.dtype)

    def objective(pair):
        corrected = pair[0] * held_out.logits + pair[1]
        logits = jnp.where(new, corrected, held_out.logits)
        values = losses.cross_entropy(logits, held_out.labels, phase.num_seen)
        penalty = jnp.sum((pair - identity) ** 2)
        return weighted_mean(values, held_out.weights) + ridge * penalty

    def newton(pair, _):
        grads = jax.grad(objective)(pair)
        # Without a minimum, damped steps shorten with the gradient.
        damping = jnp.sqrt(jnp.linalg.norm(grads)) + 1e-6
        hessian = jax.hessian(objective)(pair) + damping * jnp.eye(
            2, dtype=pair.dtype
        )
        return pair - jnp.linalg.solve(hessian, grads), None

    return jax.lax.scan(newton, identity, None, length=NEWTON_STEPS)[0]


def make(settings: Any) -> Method:
    """Makes the method."""

    def correct(head: Params, held_out: HeldOut, phase: Phase) -> Params:
        alpha, beta = fit_correction(held_out, phase, settings.ridge)
        classes = jnp.arange(head['scale'].shape[0])
        new = (classes >= phase.num_old) & (classes < phase.num_seen)
        return {
            **head,
            'scale': jnp.where(new, alpha, head['scale']),
            'shift': jnp.where(new, beta, head['shift']),
        }

    return Method(
        loss=balanced_loss(settings.temperature),
        uses_reference=True,
        predictor='cnn',
        holdout=settings.holdout,
        corrects_logits=True,
        end_phase=correct,
    )
