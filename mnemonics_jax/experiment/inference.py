"""A classifier of a finished phase as a program that JAX alone can run."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mnemonics_jax.core import parallel
from mnemonics_jax.core.numerics import unit
from mnemonics_jax.data.device_batch import to_float
from mnemonics_jax.experiment import finished
from mnemonics_jax.prototypes import nme_scores
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import Backbone, Variables

# What a program is lowered for, in the words of `jax.export`.
PLATFORMS = ('cpu', 'cuda', 'tpu')


def score(
    backbone: Backbone,
    variables: Variables,
    means: np.ndarray | None,
    num_seen: int,
    image: jax.Array,
) -> jax.Array:
    """Scores of an image by one classifier, f32[S].

    Args:
        backbone: the model.
        variables: its variables.
        means: exemplar means f32[K, D] for the nearest of them, or None for
            the model's head.
        num_seen: S, number of classes seen.
        image: uint8[H, W, C].

    Returns:
        Logits, or cosine similarities with the means, of the classes seen.
    """
    images = to_float(image[None], variables.dtype)
    outputs, _ = backbone.apply(variables, images)
    found = outputs.logits
    if means is not None:
        found = nme_scores(unit(outputs.features), jnp.asarray(means))
    # A process that loads the program need not have float64 on.
    return found[0, :num_seen].astype(jnp.float32)


def program_of(
    phase: finished.FinishedPhase, classifier: str
) -> tuple[bytes, dict[str, Any]]:
    """Exports a classifier, for any number of images and all `PLATFORMS`.

    Args:
        phase: a finished phase.
        classifier: one of the phase's classifiers.

    Returns:
        The program, for `jax.export.deserialize`, and what its user has to
        know, as a dict for JSON.
    """
    variables = phase.variables
    if classifier == 'finetuned':
        variables = phase.finetuned
    function = functools.partial(
        score,
        phase.backbone,
        # Arrays of the host become constants of the program.
        jax.tree.map(np.asarray, variables),
        means_of(phase) if classifier == 'nme' else None,
        phase.num_seen,
    )
    # Mapped over images, since a network may ask for their number, by len().
    program = jax.jit(jax.vmap(function))
    shape = phase.plan.image_shape
    (batch,) = export.symbolic_shape('b')
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    with without_places():
        exported = export.export(program, platforms=PLATFORMS)(images)
    description = {
        'class_names': list(phase.class_names),
        'input_shape': ['b', *shape],
        'input_dtype': 'uint8',
        'classifier': classifier,
        'scores': 'cosine' if classifier == 'nme' else 'logit',
        'platforms': list(PLATFORMS),
        'jax': jax.__version__,
    }
    return bytes(exported.serialize()), description


@contextlib.contextmanager
def without_places() -> Iterator[None]:
    """Programs do not name the lines and files that made them.

    Equal models then give equal files, which say nothing of this machine.
    """
    name = 'jax_traceback_in_locations_limit'
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def means_of(phase: finished.FinishedPhase) -> np.ndarray:
    """Exemplar means f32[K, D] of a finished phase, as `predict` has them."""
    placement = parallel.make_placement(jax.local_devices()[:1])
    evaluator = evaluation.make_evaluator(
        phase.backbone, placement, mirror=phase.config.data.flip
    )
    return np.asarray(finished.models_of(phase, evaluator, placement)[2])
