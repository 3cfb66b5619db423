"""Features, exemplar means, and evaluation of three classifiers.

The classifiers, each over all classes seen:
    cnn: the model's head.
    nme: nearest mean of exemplars in feature space.
    finetuned: the head of a copy fine-tuned on the exemplars.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax.core import parallel, text, xla_flags
from mnemonics_jax.core.numerics import unit
from mnemonics_jax.data.device_batch import (
    ImageRows,
    batch_images,
    fill_exemplars,
    place_rows,
    to_float,
)
from mnemonics_jax.losses import mask_logits
from mnemonics_jax.prototypes import class_means, nme_scores
from mnemonics_jax.types import Backbone, ExemplarSet, Variables

CLASSIFIERS = tuple(text.CLASSIFIERS)

# The squares of larger features, summed over up to 10,000 of them, overflow in
# float32.
_LARGEST_FEATURE = 1e17


class Counts(NamedTuple):
    """Counts of test images by classifier, in the order of `CLASSIFIERS`.

    Attributes:
        confusion: int32[3, K, K], by true and predicted class.
        top5: int32[3, K], top-5 hits of each true class.
    """

    confusion: jax.Array
    top5: jax.Array


class Embedded(NamedTuple):
    """Unit features of test images, as NME uses them.

    Attributes:
        features: f32[n, D], of unit length.
        labels: int32[n].
        weights: f32[n], 0 for padding.
        sound: bool[n], whether features and scores are finite numbers.
    """

    features: jax.Array
    labels: jax.Array
    weights: jax.Array
    sound: jax.Array


class Evaluator(NamedTuple):
    """Jitted versions of the functions below, by name."""

    placement: parallel.Placement
    embed: Callable[..., jax.Array]
    embed_slots: Callable[..., jax.Array]
    exemplar_means: Callable[..., jax.Array]
    logits: Callable[..., jax.Array]
    score: Callable[..., tuple[jax.Array, jax.Array]]
    # Hides tuple.count.
    count: Callable[..., tuple[Counts, Embedded]]  # type: ignore[assignment]


def make_evaluator(
    backbone: Backbone, placement: parallel.Placement, *, mirror: bool
) -> Evaluator:
    """Builds the functions.

    Args:
        backbone: the model.
        placement: placement of batches.
        mirror: whether exemplar means include left-right mirrored images, as in
            iCaRL (a true mirror; the authors' code reverses colours).
    """

    def jit(function, *args):
        return jax.jit(
            functools.partial(function, *args),
            out_shardings=placement.replicated,
            compiler_options=xla_flags.of_networks(placement.platform),
        )

    return Evaluator(
        placement=placement,
        embed=jit(embed, backbone),
        embed_slots=jit(embed_slots, backbone, placement, mirror),
        exemplar_means=jit(exemplar_means),
        logits=jit(logits, backbone),
        score=jit(score, backbone),
        count=jit(count, backbone),
    )


def embed(
    backbone: Backbone, variables: Variables, batch: dict[str, jax.Array]
) -> jax.Array:
    """Features f32[B, D] of a batch, not augmented."""
    images = to_float(batch_images(batch), variables.dtype)
    return backbone.embed(variables, images)[0]


def embed_slots(
    backbone: Backbone,
    placement: parallel.Placement,
    mirror: bool,
    variables: Variables,
    exemplars: ImageRows,
    slots: jax.Array,
) -> jax.Array:
    """Features of exemplars, f32[V, b, D]; V = 2 with mirrored images.

    Args:
        backbone: the model.
        placement: placement of the images.
        mirror: whether to add the mirrored images.
        variables: the model's variables.
        exemplars: images of the memory.
        slots: int32[b], flat slots.
    """
    images = to_float(exemplars.take(slots), variables.dtype)
    views = [images, images[:, :, ::-1]] if mirror else [images]
    return jnp.stack(
        [backbone.embed(variables, placement.split(v))[0] for v in views]
    )


def exemplar_means(features: jax.Array, mask: jax.Array) -> jax.Array:
    """Class means for the NME rule, f32[K, D].

    The mean unit feature of each class, averaged over the views (images and
    their mirrors); `nme_scores` normalises it.

    Args:
        features: f32[V, K * m, D], by slot.
        mask: bool[K, m].
    """
    means = [class_means(f.reshape(*mask.shape, -1), mask) for f in features]
    return functools.reduce(jnp.add, means) / len(means)


def logits(
    backbone: Backbone,
    variables: Variables,
    exemplars: ImageRows,
    batch: dict[str, jax.Array],
) -> jax.Array:
    """Logits f32[B, K] of real images and exemplars, not augmented.

    Args:
        backbone: the model.
        variables: the model's variables.
        exemplars: images of the memory.
        batch: `image` and `slot`, see `device_batch.fill_exemplars`.
    """
    images = fill_exemplars(
        batch_images(batch), batch['slot'], exemplars, variables.dtype
    )
    return backbone.apply(variables, images)[0].logits


def score(
    backbone: Backbone,
    models: tuple[Variables, Variables, jax.Array],
    batch: dict[str, jax.Array],
    num_seen: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Scores of a batch by each classifier.

    Args:
        backbone: the model.
        models: the model, its fine-tuned copy, and the exemplar means.
        batch: `image`.
        num_seen: int32[], classes that may be predicted.

    Returns:
        Scores f32[3, B, K] in the order of `CLASSIFIERS` (logits, but cosines
        for NME), masked for unseen classes; and unit features f32[B, D].
    """
    variables, finetuned, means = models
    images = to_float(batch_images(batch), variables.dtype)
    outputs, _ = backbone.apply(variables, images)
    tuned, _ = backbone.apply(finetuned, images)
    features = unit(outputs.features)
    scores = [outputs.logits, nme_scores(features, means), tuned.logits]
    return mask_logits(jnp.stack(scores), num_seen), features


def count(
    backbone: Backbone,
    counts: Counts,
    models: tuple[Variables, Variables, jax.Array],
    batch: dict[str, jax.Array],
    num_seen: jax.Array,
) -> tuple[Counts, Embedded]:
    """Adds a batch to the counts; also returns its unit features.

    Args:
        backbone: the model.
        counts: counts so far.
        models: the model, its fine-tuned copy, and the exemplar means.
        batch: `image`, `label`, `weight`.
        num_seen: int32[], classes that may be predicted.
    """
    scores, features = score(backbone, models, batch, num_seen)
    labels, weight = batch['label'], batch['weight'].astype(jnp.int32)
    classifier = jnp.arange(len(CLASSIFIERS))[:, None]
    predicted = jnp.argmax(scores, axis=-1)
    _, best = jax.lax.top_k(scores, min(5, scores.shape[-1]))
    hits = jnp.any(best == labels[:, None], axis=-1).astype(jnp.int32)
    counts = Counts(
        counts.confusion.at[classifier, labels, predicted].add(weight),
        counts.top5.at[classifier, labels].add(weight * hits),
    )
    sound = jnp.all(jnp.isfinite(features), axis=-1) & jnp.all(
        jnp.isfinite(scores), axis=(0, 2)
    )
    return counts, Embedded(features, labels, batch['weight'], sound)


def are_sound(features: np.ndarray) -> bool:
    """Whether features f32[..., D] are numbers that have a length."""
    # False for NaN.
    return bool((np.abs(features) < _LARGEST_FEATURE).all())


def features_of(
    evaluator: Evaluator,
    variables: Variables,
    batches: Iterable[dict[str, np.ndarray]],
) -> np.ndarray:
    """Features f32[n, D] of all examples of `batches`, in order."""
    compute = functools.partial(evaluator.embed, variables)
    return _without_padding(evaluator.placement, compute, batches)


def slot_features(
    evaluator: Evaluator,
    variables: Variables,
    exemplars: ExemplarSet,
    batch_size: int,
) -> np.ndarray:
    """Features f32[V, K * m, D] of a memory's slots; see `embed_slots`."""
    total = exemplars.mask.size
    padded = np.arange(-(-total // batch_size) * batch_size, dtype=np.int32)
    # The last slot is repeated as padding, cut off below.
    slots = np.minimum(padded, total - 1).reshape(-1, batch_size)
    images = place_rows(evaluator.placement, exemplars.images)
    parts = _fetched(
        evaluator.placement,
        (evaluator.embed_slots(variables, images, row) for row in slots),
    )
    return np.concatenate(parts, axis=1)[:, :total]


def means_of(
    evaluator: Evaluator,
    variables: Variables,
    exemplars: ExemplarSet,
    batch_size: int,
) -> jax.Array:
    """Exemplar means f32[K, D]; zeros for a class without exemplars."""
    features = slot_features(evaluator, variables, exemplars, batch_size)
    return evaluator.exemplar_means(features, exemplars.mask)


def logits_of(
    evaluator: Evaluator,
    variables: Variables,
    exemplars: ExemplarSet,
    batches: Iterable[dict[str, np.ndarray]],
) -> np.ndarray:
    """Logits f32[n, K] of all examples of `batches`, in order."""
    images = place_rows(evaluator.placement, exemplars.images)
    compute = functools.partial(evaluator.logits, variables, images)
    return _without_padding(evaluator.placement, compute, batches)


def _without_padding(
    placement: parallel.Placement,
    compute: Callable[[dict[str, jax.Array]], jax.Array],
    batches: Iterable[dict[str, np.ndarray]],
) -> np.ndarray:
    """`compute` over `batches` without padding, [n, ...] on the host."""
    weights = []

    def computed():
        for batch, placed in parallel.shard_batches(placement, batches):
            weights.append(batch['weight'])
            yield compute(placed)

    found = np.concatenate(_fetched(placement, computed()))
    # One exchange between processes for all batches.
    columns = parallel.gather_batch(placement, np.stack(weights, axis=1))
    return found[columns.T.reshape(-1) > 0]


def _fetched(
    placement: parallel.Placement, results: Iterable[jax.Array]
) -> list[np.ndarray]:
    """Results on the host, each fetched while later ones are computed."""
    ahead = parallel.look_ahead(results, placement)
    return [np.asarray(result) for result in ahead]


def count_all(
    evaluator: Evaluator,
    models: tuple[Variables, Variables, jax.Array],
    batches: Iterable[dict[str, np.ndarray]],
    *,
    num_classes: int,
    num_seen: int,
) -> tuple[dict[str, Counts], Embedded]:
    """Counts of each classifier over the classes seen, on the host.

    Args:
        evaluator: the jitted functions.
        models: the model, its fine-tuned copy, and the exemplar means.
        batches: test data of the classes seen.
        num_classes: K.
        num_seen: n.

    Returns:
        Counts by classifier, with confusion int[n, n] and top5 int[n]; and the
        embedded images in order, without padding.
    """
    placement, rows = evaluator.placement, len(CLASSIFIERS)
    empty = Counts(
        np.zeros((rows, num_classes, num_classes), np.int32),
        np.zeros((rows, num_classes), np.int32),
    )
    counts, parts = parallel.replicate(placement, empty), []
    for _, batch in parallel.shard_batches(placement, batches):
        counts, part = evaluator.count(
            counts, models, batch, np.int32(num_seen)
        )
        parts.append(part)
    confusion, top5 = (np.asarray(part) for part in counts)
    found = {
        name: Counts(confusion[row, :num_seen, :num_seen], top5[row, :num_seen])
        for row, name in enumerate(CLASSIFIERS)
    }
    # Fetched at the end, so that dispatch is not blocked.
    embedded = Embedded(*map(np.concatenate, zip(*parts, strict=True)))
    real = embedded.weights > 0
    return found, Embedded(*(column[real] for column in embedded))
