"""Structs shared by all folders.

Letters in shapes: B batch size, K total classes, m exemplar slots per class,
D features, H W C image height, width, channels. A class is its position in the
class order, so the n classes seen so far are always `arange(K) < n`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Params = Mapping[str, Any]


class Variables(struct.PyTreeNode):
    """The variables of a model.

    Attributes:
        params: `{'trunk': ..., 'head': ...}`, float32; see
            `backbones.PRECISIONS`.
        batch_stats: running BatchNorm means and variances, `{}` if none.
    """

    params: Params
    batch_stats: Params

    @property
    def dtype(self) -> jnp.dtype:
        """What the model computes in: float32 or float64."""
        return jnp.result_type(jnp.float32, *jax.tree.leaves(self.params))


class Outputs(struct.PyTreeNode):
    """Outputs of a model on a batch.

    Attributes:
        logits: f32[B, K], the scores times the head's learnable scale.
        scores: f32[B, K], before the scale: cosines in [-1, 1] for the cosine
            head, in [-4, 0] for 'local_similarity', equal to `logits` for a
            head without scale.
        features: f32[B, D], input of the head.
        maps: output f32[B, h, w, c] of each trunk stage before its final ReLU;
            unused maps cost nothing under `jax.jit`.
    """

    logits: jax.Array
    scores: jax.Array
    features: jax.Array
    maps: tuple[jax.Array, ...] = ()


class Phase(struct.PyTreeNode):
    """A phase of the protocol; traced, so all phases share compiled programs.

    Attributes:
        index: phase index, int32[], 0 for the base phase.
        num_old: number of classes of earlier phases, int32[].
        num_seen: `num_old` plus the classes of this phase, int32[].
    """

    index: jax.Array
    num_old: jax.Array
    num_seen: jax.Array


class ExemplarSet(struct.PyTreeNode):
    """The exemplars of all classes; row k belongs to class k, best rank first.

    Attributes:
        images: [K, m, H, W, C], float32 in [0, 1] or uint8.
        mask: bool[K, m], true where a slot holds an exemplar.
    """

    images: jax.Array
    mask: jax.Array


class EncodedImages(NamedTuple):
    """The encoded images of a memory, on the host, by class and rank.

    Attributes:
        data: uint8[sum of lengths], one image after the other.
        lengths: int32[K, m], bytes of each image, 0 for an empty slot.
    """

    data: np.ndarray
    lengths: np.ndarray


class TrainState(struct.PyTreeNode):
    """State of one training stage.

    Attributes:
        step: int32[], number of updates in this stage.
        variables: variables of the trained model.
        opt_state: state of the optax transform.
    """

    step: jax.Array
    variables: Variables
    opt_state: Any


class Carry(struct.PyTreeNode):
    """State passed from one phase to the next, saved in checkpoints.

    Attributes:
        variables: the model that the next phase starts from and distils from.
        exemplars: the memory, in its storage dtype; the only images kept of old
            phases.
        encoded: what is stored of them, where they are compressed; None where
            they are stored as arrays. A checkpoint has these in place of the
            images, which are decoded when it is read.
    """

    variables: Variables
    exemplars: ExemplarSet
    encoded: EncodedImages | None = None


class Backbone(NamedTuple):
    """A model as pure functions: trunk (`embed`) and head (`classify`).

    Attributes:
        init: `(key) -> Variables`.
        embed: `(variables, images f32[B,H,W,C] in [0,1], *, train=False,
            mask=None) -> (features f32[B,D], maps, batch_stats)`, maps as in
            `Outputs`. With `train`, BatchNorm uses statistics of the examples
            where `mask` (bool[B]) is true; otherwise the running ones.
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
        """Runs trunk and head; returns the outputs and new batch_stats."""
        features, maps, batch_stats = self.embed(
            variables, images, train=train, mask=mask
        )
        logits, scores = self.classify(variables.params['head'], features)
        return Outputs(logits, scores, features, maps), batch_stats


Terms = dict[str, tuple[jax.Array, jax.Array]]


class HeldOut(NamedTuple):
    """Outputs on examples held out of training, padded.

    Attributes:
        logits: f32[h, K].
        labels: int32[h].
        weights: f32[h], 0 for padding.
    """

    logits: jax.Array
    labels: jax.Array
    weights: jax.Array


class Method(NamedTuple):
    """A class-incremental learning method.

    Attributes:
        loss: `(outputs, ref_outputs, labels int32[B], phase) -> {term:
            (values f32[B], weights f32[B])}`. The loss is the sum over terms of
            their weighted means. `ref_outputs` are the outputs of the previous
            phase's model on the same images (zeros in phase 0).
        uses_reference: whether `loss` reads `ref_outputs`.
        predictor: the classifier reported in the method's paper, one of
            `evaluation.CLASSIFIERS`.
        keeps_data: whether to also train on all real images of old phases.
        holdout: share of the memory held out of training for `end_phase`,
            together with as many images of each new class.
        corrects_logits: whether the head has a scale and a shift per class,
            which `end_phase` sets.
        end_phase: `(head params, HeldOut, phase) -> head params`, applied after
            training from phase 1 on; None for no change.
        finetune_loss: like `loss`, for fine-tuning on the exemplars, without
            `ref_outputs`; None for cross entropy.
    """

    loss: Callable[[Outputs, Outputs, jax.Array, Phase], Terms]
    uses_reference: bool
    predictor: str
    keeps_data: bool = False
    holdout: float = 0.0
    corrects_logits: bool = False
    end_phase: Callable[[Params, HeldOut, Phase], Params] | None = None
    finetune_loss: (
        Callable[[Outputs, Outputs, jax.Array, Phase], Terms] | None
    ) = None
