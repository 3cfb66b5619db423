"""Work directories as runs leave them, made up."""

import json
import pathlib

import numpy as np

NAMES = ('cnn', 'nme', 'finetuned')


def named(*values):
    return dict(zip(NAMES, values, strict=True))


def make_phase(index, num_old, num_seen, right, rng):
    """A phase with `right` of 10 images a class right."""
    counts = np.zeros((num_seen, num_seen), int)
    for row in counts:
        np.add.at(row, rng.integers(0, num_seen, 10 - right), 1)
    counts[np.diag_indices(num_seen)] += right
    accuracy = float(np.trace(counts) / counts.sum())
    split = {
        'new_accuracy': named(0.5, 0.25, 0.75),
        'old_accuracy': named(0.625, 0.375, 0.875) if num_old else {},
    }
    return {
        'phase': index,
        'num_old': num_old,
        'num_seen': num_seen,
        'accuracy': named(accuracy, 0.5, 0.25),
        'top5_accuracy': named(0.9876, 0.75, 0.7),
        **split,
        'confusion': named(*[counts.tolist()] * 3),
        'exemplars': {
            'count': 3 * num_seen,
            'bytes': 48 * num_seen,
            'drift_grey_levels': 9.84,
            'held_out_loss_before': 0.412,
            'held_out_loss_after': 0.333,
            'border': {'exemplars': 1.5, 'images': 3.0},
        },
        'seconds': {'train': 10.0, 'learn': 2.3, 'total': 12.3},
    }


def make_results(seen=(2, 4, 6), total=None, strategy='mnemonics'):
    """Phases that end with so many classes seen, of `total` in all."""
    rng = np.random.default_rng(0)
    total = total or seen[-1]
    names = ['zero', '<b>&', 'two', '$x$', 'four', 'five'][:total]
    names += [f'class {i}' for i in range(len(names), total)]
    order = [5, 0, 3, 4, 2, 1] if total == 6 else list(range(total))
    phases = [
        make_phase(i, old, new, max(4, 9 - i), rng)
        for i, (old, new) in enumerate(zip((0, *seen), seen, strict=False))
    ]
    if strategy != 'mnemonics':
        for phase in phases:
            for name in ('held_out_loss_before', 'held_out_loss_after'):
                del phase['exemplars'][name]
    return {
        'config': make_config(seen, strategy),
        'complete': seen[-1] == total,
        'class_order': order,
        'class_names': names,
        'predictor': 'cnn',
        'skipped_images': [],
        'phases': phases,
        'average_incremental_accuracy': named(0.9016, 0.5, 0.25),
        'last_accuracy': named(0.75, 0.5, 0.25),
        'forgetting': named(0.1234, 0.0, -0.05),
        'max_forgetting': named(0.0777, 0.01, 0.02),
        'backward_transfer': named(-0.0765, -0.01, 0.02),
    }


def make_config(seen, strategy):
    return {
        'seed': 7,
        'data': {'source': '<i>&"', 'name': None, 'pad': None},
        'backbone': {'name': 'convnet'},
        'method': {'name': 'lucir', 'imprint': True},
        'protocol': {
            'base_classes': seen[0],
            'phases': len(seen) - 1,
            'class_order_seed': 1993,
            'class_order_file': None,
        },
        'exemplars': {
            'strategy': strategy,
            'per_class': 3,
            'total': 0,
            'storage': 'uint8',
        },
    }


def make_records(num_phases=3):
    """Four records of each of three stages in each phase."""
    return [
        {'global_step': 8 * phase + i, 'phase': phase, **record}
        for phase in range(num_phases)
        for i in range(4)
        for record in (
            {'stage': 'train', 'epoch': i, 'loss': 2.0 - i},
            {
                'stage': 'learn',
                'step': 5 * i,
                'outer_loss': 1.0,
                'inner_loss': 0.5,
            },
            {'stage': 'other', 'value': 1},
        )
    ]


def fill(workdir, results=None, shape=(4, 4, 1), slots=3, width=5):
    """Writes all that a run writes; learning adds 4 grey levels to each pixel.

    Args:
        workdir: made.
        results: content of `results.json`.
        shape: of an image.
        slots: exemplars a class.
        width: of a feature.
    """
    workdir = pathlib.Path(workdir)
    results = results or make_results()
    for folder in ('exemplars', 'features'):
        (workdir / folder).mkdir(parents=True)
    (workdir / 'results.json').write_text(json.dumps(results))
    phases, order = results['phases'], results['class_order']
    num = len(phases)
    lines = [json.dumps(record) + '\n' for record in make_records(num)]
    (workdir / 'metrics.jsonl').write_text(''.join(lines))
    setup = {
        'config': results['config'],
        'plan': {
            'classes': [results['class_names'][k] for k in order],
            'bounds': [[p['num_old'], p['num_seen']] for p in phases],
            'image_shape': list(shape),
            'mean': [0.5],
            'std': [0.5],
        },
        'versions': {'jax': '1.2.3'},
        'commit': None,
        'started': 'now',
        'starts': [{'time': 'now', 'resumed': None, 'command': 'run it'}],
    }
    (workdir / 'config.json').write_text(json.dumps(setup))
    rng = np.random.default_rng(1)
    names = [results['class_names'][k] for k in results['class_order']]
    held = np.zeros((0, slots, *shape), np.uint8)
    for phase in results['phases']:
        new = phase['num_seen'] - phase['num_old']
        images = rng.integers(0, 200, (new, slots, *shape), np.uint8)
        mask = np.ones((new, slots), bool)
        save(workdir, f'exemplars/selected_{phase["phase"]}', images, mask)
        held = np.concatenate([held, images + 4])
        mask = np.ones((len(held), slots), bool)
        save(workdir, f'exemplars/phase_{phase["phase"]}', held, mask)
        save_features(workdir, phase, names, slots, width, rng)
    return workdir


def save(workdir, name, images, mask):
    np.savez_compressed(workdir / f'{name}.npz', images=images, mask=mask)


def save_features(workdir, phase, names, slots, width, rng):
    num = phase['num_seen']
    means = unit(rng.normal(size=(num, width)))
    labels = np.repeat(np.arange(num), 8).astype(np.int32)
    noise = 0.3 * rng.normal(size=(len(labels), width))
    near = 0.3 * rng.normal(size=(num, slots, width))
    np.savez_compressed(
        workdir / 'features' / f'phase_{phase["phase"]}.npz',
        features=unit(means[labels] + noise).astype(np.float16),
        labels=labels,
        means=means.astype(np.float32),
        exemplars=unit(means[:, None] + near).astype(np.float16),
        mask=np.ones((num, slots), bool),
        class_names=np.array(names[:num]),
    )


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
