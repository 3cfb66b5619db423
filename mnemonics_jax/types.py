"""The structs that the layers pass to each other.

Letters in shapes: B batch, K classes in all, m exemplar slots a class,
D features, H W C image height, width, channels. A class is its position in the
class order, so the classes seen so far are always the prefix `arange(K) < n`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Params = Mapping[str, Any]


class Variables(struct.PyTreeNode):
    """Everything a model consists of.

    Attributes:
        params: `{'trunk': ..., 'head': ...}`, float32.
        batch_stats: running BatchNorm means and variances, `{}` without any.
    """

    params: Params
    batch_stats: Params


class Outputs(struct.PyTreeNode):
    """What a model says of a batch.

    Attributes:
        logits: f32[B, K], the scores times the head's learnable scale.
        scores: f32[B, K], before the scale: cosines in [-1, 1] for the cosine
            head, equal to `logits` for a head without scale.
        features: f32[B, D], input of the head.
        maps: of each stage of the trunk f32[B, h, w, c], its output before the
            final ReLU; those that no loss reads cost nothing under `jax.jit`.
        scale: f32[], logits over scores; 1 for a head without scale.
    """

    logits: jax.Array
    scores: jax.Array
    features: jax.Array
    maps: tuple[jax.Array, ...] = ()
    scale: jax.Array | float = 1.0


class Phase(struct.PyTreeNode):
    """Where in the protocol a step happens; traced, so phases share programs.

    Attributes:
        index: int32[], 0 for the base phase.
        num_old: int32[], classes of all earlier phases.
        num_seen: int32[], `num_old` plus the classes of this phase.
    """

    index: jax.Array
    num_old: jax.Array
    num_seen: jax.Array


class ExemplarSet(struct.PyTreeNode):
    """The exemplars of all classes; row k belongs to class k, best rank first.

    Attributes:
        images: [K, m, H, W, C], float32 in [0, 1], or uint8 as stored.
        mask: bool[K, m], true where a slot holds an exemplar.
    """

    images: jax.Array
    mask: jax.Array


class TrainState(struct.PyTreeNode):
    """State of one training stage.

    Attributes:
        step: int32[], updates made in this stage.
        variables: the model under training.
        opt_state: state of the optax transform.
    """

    step: jax.Array
    variables: Variables
    opt_state: Any


class Carry(struct.PyTreeNode):
    """What crosses from a phase to the next, and what a checkpoint holds.

    Attributes:
        variables: the model that the next phase starts from and distils from.
        exemplars: the memory, in its storage dtype. No other real image of an
            old phase exists anywhere.
    """

    variables: Variables
    exemplars: ExemplarSet


class Backbone(NamedTuple):
    """A model as pure functions: trunk (`embed`) and head (`classify`).

    Attributes:
        init: `(key) -> Variables`.
        embed: `(variables, images f32[B,H,W,C] in [0,1], *, train=False,
            mask=None) -> (features f32[B,D], maps, batch_stats)`, maps as in
            `Outputs`. With `train` the BatchNorm statistics are those of the
            batch, of its examples where `mask` (bool[B]) is true; else the
            running ones.
        classify: `(head params, features f32[B,D]) -> (logits, scores)`, both
            f32[B,K].
    """

    init: Callable[[jax.Array], Variables]
    embed: Callable[..., tuple[jax.Array, tuple[jax.Array, ...], Params]]
    classify: Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]

    def apply(
        self,
        variables: Variables,
        images: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> tuple[Outputs, Params]:
        """Embeds and classifies; returns the outputs and new batch_stats."""
        features, maps, batch_stats = self.embed(
            variables, images, train=train, mask=mask
        )
        head = variables.params['head']
        logits, scores = self.classify(head, features)
        scale = head.get('sigma', jnp.ones((), logits.dtype))
        return Outputs(logits, scores, features, maps, scale), batch_stats


Terms = dict[str, tuple[jax.Array, jax.Array]]


class HeldOut(NamedTuple):
    """Outputs on examples kept out of training, padded.

    Attributes:
        logits: f32[h, K].
        labels: int32[h].
        weights: f32[h], 0 for padding.
    """

    logits: jax.Array
    labels: jax.Array
    weights: jax.Array


class Method(NamedTuple):
    """A class-incremental method: what differs between two of them.

    Attributes:
        loss: `(outputs, ref_outputs, labels int32[B], phase) -> {term:
            (values f32[B], weights f32[B])}`. The loss is the sum over terms of
            the weighted means. `ref_outputs` are the previous phase's model's
            on the same images (zeros in phase 0).
        uses_reference: whether `loss` reads `ref_outputs`.
        predictor: the classifier by which the method's paper judges it, one of
            `evaluation.CLASSIFIERS`.
        keeps_data: whether real images of old phases are trained on, too.
        holdout: share of the memory, with as many images of each new class,
            that is kept out of training for `end_phase`.
        corrects_logits: whether the head has a scale and a shift for each
            class, which `end_phase` sets.
        end_phase: `(head params, HeldOut, phase) -> head params`, what happens
            to the head after training, from phase 1 on; None for nothing.
    """

    loss: Callable[[Outputs, Outputs, jax.Array, Phase], Terms]
    uses_reference: bool
    predictor: str
    keeps_data: bool = False
    holdout: float = 0.0
    corrects_logits: bool = False
    end_phase: Callable[[Params, HeldOut, Phase], Params] | None = None
