"""Making a model forget: what a later phase may do to it, in a few steps.

Images of this phase turned by 90, 180 and 270 degrees stand for classes that
come later: three for each class of the phase. The model is trained on them
alone, by plain SGD, without exemplars and without a reference model.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from mnemonics_jax import losses
from mnemonics_jax.backbones import heads, weight_transfer
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import batch_images, to_float
from mnemonics_jax.exemplars.inner_problem import Context
from mnemonics_jax.types import Phase, Variables

TURNS = 3

# Whatever head the model has: it is thrown away afterwards.
_HEAD = heads.make_head('cosine')


def begin(variables: Variables, key: jax.Array) -> Variables:
    """The model with a new head, of a row for each class that is made up.

    Args:
        variables: the model.
        key: of the rows; their scale is that of the model's head.
    """
    head = variables.params['head']
    shape = head['kernel'].shape
    fresh = _HEAD.init(key, TURNS * shape[0], shape[-1])
    fresh = {**fresh, 'sigma': head.get('sigma', fresh['sigma'])}
    return variables.replace(params={**variables.params, 'head': fresh})


def turn(
    key: jax.Array, images: jax.Array, index: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Turns each image by 90, 180 or 270 degrees.

    Args:
        key: PRNG key.
        images: f32[B, S, S, C], square.
        index: int32[B]; the draw of an example depends on key and index alone.

    Returns:
        The turned images, and int32[B], by how many quarters less one.
    """
    turns = jax.vmap(
        lambda i: jax.random.randint(jax.random.fold_in(key, i), (), 0, TURNS)
    )(index)
    ways = [jnp.rot90(images, 1 + i, axes=(1, 2)) for i in range(TURNS)]
    chosen = [(turns == i)[:, None, None, None] for i in range(TURNS)]
    return jnp.select(chosen, ways), turns


def step(
    context: Context,
    model: Variables,
    batch: Mapping[str, jax.Array],
    phase: Phase,
    key: jax.Array,
) -> Variables:
    """One step of SGD on turned images, of what a later phase would train.

    Args:
        context: of the learner.
        model: from `begin`, or from the step before.
        batch: real images of the phase.
        phase: whose they are.
        key: of the step.
    """
    settings = context.settings
    augment_key, turn_key = jax.random.split(key)
    images = augment.augment(
        augment_key,
        to_float(batch_images(batch)),
        batch['index'],
        settings.query_augmentation,
    )
    images, turns = turn(turn_key, images, batch['index'])
    labels = TURNS * (batch['label'] - phase.num_old) + turns
    number = TURNS * (phase.num_seen - phase.num_old)

    def loss_of(params):
        split = context.layout.split(images)
        features, *_ = context.backbone.embed(
            model.replace(params=params), split
        )
        logits, _ = _HEAD.apply(params['head'], features)
        values = losses.cross_entropy(logits, labels, number)
        return weighted_mean(values, batch['weight'])

    # With weight transfer every later phase trains scales.
    tx = weight_transfer.masked(optax.sgd(settings.forget_lr), phase.index + 1)
    grads = jax.grad(loss_of)(model.params)
    updates, _ = tx.update(grads, tx.init(model.params), model.params)
    return model.replace(params=optax.apply_updates(model.params, updates))
