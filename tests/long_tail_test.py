"""Classes of very different sizes, in phases of different sizes."""

import json

import jax
import numpy as np
import pytest

from mnemonics_jax import config as config_lib
from mnemonics_jax import exemplars, experiment
from mnemonics_jax.core import parallel
from mnemonics_jax.core.rng import Stage
from mnemonics_jax.core.workdir import selected_name
from mnemonics_jax.exemplars import memory
from mnemonics_jax.experiment import components, exemplar_stages, model_stages
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.train.checkpoint import Checkpointer
from tests import conftest

SIZES = (60, 40, 25, 15, 9, 3)
PHASES = (2, 1, 2, 1)
BOUNDS = ((0, 2), (2, 3), (3, 5), (5, 6))
TOTAL = 60
EACH_TEST = 6


def write_images(path):
    """A pattern of its own for each class, with noise."""
    random = np.random.default_rng(0)
    patterns = random.uniform(60, 195, (len(SIZES), 8, 8, 1))
    arrays = {}
    for split, sizes in (('train', SIZES), ('test', [EACH_TEST] * len(SIZES))):
        labels = np.repeat(np.arange(len(SIZES)), sizes)
        pixels = patterns[labels] + random.normal(0, 30, (len(labels), 8, 8, 1))
        arrays[f'{split}_images'] = pixels.clip(0, 255).astype(np.uint8)
        arrays[f'{split}_labels'] = labels
    np.savez(path, **arrays)


def configure(path, **fields):
    config = conftest.tiny_config.__wrapped__()
    for field in ('num_classes', 'channels', 'image_size'):
        config.data[field] = None
    config.update_from_flattened_dict(
        {
            'data.source': 'arrays',
            'data.dir': str(path),
            'data.feed': 'device',
            'data.flip': False,
            'protocol.base_classes': None,
            'protocol.phases': None,
            'protocol.phase_sizes': PHASES,
            'exemplars.per_class': 0,
            'exemplars.total': TOTAL,
            # All at once.
            'exemplars.query_batch': 128,
            **fields,
        }
    )
    return config


@pytest.fixture(scope='module')
def ran(tmp_path_factory, one_device):
    """A run to its end: where, its components, its end, and what it printed."""
    root = tmp_path_factory.mktemp('tail')
    write_images(root / 'images.npz')
    names = []

    def listen(event, duration, **more):
        del duration
        if event.endswith('backend_compile_duration'):
            names.append(more.get('fun_name'))

    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'mnemonics_jax.train.metric_writer.Recorder.say',
            lambda self, line: said.append(line),
        )
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            parts = experiment.prepare(
                configure(root / 'images.npz'), root / 'run', one_device
            )
            experiment.run(parts, root / 'run')
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
    with Checkpointer(root / 'run', keep=2) as checkpointer:
        carry, _ = checkpointer.restore(3, experiment.first_carry(parts))
    return root, parts, carry, said, names


def test_each_class_holds_what_it_has_up_to_its_share(ran):
    root, parts, _, said, _ = ran
    results = json.loads((root / 'run' / 'results.json').read_text())
    sizes = np.array(SIZES)[parts.order]
    assert parts.bounds == BOUNDS
    for phase, (_, seen) in enumerate(BOUNDS):
        wanted = np.minimum(TOTAL // seen, sizes[:seen])
        # What the phases before have kept only shrinks.
        with np.load(root / 'run' / 'exemplars' / f'phase_{phase}.npz') as file:
            np.testing.assert_array_equal(file['mask'].sum(axis=1), wanted)
            assert not file['images'][~file['mask']].any()
        told = results['phases'][phase]['exemplars']
        assert told['count'] == wanted.sum() <= TOTAL
        assert np.isfinite(told['held_out_loss_after'])
        with np.load(root / 'run' / selected_name(phase)) as file:
            assert len(file['mask']) == PHASES[phase]
    assert '6 classes in 4 phases of 2, 1, 2, 1; ' in said[0]
    assert said[1] == (
        '2 of 6 classes have fewer training images than the 10 exemplars that '
        'a class may have, and keep all: class 5 (3), class 4 (9)'
    )


def test_phases_of_different_sizes_share_the_steps(ran):
    compiled = ran[-1]
    # Of phase 0, and of all others.
    assert compiled.count('jit(train)') <= 3
    assert compiled.count('jit(learn)') == 2
    assert compiled.count('jit(adjust)') == 1
    assert compiled.count('jit(rank_by_herding)') <= 2


def test_the_nearest_mean_is_that_of_the_exemplars_there_are(ran):
    root, parts, carry, _, _ = ran
    arrays = np.load(root / 'images.npz')

    def features(images):
        pixels = np.float32(images) / 255
        found = np.asarray(parts.backbone.embed(carry.variables, pixels)[0])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    held = carry.exemplars
    means = []
    for row, mask in zip(held.images, np.asarray(held.mask), strict=True):
        mean = features(np.asarray(row)[mask]).mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    counts = np.zeros((6, 6), int)
    rank = np.argsort(parts.order)
    for x, label in zip(
        features(arrays['test_images']), arrays['test_labels'], strict=True
    ):
        nearest = np.argmin(np.linalg.norm(np.array(means) - x, axis=1))
        counts[rank[label], nearest] += 1
    results = json.loads((root / 'run' / 'results.json').read_text())
    assert results['phases'][-1]['confusion']['nme'] == counts.tolist()


def test_fine_tuning_shows_each_exemplar_once_an_epoch(ran):
    _, parts, carry, _, _ = ran
    pool = model_stages.make_pool(
        parts.loader.no_examples(), carry.exemplars, 16
    )
    order = np.random.default_rng(0).permutation(pool.train)
    batches = list(pool.batches(order, 0, 0))
    slots = np.concatenate([b['slot'][b['weight'] > 0] for b in batches])
    labels = np.concatenate([b['label'][b['weight'] > 0] for b in batches])
    mask = np.asarray(carry.exemplars.mask)
    assert sorted(slots) == np.flatnonzero(mask).tolist()
    np.testing.assert_array_equal(labels, slots // mask.shape[1])


@pytest.mark.parametrize('share', [0.1, 0.45])
def test_at_most_half_of_a_class_is_held_out(ran, one_device, share):
    root, _, carry, _, _ = ran
    config = configure(
        root / 'images.npz',
        **{
            'method.name': 'bic',
            'method.bic.holdout': share,
            'backbone.head': 'linear',
            'method.imprint': False,
        },
    )
    parts = components.build(config_lib.resolve(config), one_device)
    context = PhaseContext(parts, 3, *BOUNDS[3], None, None)
    held = carry.exemplars
    # As before the phase, and with a class that has a single exemplar.
    mask = held.mask.at[5].set(False).at[4, 1:].set(False)
    held = held.replace(mask=mask)
    pool = model_stages.make_pool(context.examples('train', 5, 6), held, 16)
    pool = model_stages.hold_out(context, pool)
    new = SIZES[parts.order[5]]
    sizes = np.append(np.asarray(held.mask).sum(axis=1)[:5], new)
    most = round(share * (TOTAL // 5))
    found = np.bincount(pool.labels[pool.held_out], minlength=6)
    np.testing.assert_array_equal(found, np.minimum(most, sizes // 2))
    both = np.concatenate([pool.train, pool.held_out])
    np.testing.assert_array_equal(np.sort(both), np.arange(sizes.sum()))


def test_a_class_with_one_exemplar_is_in_one_half_and_teaches_no_other(ran):
    """B has none of class 0: it is not judged by the image in A."""
    _, parts, carry, _, _ = ran
    context = PhaseContext(parts, 3, *BOUNDS[3], None, None)
    slots = carry.exemplars.mask.shape[1]
    held = memory.shrink(carry.exemplars, np.arange(slots) < 4)
    held = held.replace(mask=held.mask.at[0, 1:].set(False))
    halves = memory.halves(held, np.int32(5))
    masks = [np.asarray(half.mask) for half in halves]
    assert [mask[0].sum() for mask in masks] == [1, 0]
    lists = [exemplars.flat_exemplars(mask, (0, 5)) for mask in masks]
    problem = exemplar_stages.exemplar_problem(
        context, carry.variables, Stage.ADJUST, 3
    )
    problem = problem._replace(
        exemplars=parallel.replicate(
            parts.placement, jax.tree.map(lambda *x: np.stack(x), *lists)
        ),
        key=parallel.replicate_key(
            parts.placement, jax.random.split(problem.key)
        ),
    )

    def adjusted(brighter):
        """B after its first step, with an image of A changed."""
        images = np.stack([np.asarray(half.images) for half in halves])
        images[0, brighter, 0] = 1 - images[0, brighter, 0]
        flat = images.reshape(2, -1, *images.shape[3:])
        states = parts.learner.init(parallel.replicate(parts.placement, flat))
        # As if A had had its turn.
        steps = states.step.at[0].add(1)
        states = states.replace(step=parallel.replicate(parts.placement, steps))
        states, metrics = parts.learner.adjust(states, problem, 1)
        assert np.isfinite(float(metrics['outer_loss'][0]))
        return np.asarray(states.pixels[1])

    nothing = adjusted(5)
    np.testing.assert_array_equal(adjusted(0), nothing)
    assert np.any(adjusted(1) != nothing)
