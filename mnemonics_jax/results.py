"""What a run leaves: `results.json` and the exemplars of each phase."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_jax import cluster, components, memory, metrics
from mnemonics_jax import config as config_lib
from mnemonics_jax.progress import write_atomically
from mnemonics_jax.scene import Scene
from mnemonics_jax.types import Carry
from mnemonics_jax.workdir import exemplars_name


def describe(
    scene: Scene, carry: Carry, outcome: dict[str, Any]
) -> dict[str, Any]:
    """A phase's entry in `results.json`."""
    counts, num_old = outcome['counts'], scene.num_old
    base = scene.parts.bounds[0][1]

    def by_classifier(measure, among=counts):
        return {name: measure(counts[name]) for name in among}

    return {
        'phase': scene.index,
        'num_old': num_old,
        'num_seen': scene.num_seen,
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
            'bytes': memory.num_bytes(carry.exemplars),
            **outcome['exemplars'],
        },
        'seconds': {
            name: round(seconds, 3)
            for name, seconds in outcome['seconds'].items()
        },
    }


def summarize(
    phases: Sequence[dict[str, Any]], base_classes: int
) -> dict[str, dict[str, float]]:
    """The measures of a whole run, each by classifier."""
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


def write(
    parts: components.Components,
    phases: Sequence[dict[str, Any]],
    workdir: pathlib.Path,
) -> dict[str, Any]:
    """Writes `results.json` of the phases so far and returns its content."""
    predictor = parts.method.predictor
    if predictor not in phases[0]['confusion']:
        predictor = 'cnn'  # The one that needs no exemplars.
    results = {
        'config': config_lib.to_json(parts.config),
        'complete': len(phases) == len(parts.bounds),
        'class_order': [int(k) for k in parts.order],
        'class_names': list(parts.source.class_names),
        'predictor': predictor,
        'skipped_images': list(parts.source.skipped),
        'phases': list(phases),
        **summarize(phases, parts.bounds[0][1]),
    }
    if cluster.is_main():
        write_atomically(
            workdir / 'results.json', json.dumps(results, indent=1) + '\n'
        )
    return results


def save_exemplars(scene: Scene, carry: Carry, workdir: pathlib.Path) -> None:
    """Writes the memory after a phase to `exemplars/phase_<i>.npz`."""
    if not cluster.is_main():
        return
    path = workdir / exemplars_name(scene.index)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix('.tmp.npz')
    n = scene.num_seen
    # Labels change when classes come into being later, names do not.
    np.savez_compressed(
        draft,
        images=np.asarray(carry.exemplars.images)[:n],
        mask=np.asarray(carry.exemplars.mask)[:n],
        classes=scene.parts.order[:n],
        class_names=np.array(scene.parts.plan.classes[:n]),
    )
    draft.replace(path)
