"""Objectives beside the bilevel one: by definition, by differences, in runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import bilevel, experiment, prototypes
from mnemonics_jax import config as config_lib
from mnemonics_jax.bilevel import hypergradients
from mnemonics_jax.bilevel.outer import Query
from mnemonics_jax.config.fields import default_config
from mnemonics_jax.core import parallel
from mnemonics_jax.core.multistep import StackedBatches
from mnemonics_jax.data import augment
from mnemonics_jax.exemplars import (
    inner_problem,
    memory,
    objectives,
    steps,
    stored,
)
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    FlatExemplars,
    LearnerContext,
    OldExemplars,
)
from mnemonics_jax.experiment import (
    components,
    exemplar_stages,
    model_stages,
    phase_loop,
)
from mnemonics_jax.experiment import context as context_lib
from mnemonics_jax.train import evaluation
from mnemonics_jax.train.checkpoint import Checkpointer
from mnemonics_jax.train.loop import ResumableLoops
from mnemonics_jax.train.metric_writer import Recorder
from mnemonics_jax.types import ExemplarSet, Phase
from tests import bilevel_test as small

K, SIZE = small.NUM_CLASSES + 1, small.SIZE
# Class 0 is old, 1 and 2 are learned, 3 comes later.
PHASE = Phase(*np.int32([1, 1, 3]))
LABELS = np.int32([1, 1, 1, 2, 2, 2])
MASK = np.array([True, True, True, True, True, False])
SINGLE = ('means', 'prototypes', 'prototypes+means')
WEIGHT = 0.7


def make_settings(objective, **changes):
    settings = small.settings('head', start='redraw')._replace(
        objective=objective,
        means_weight=WEIGHT,
        augmentation=augment.Augmentation(flip=True, brightness=0.3),
    )
    return settings._replace(**changes)


@functools.cache
def arrays(absent=None):
    """Pixels, query and old exemplars, float64; no query of class `absent`."""
    rng = np.random.default_rng(4)
    labels = np.int32([0, 1, 2, 2, 1, 0, 2, 1])
    weights = np.array([1, 1, 0.5, 1, 1, 1, 1, 0], float)
    query = Query(
        rng.uniform(size=(8, SIZE, SIZE, 1)),
        labels,
        np.where(labels == absent, 0, weights),
    )
    images = rng.uniform(size=(K, 2, SIZE, SIZE, 1))
    mask = np.zeros((K, 2), bool)
    mask[0] = True
    pixels = rng.uniform(0.2, 0.8, (len(LABELS), SIZE, SIZE, 1))
    return (
        pixels,
        query,
        ExemplarSet(images * mask[..., None, None, None], mask),
    )


def make_problem(backbone, dtype=jnp.float64, absent=None, memory=True):
    variables = small.variables_of(backbone, dtype)
    _, query, held = arrays(absent)
    as_dtype = functools.partial(
        jax.tree.map, lambda x: x.astype(dtype) if x.dtype == float else x
    )
    old = held.images[0].astype(dtype)
    mean = np.mean(units(backbone, variables, old), axis=0)
    means = np.zeros((K, len(mean)), dtype)
    means[0] = mean
    return ExemplarProblem(
        variables,
        FlatExemplars(LABELS, MASK, np.int32([1, 3])),
        PHASE,
        jax.random.key(5),
        np.int32(2),
        as_dtype(query),
        OldExemplars(as_dtype(held), means) if memory else None,
    )


def units(backbone, variables, images):
    """Unit features of images, NumPy from the trunk on."""
    found = np.asarray(backbone.embed(variables, images)[0])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def class_mean(vectors, labels, kept, label):
    chosen = vectors[(labels == label) & kept]
    return chosen.mean(axis=0) if len(chosen) else None


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def reference(backbone, problem, mirror, pixels):
    """Both losses by loops over classes and images."""
    variables, query = problem.variables, problem.query
    ours = units(backbone, variables, pixels)
    if mirror:
        flipped = units(backbone, variables, pixels[:, :, ::-1])
        ours = np.concatenate([ours, flipped])
    copies = 1 + mirror
    of_images = units(backbone, variables, query.images)
    centres, gaps = {}, []
    for label in (1, 2):
        mean = class_mean(
            ours, np.tile(LABELS, copies), np.tile(MASK, copies), label
        )
        centres[label] = mean
        real = class_mean(of_images, query.labels, query.weights > 0, label)
        if real is not None:
            gaps.append(1 - cosine(mean, real))
    if problem.old is not None:
        centres[0] = problem.old.means[0]
    scale = float(variables.params['head']['sigma'])
    total = count = 0.0
    for found, label, weight in zip(
        of_images, query.labels, query.weights, strict=True
    ):
        if weight > 0 and label in centres:
            logits = {k: scale * cosine(found, m) for k, m in centres.items()}
            log_sum = np.log(sum(np.exp(v) for v in logits.values()))
            total += weight * (log_sum - logits[label])
            count += weight
    return {'means': np.mean(gaps), 'prototypes': total / count}


def expected_loss(objective, terms):
    first, *more = objective.split('+')
    return terms[first] + sum(WEIGHT * terms[name] for name in more)


@pytest.mark.parametrize('objective', SINGLE)
@pytest.mark.parametrize(
    ('absent', 'memory', 'mirror'),
    [(None, True, False), (2, True, True), (0, False, True)],
)
def test_loss_and_gradient_are_those_of_loops_and_differences(
    objective, absent, memory, mirror
):
    """Also where a class is not in the query, or old ones are not kept."""
    backbone = small.make_model('cosine')
    context = LearnerContext(
        backbone, make_settings(objective, mirror=mirror), small.ALONE
    )
    pixels, _, _ = arrays(absent)
    with jax.enable_x64(True):
        problem = make_problem(backbone, absent=absent, memory=memory)
        grads, metrics = jax.jit(
            functools.partial(objectives.pixel_gradient, context)
        )(problem, pixels)
        assert grads.dtype == jnp.float64

        def value(pixels):
            terms = reference(backbone, problem, mirror, pixels)
            return expected_loss(objective, terms)

        np.testing.assert_allclose(
            metrics['outer_loss'], value(pixels), rtol=1e-10
        )
        step = 1e-5
        rng = np.random.default_rng(6)
        for v in rng.normal(size=(3, *pixels.shape)):
            change = value(pixels + step * v) - value(pixels - step * v)
            np.testing.assert_allclose(
                np.vdot(grads, v), change / (2 * step), rtol=1e-6, atol=1e-10
            )
    # Neither padding nor, for means, a class without images to match moves.
    assert not np.any(grads[~MASK])
    assert np.any(grads[:3])
    assert bool(np.any(grads[3:5])) == (objective != 'means' or absent != 2)


def test_unroll_is_the_bilevel_problem_bit_for_bit():
    backbone = small.make_model('cosine')
    context = LearnerContext(backbone, make_settings('unroll'), small.ALONE)
    problem = make_problem(backbone, jnp.float32)
    pixels = arrays()[0].astype(np.float32)

    def by_hand(problem, pixels):
        made = inner_problem.inner_problem(context, problem)
        return bilevel.pixel_gradient(
            made.problem,
            made.params,
            pixels,
            problem.exemplars.labels,
            made.indices,
            problem.query,
        )

    expected = jax.jit(by_hand)(problem, pixels)
    found = gradient('unroll', jnp.float32)
    assert np.any(found[0])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('name', hypergradients.NAMES)
def test_a_hypergradient_is_chosen_by_name(name):
    """Through what inner steps see of the pixels, too."""
    changes = {'inner_augment': True, 'inner_lr': 0.5}
    backbone = small.make_model('cosine')
    context = LearnerContext(
        backbone, make_settings('unroll', **changes), small.ALONE
    )
    pixels = arrays()[0]
    with jax.enable_x64(True):
        problem = make_problem(backbone)

        @jax.jit
        def by_hand(problem, pixels):
            made = inner_problem.inner_problem(context, problem)
            shown, show_vjp = jax.vjp(made.show, pixels)
            grads, metrics = hypergradients.make_hypergradient(name, 2)(
                made.problem,
                made.params,
                shown,
                made.labels,
                made.indices,
                problem.query,
            )
            return show_vjp(grads)[0], metrics

        expected, metrics = by_hand(problem, pixels)
        chosen = {'hypergradient': name, 'hypergradient_terms': 2, **changes}
        found = gradient('unroll', **chosen)
        exact = gradient('unroll', **changes)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-12 * scale)
    for key, value in metrics.items():
        np.testing.assert_allclose(found[1][key], value, rtol=1e-12)
    error = np.abs(found[0] - exact[0]).max() / scale
    assert (error > 1e-3) == (name != 'unroll')


def test_truncation_before_the_first_step_is_none():
    """So is the default, `test_unroll_is_the_bilevel_problem_bit_for_bit`."""
    expected = gradient('unroll', jnp.float32)
    for terms in (3, 10):
        found = gradient(
            'unroll',
            jnp.float32,
            hypergradient='truncated',
            hypergradient_terms=terms,
        )
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def gradient(objective, dtype=jnp.float64, layout=small.ALONE, **changes):
    """Of the small problem, compiled."""
    backbone = small.make_model('cosine')
    context = LearnerContext(
        backbone, make_settings(objective, **changes), layout
    )
    run = jax.jit(functools.partial(objectives.pixel_gradient, context))
    problem = make_problem(backbone, dtype)
    found = run(problem, arrays()[0].astype(dtype))
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize('name', ['unroll', 'neumann'])
def test_a_sum_has_the_sum_of_the_gradients(name):
    with jax.enable_x64(True):
        both, metrics = gradient('unroll+means', hypergradient=name)
        parts = {
            objective: gradient(objective, hypergradient=name)
            for objective in ('unroll', 'means')
        }
    expected = parts['unroll'][0] + WEIGHT * parts['means'][0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(both, expected, rtol=0, atol=1e-12 * scale)
    gap = parts['means'][1]['outer_loss']
    np.testing.assert_allclose(metrics['means_loss'], gap, rtol=1e-12)
    assert set(parts['unroll'][1]) < set(metrics)


@pytest.mark.parametrize('objective', ['prototypes+means', 'unroll+means'])
def test_microbatches_have_the_gradient_of_the_whole(objective):
    changes = {'mirror': True, 'inner_augment': True}
    with jax.enable_x64(True):
        whole, _ = gradient(objective, **changes)
        parts, _ = gradient(objective, microbatch=4, **changes)
    scale = np.abs(whole).max()
    assert scale > 0
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-12 * scale)


def learned(objective, placement, codec=None):
    """Change of the pixels by two steps, through a codec or as they are."""
    start = arrays()[0].astype(np.float32)
    backbone = small.make_model('cosine')
    settings = make_settings(objective, mirror=True, inner_augment=True)
    settings = settings._replace(shown=codec and codec.shown)
    made = steps.make_learner(backbone, settings, placement)
    problem = make_problem(backbone, jnp.float32)
    if codec is not None:
        problem = problem._replace(kept=codec.kept(start))
    query = problem.query
    columns = {
        'image': np.round(query.images * 255).astype(np.uint8),
        'label': np.int32([1, 1, 2, 2, 1, 1, 2, 1]),
        'index': np.arange(8, dtype=np.int32),
        'weight': np.ones(8, np.float32),
    }
    columns = {name: np.stack([x, x[::-1]]) for name, x in columns.items()}
    problem = parallel.replicate(
        placement, problem._replace(key=None, query=None)
    )
    problem = problem._replace(
        key=parallel.replicate_key(placement, jax.random.key(1)),
        query=StackedBatches(
            parallel.shard_batch(placement, columns, placement.stacked),
            None,
            parallel.replicate(placement, np.int32(0)),
        ),
    )
    state = made.init(parallel.share(placement, start))
    state, metrics = made.learn(state, problem, 2)
    assert np.all(np.isfinite(metrics['outer_loss']))
    held = state.pixels.addressable_shards[0].data
    shares = placement.num_devices
    assert len(held) == len(start) // (1 if len(start) % shares else shares)
    return np.asarray(state.pixels) - start


# Two devices hold three of the six exemplars each, four all of them.
@pytest.mark.parametrize('num', [2, 4])
def test_many_devices_move_the_pixels_as_one_does(num, one_device, all_devices):
    """With all that joins a step, in a dispatch of two."""
    many = parallel.make_placement(list(all_devices.mesh.devices.flat)[:num])
    alone, together = (
        learned('prototypes+means', p) for p in (one_device, many)
    )
    scale = np.abs(alone).max()
    assert scale > 1e-3
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4 * scale)


# Exemplars augmented inside.


@pytest.mark.parametrize('scope', ['all', 'head'])
def test_inner_steps_see_augmented_exemplars(scope):
    """Each step a view of its own; with features computed once, all one."""
    backbone = small.make_model('cosine')
    settings = make_settings('unroll', inner_scope=scope, inner_augment=True)
    context = LearnerContext(backbone, settings, small.ALONE)
    pixels = arrays()[0]
    with jax.enable_x64(True):
        problem = make_problem(backbone)
        made = inner_problem.inner_problem(context, problem)
        number, size = settings.inner_steps, len(LABELS)
        views = number if scope == 'all' else 1
        shown = augment.augment(
            jax.random.fold_in(problem.key, 2),
            jnp.tile(pixels, (views, 1, 1, 1)),
            jnp.arange(views * size),
            settings.augmentation,
        ).reshape(views, *pixels.shape)
        assert len(np.unique(shown.round(9), axis=0)) == views
        assert np.any(shown != pixels)
        params = made.params
        for step in range(number):
            params, _ = bilevel.unroll(
                made.problem,
                params,
                bilevel.embed(made.problem, shown[step % views]),
                LABELS,
                np.arange(5)[None],
            )
        expected = made.merge(params)
        found = steps.adapt(context, problem, pixels)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
        found,
        expected,
    )


# Whole stages and runs.


def synthetic(tiny_config, **fields):
    """Phases of synthetic classes, and few steps of much learning."""
    tiny_config.update_from_flattened_dict(
        {
            'protocol.base_classes': 4,
            'protocol.phases': 2,
            'data.num_classes': 8,
            'exemplars.adjust': False,
            **{f'exemplars.{name}': value for name, value in fields.items()},
        }
    )
    return tiny_config


def held_out_nme(context, variables, rows):
    """Accuracy on test images of new classes by the exemplars' means."""
    parts = context.parts
    held = memory.empty(
        parts.source.num_classes,
        rows.mask.shape[1],
        parts.source.image_shape,
        parts.storage.dtype,
    )
    held = exemplar_stages.put_rows(held, rows.images, rows.mask, np.int32(0))
    means = evaluation.means_of(parts.evaluator, variables, held, 8)
    test = context.examples('test', 0, context.num_seen)
    found = context_lib.features_of(context, variables, test)
    scores = prototypes.nme_scores(found, means)[:, : context.num_seen]
    return np.mean(np.argmax(scores, axis=1) == test.labels)


def test_learned_exemplars_classify_held_out_images_better(
    tiny_config, tmp_path, one_device
):
    """By nearest means, from random images, one a class: 10 points and more."""
    config = synthetic(
        tiny_config, init='random', per_class=1, outer_steps=60, query_batch=32
    )
    config.train.update(epochs=20, milestones=(15,))
    config.data.update(train_per_class=40, test_per_class=20)
    config.protocol.update(base_classes=8, phases=0)
    parts = components.build(config_lib.resolve(config), one_device)
    settings = components.learner_settings(parts.config, parts.source)
    carry = experiment.first_carry(parts)
    with Recorder(tmp_path, first_phase=0) as recorder:
        context = context_lib.PhaseContext(
            parts, 0, 0, 8, recorder, ResumableLoops()
        )
        data = context.examples('train', 0, 8)
        variables = model_stages.train_model(
            context, carry, carry.variables, data
        )
        images, mask = exemplar_stages.select_exemplars(
            context, variables, data
        )
        start = stored.store(parts.storage, images, mask)
        before = held_out_nme(context, variables, start)
        for objective in ('means', 'prototypes'):
            made = steps.make_learner(
                parts.backbone,
                settings._replace(objective=objective),
                one_device,
            )
            where = context._replace(parts=parts._replace(learner=made))
            learned, _ = exemplar_stages.learn_exemplars(
                where, variables, images, start, data
            )
            after = held_out_nme(context, variables, learned)
            assert after >= before + 0.1, objective


def test_digits_are_learned_by_an_approximate_hypergradient(
    tiny_config, tmp_path, one_device, monkeypatch
):
    """In all stages that learn, with microbatches and augmentation."""
    monkeypatch.setattr(phase_loop.report, 'write', lambda workdir: 'none')
    of_data = ('source', 'num_classes', 'image_size', 'channels')
    for field in (*of_data, 'train_per_class', 'test_per_class'):
        tiny_config.data[field] = default_config().data[field]
    tiny_config.update_from_flattened_dict(
        {
            'data.subset_classes': 4,
            'protocol.phases': 1,
            'train.epochs': 1,
            'train.milestones': (),
            'exemplars.storage': 'float32',
            'exemplars.inner_steps': 4,
            'exemplars.inner_augment': True,
            'exemplars.microbatch': 8,
            'exemplars.hypergradient': 'cg',
            'exemplars.hypergradient_terms': 2,
        }
    )
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    phases = experiment.run(parts, tmp_path)['phases']
    assert len(phases) == 2
    for phase in phases:
        assert phase['exemplars']['drift_grey_levels'] > 0.1
        assert np.isfinite(phase['exemplars']['held_out_loss_after'])
    assert phases[1]['exemplars']['adjust_drift_grey_levels'] > 0.01


class KillError(Exception):
    """Stands for a process that ends at once."""


def test_a_killed_run_resumes_bit_for_bit_and_phases_share_programs(
    tiny_config, tmp_path, one_device, compiled, monkeypatch
):
    """With old classes' means, which are no part of what is saved."""
    monkeypatch.setattr(phase_loop.report, 'write', lambda workdir: 'none')
    config = synthetic(
        tiny_config,
        objective='prototypes+means',
        inner_augment=True,
        outer_steps=4,
        storage='float32',
    )
    config.train.update(epochs=1, milestones=())
    config.checkpoint.every_steps = 2
    parts = experiment.prepare(config, tmp_path / 'whole', one_device)
    experiment.run(parts, tmp_path / 'whole')
    # In phase 0, and with a memory for all others.
    assert compiled.count('jit(learn)') == 2
    save = Checkpointer.save_within

    def save_and_die(self, position, states):
        save(self, position, states)
        if (position.phase, position.stages.get('learn')) == (2, 2):
            self.wait()
            raise KillError

    experiment.prepare(config, tmp_path / 'killed', one_device)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, 'save_within', save_and_die)
        with pytest.raises(KillError):
            experiment.run(parts, tmp_path / 'killed')
    experiment.run(parts, tmp_path / 'killed')
    whole, killed = (
        np.load(tmp_path / name / 'exemplars' / 'phase_2.npz')
        for name in ('whole', 'killed')
    )
    assert set(whole) == set(killed)
    for name in whole:
        np.testing.assert_array_equal(whole[name], killed[name])
    first = np.load(tmp_path / 'whole' / 'exemplars' / 'selected_2.npz')
    assert np.any(first['images'] != whole['images'][-len(first['images']) :])
