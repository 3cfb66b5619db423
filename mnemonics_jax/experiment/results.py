"""Result files of a run: `results.json`, exemplars and features."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_jax import config as config_lib
from mnemonics_jax import metrics
from mnemonics_jax.core import manifest, multihost
from mnemonics_jax.core.workdir import (
    RESULTS,
    exemplars_name,
    features_name,
    phase_files,
    selected_name,
    write_atomically,
)
from mnemonics_jax.data import encoded as encodings
from mnemonics_jax.exemplars import stored
from mnemonics_jax.experiment import components, features
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.experiment.phase import Outcome
from mnemonics_jax.types import Carry, ExemplarSet, Method


def describe(
    context: PhaseContext, carry: Carry, outcome: Outcome
) -> dict[str, Any]:
    """Entry of a phase in `results.json`."""
    counts, num_old = outcome.counts, context.num_old
    base = context.parts.bounds[0][1]

    def by_classifier(measure, among=counts):
        return {name: measure(counts[name]) for name in among}

    return {
        'phase': context.index,
        'num_old': num_old,
        'num_seen': context.num_seen,
        'accuracy': by_classifier(lambda c: metrics.accuracy(c.confusion)),
        'top5_accuracy': by_classifier(
            lambda c: float(c.top5.sum() / c.confusion.sum())
        ),
        'initial_accuracy': by_classifier(
            lambda c: metrics.accuracy(c.confusion, 0, base)
        ),
        'old_accuracy': by_classifier(
            lambda c: metrics.accuracy(c.confusion, 0, num_old),
            counts if num_old else (),
        ),
        'new_accuracy': by_classifier(
            lambda c: metrics.accuracy(c.confusion, num_old)
        ),
        'per_class_accuracy': by_classifier(
            lambda c: metrics.per_class_accuracy(c.confusion)
        ),
        'confusion': by_classifier(lambda c: c.confusion.tolist()),
        'exemplars': {
            'count': int(np.asarray(carry.exemplars.mask).sum()),
            'bytes': stored.num_bytes(
                context.parts.storage, carry.exemplars, carry.encoded
            ),
            **stored.fingerprint(carry.exemplars, carry.encoded),
            **outcome.exemplars,
        },
        'seconds': {
            name: round(seconds, 3) for name, seconds in outcome.seconds.items()
        },
    }


def summarize(
    phases: Sequence[dict[str, Any]], base_classes: int
) -> dict[str, dict[str, float]]:
    """Metrics of a whole run, each by classifier."""
    num_seen = [phase['num_seen'] for phase in phases]
    measures = {
        'average_incremental_accuracy': metrics.average_incremental_accuracy,
        'last_accuracy': lambda c: metrics.accuracy(c[-1]),
        'forgetting': lambda c: metrics.initial_forgetting(c, base_classes),
        'max_forgetting': lambda c: metrics.max_forgetting(c, num_seen),
        'backward_transfer': lambda c: metrics.backward_transfer(c, num_seen),
    }
    confusions = {
        name: [np.asarray(phase['confusion'][name]) for phase in phases]
        for name in phases[0]['confusion']
    }
    return {
        title: {name: measure(c) for name, c in confusions.items()}
        for title, measure in measures.items()
    }


def predictor(method: Method, phases: Sequence[dict[str, Any]]) -> str:
    """The classifier reported for a run: the method's, or 'cnn' without it."""
    name = method.predictor
    return name if name in phases[0]['confusion'] else 'cnn'


def write(
    parts: components.Components,
    phases: Sequence[dict[str, Any]],
    workdir: pathlib.Path,
) -> dict[str, Any]:
    """Writes `results.json` of the phases so far and returns its content."""
    results = {
        'config': config_lib.to_json(parts.config),
        'complete': len(phases) == len(parts.bounds),
        'class_order': [int(k) for k in parts.order],
        'class_names': list(parts.source.class_names),
        'predictor': predictor(parts.method, phases),
        'train_images_per_class': parts.class_sizes().tolist(),
        'skipped_images': list(parts.source.skipped),
        'source': dict(parts.source.about),
        'phases': list(phases),
        **summarize(phases, parts.bounds[0][1]),
    }
    if multihost.is_main():
        with manifest.writing(workdir, [RESULTS]):
            write_atomically(
                workdir / RESULTS, json.dumps(results, indent=1) + '\n'
            )
    return results


def save_arrays(
    context: PhaseContext, carry: Carry, outcome: Outcome, workdir: pathlib.Path
) -> None:
    """Writes the arrays of a phase.

    These are the memory, the new exemplars before they were learned, and the
    arrays of `features.to_arrays`.
    """
    if not multihost.is_main():
        return
    parts, index = context.parts, context.index
    labelled = class_columns(parts, context.num_seen)
    new = slice(context.num_old, context.num_seen)
    with manifest.writing(workdir, phase_files(index)):
        if outcome.selected is not None:
            save_exemplars(parts, index, context.num_seen, carry, workdir)
            save(
                workdir / selected_name(index),
                **in_slots(outcome.selected, carry.exemplars.mask.shape[1]),
                **{name: column[new] for name, column in labelled.items()},
            )
        save(
            workdir / features_name(index),
            **features.to_arrays(outcome.snapshot),
            class_names=labelled['class_names'],
        )


def save_exemplars(
    parts: components.Components,
    index: int,
    num_seen: int,
    carry: Carry,
    workdir: pathlib.Path,
) -> None:
    """Writes the memory after a phase."""
    arrays = encodings.to_arrays(
        carry.exemplars, carry.encoded, num_seen, parts.config.exemplars
    )
    labelled = class_columns(parts, num_seen)
    save(workdir / exemplars_name(index), **arrays, **labelled)


def class_columns(
    parts: components.Components, num_seen: int
) -> dict[str, np.ndarray]:
    """Original labels and names of the classes seen, in output order.

    Labels change when classes are added later, names do not.
    """
    seen = slice(num_seen)
    return {
        'classes': parts.order[seen],
        'class_names': np.array(parts.plan.classes[seen]),
    }


def in_slots(rows: ExemplarSet, num: int) -> dict[str, np.ndarray]:
    """Images and mask of rows, padded with empty slots to `num`."""
    spare = (0, num - rows.mask.shape[1])
    return {
        'images': np.pad(rows.images, ((0, 0), spare, *((0, 0),) * 3)),
        'mask': np.pad(rows.mask, ((0, 0), spare)),
    }


def save(path: pathlib.Path, **arrays: Any) -> None:
    """Writes an .npz file atomically."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix('.tmp.npz')
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)
