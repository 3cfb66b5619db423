"""Confusion counts of a whole set of images by three classifiers."""

from collections.abc import Iterable

import jax
import numpy as np

from mnemonics_jax.classifiers import (
    CLASSIFIERS,
    Counts,
    Embedded,
    Evaluator,
)
from mnemonics_jax.core import parallel
from mnemonics_jax.types import Variables


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
        evaluator: the functions.
        models: the model, its fine-tuned copy, and the exemplar means.
        batches: test data of the classes seen.
        num_classes: K.
        num_seen: n.

    Returns:
        For each classifier confusion int[n, n] and top5 int[n]; and the images
        in their order, without padding.
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
    # Fetched at the end, so that no batch waits for another.
    embedded = Embedded(*map(np.concatenate, zip(*parts, strict=True)))
    real = embedded.weights > 0
    return found, Embedded(*(column[real] for column in embedded))
