"""BiC's and WA's work on the head after training, and what is held out."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from mnemonics_jax import bilevel, experiment
from mnemonics_jax import config as config_lib
from mnemonics_jax.backbones import logit_correction, make_backbone
from mnemonics_jax.data import augment
from mnemonics_jax.exemplars import inner_problem
from mnemonics_jax.exemplars.inner_problem import (
    ExemplarProblem,
    FlatExemplars,
    LearnerContext,
    LearnerSettings,
)
from mnemonics_jax.experiment import components, finished, model_stages
from mnemonics_jax.experiment.context import PhaseContext
from mnemonics_jax.methods import bic, wa
from mnemonics_jax.types import HeldOut, Phase

NUM_CLASSES = 7


def held_out(seed, padding=3):
    """Logits biased to the new classes 3 and 4, and padding of nonsense."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), 8)
    logits = rng.normal(size=(40, NUM_CLASSES))
    logits[np.arange(40), labels] += 1.5
    logits[:, 3:5] = 1.7 * logits[:, 3:5] + 1.2
    spare = np.full((padding, NUM_CLASSES), 99.0)
    return HeldOut(
        np.float32(np.concatenate([logits, spare])),
        np.int32(np.concatenate([labels, np.zeros(padding)])),
        np.float32(np.concatenate([np.ones(40), np.zeros(padding)])),
    )


PHASE = Phase(*np.int32([1, 3, 5]))


@pytest.mark.parametrize(('seed', 'ridge'), [(0, 0.0), (1, 0.0), (2, 0.01)])
def test_the_correction_is_the_minimum_that_scipy_finds(seed, ridge):
    data = held_out(seed)

    def objective(pair):
        logits = data.logits[:40, :5].astype(np.float64)
        logits[:, 3:] = pair[0] * logits[:, 3:] + pair[1]
        top = logits.max(axis=1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        losses = norm - logits[np.arange(40), data.labels[:40]]
        pull = (pair[0] - 1) ** 2 + pair[1] ** 2
        return losses.mean() + ridge * pull

    expected = optimize.minimize(objective, [1.0, 0.0], tol=1e-10).x
    found = jax.jit(bic.fit_correction)(data, PHASE, ridge)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert objective(np.array(found)) < objective(np.array([1.0, 0.0]))


def test_the_correction_of_a_separable_set_is_finite_and_separates():
    """There is no minimum: the steps must end without NaN or infinity."""
    labels = np.arange(5)
    logits = 8 * np.eye(5, NUM_CLASSES)
    data = HeldOut(np.float32(logits), np.int32(labels), np.ones(5, np.float32))
    pair = np.array(jax.jit(bic.fit_correction)(data, PHASE, 0.0))
    assert np.isfinite(pair).all()
    logits[:, 3:5] = pair[0] * logits[:, 3:5] + pair[1]
    np.testing.assert_array_equal(logits[:, :5].argmax(axis=1), labels)
    nothing = data._replace(weights=np.zeros(5, np.float32))
    found = jax.jit(bic.fit_correction)(nothing, PHASE, 0.0)
    np.testing.assert_array_equal(found, [1, 0])


def test_the_correction_keeps_its_dtype_where_jax_has_float64():
    expected = jax.jit(bic.fit_correction)(held_out(0), PHASE, 0.0)
    with jax.enable_x64(True):
        found = jax.jit(bic.fit_correction)(held_out(0), PHASE, 0.0)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_papers_objective_is_the_default():
    """A ridge would pull the correction that few images ask for to none."""
    assert config_lib.default_config().method.bic.ridge == 0


def test_the_correction_is_the_new_classes_alone_and_stays_with_them():
    settings = config_lib.default_config().method.bic
    correct = jax.jit(bic.make(settings).end_phase)
    head = {
        'kernel': jnp.ones((NUM_CLASSES, 4)),
        'scale': jnp.array([1.0, 0.5, 0.7, 1, 1, 1, 1]),
        'shift': jnp.array([0.0, 0.1, -0.2, 0, 0, 0, 0]),
    }
    found = correct(head, held_out(0), PHASE)
    for name in ('scale', 'shift'):
        np.testing.assert_array_equal(found[name][:3], head[name][:3])
        np.testing.assert_array_equal(found[name][5:], head[name][5:])
        assert found[name][3] == found[name][4] != head[name][3]
    np.testing.assert_array_equal(found['kernel'], head['kernel'])


def test_a_separable_held_out_set_gives_finite_scalars():
    data = held_out(0)
    logits = 50 * np.eye(NUM_CLASSES, dtype=np.float32)[data.labels]
    found = bic.fit_correction(data._replace(logits=logits), PHASE, 0.01)
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found, [1, 0], atol=1e-3)


def test_weight_aligning_equalises_mean_norms():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(NUM_CLASSES, 6)).astype(np.float32)
    bias = rng.normal(size=NUM_CLASSES).astype(np.float32)
    found = wa.align({'kernel': kernel, 'bias': bias}, None, PHASE)
    norms = np.linalg.norm(kernel, axis=1)
    expected = kernel.copy()
    expected[3:5] *= norms[:3].mean() / norms[3:5].mean()
    np.testing.assert_allclose(found['kernel'], expected, rtol=1e-6)
    np.testing.assert_array_equal(found['bias'], bias)


def small_model():
    return make_backbone(
        'convnet_tiny',
        num_classes=4,
        image_shape=(4, 4, 1),
        mean=(0.0,),
        std=(1.0,),
        head='linear',
    )


def test_corrected_logits_and_frozen_corrections():
    plain = small_model()
    model = logit_correction.wrap(plain)
    head = model.init(jax.random.key(0)).params['head']
    features = jax.random.normal(jax.random.key(1), (3, 16))
    expected, scores = plain.classify(head, features)
    found, same = model.classify(head, features)
    np.testing.assert_array_equal(found, expected)
    head = {**head, 'scale': jnp.arange(4.0), 'shift': jnp.arange(4.0) - 2}
    found, same = model.classify(head, features)
    expected = np.arange(4) * np.array(expected) + np.arange(4) - 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(same, scores)
    updates = logit_correction.mask_updates(jax.tree.map(jnp.ones_like, head))
    assert not np.any(updates['scale'])
    assert not np.any(updates['shift'])
    assert np.all(updates['kernel'] == 1)


def test_inner_steps_leave_the_correction_alone():
    """They train all else as a loop of plain gradient descent does."""
    model = logit_correction.wrap(small_model())
    variables = model.init(jax.random.key(0))
    correction = {'scale': jnp.arange(4.0) + 1, 'shift': jnp.arange(4.0) - 2}
    head = {**variables.params['head'], **correction}
    variables = variables.replace(params={**variables.params, 'head': head})
    pixels = jax.random.uniform(jax.random.key(1), (6, 4, 4, 1))
    labels = jnp.array([0, 1, 2, 3, 0, 1])

    def loss(params):
        outputs, _ = model.apply(variables.replace(params=params), pixels)
        logs = jax.nn.log_softmax(outputs.logits)
        return -jnp.mean(logs[jnp.arange(6), labels])

    expected = variables.params
    for _ in range(3):
        grads = jax.grad(loss)(expected)
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, expected, grads)
        expected = {**expected, 'head': {**expected['head'], **correction}}

    settings = LearnerSettings(
        inner_steps=3,
        inner_lr=0.1,
        inner_batch=0,
        inner_scope='all',
        inner_start='current',
        outer_tx=optax.sgd(1.0),
        adjust_tx=optax.sgd(1.0),
        query_batch=1,
        query_augmentation=augment.Augmentation(),
    )
    problem = ExemplarProblem(
        variables,
        FlatExemplars(labels, jnp.ones(6, bool), jnp.array([0, 4])),
        Phase(*np.int32([1, 2, 4])),
        jax.random.key(2),
        jnp.int32(1),
    )
    setup = inner_problem.inner_problem(
        LearnerContext(model, settings, bilevel.Layout()), problem
    )
    found, _ = bilevel.unroll(
        setup.problem, setup.params, pixels, labels, setup.indices
    )
    for name in ('scale', 'shift'):
        np.testing.assert_array_equal(found['head'][name], correction[name])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        found,
        expected,
    )


@pytest.fixture(scope='module')
def parts(one_device):
    from tests import conftest

    config = conftest.tiny_config.__wrapped__()
    config.method.name = 'bic'
    config.exemplars.per_class = 10
    return components.build(config_lib.resolve(config), one_device)


def test_as_many_of_each_class_are_held_out(parts):
    carry = experiment.first_carry(parts)
    mask = np.zeros((6, 10), bool)
    mask[:2, :10] = True
    held = carry.exemplars.replace(mask=jnp.asarray(mask))
    context = PhaseContext(parts, 1, 2, 4, None, None)
    data = context.examples('train', 2, 4)
    assert sorted(data.labels) == [2] * 12 + [3] * 12
    whole = model_stages.make_pool(data, held, 16)
    pool = model_stages.hold_out(context, whole)
    assert parts.held_out_per_class(1) == 1
    counts = collections.Counter(pool.labels[pool.held_out].tolist())
    assert counts == {0: 1, 1: 1, 2: 1, 3: 1}
    together = np.sort(np.concatenate([pool.train, pool.held_out]))
    np.testing.assert_array_equal(together, np.arange(44))
    again = model_stages.hold_out(context, whole)
    np.testing.assert_array_equal(again.held_out, pool.held_out)


def test_bic_needs_exemplars_to_hold_out(tiny_config, one_device):
    tiny_config.method.name = 'bic'
    tiny_config.exemplars.per_class = 1
    tiny_config.exemplars.adjust = False
    config = config_lib.resolve(tiny_config)
    with pytest.raises(ValueError, match=r'method\.name=bic.*at least 2'):
        components.build(config, one_device)


@pytest.mark.parametrize('name', ['bic', 'wa', 'joint'])
def test_whole_runs(name, tiny_config, tmp_path, one_device):
    tiny_config.method.name = name
    tiny_config.evaluate.oracle = True
    tiny_config.exemplars.adjust = False
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    reads = []

    def spy(split, positions):
        labels = parts.source.labels[split][positions]
        reads.append((split, len(set(labels.tolist()))))
        return parts.source.read(split, positions)

    source = parts.source._replace(read=spy)
    loader = parts.loader._replace(source=source)
    watched = parts._replace(source=source, loader=loader)
    results = experiment.run(watched, tmp_path)
    assert set(results['last_accuracy']) == {
        'cnn',
        'nme',
        'finetuned',
        'oracle',
    }
    for phase in results['phases']:
        assert all(0 <= v <= 1 for v in phase['accuracy'].values())
        for head, top5 in phase['top5_accuracy'].items():
            assert top5 >= phase['accuracy'][head]
    # The oracle and joint training read old classes; nothing else does.
    counts = collections.Counter(n for split, n in reads if split == 'train')
    expected = {2: 3 + 1, 4: 1, 6: 1}
    if name == 'joint':
        expected = {2: 3 + 2, 4: 2, 6: 2}
    assert counts == expected


def test_without_exemplars_the_network_alone_answers(
    tiny_config, tmp_path, one_device
):
    tiny_config.report = True
    tiny_config.method.name = 'finetune'
    tiny_config.exemplars.strategy = 'none'
    tiny_config.exemplars.adjust = False
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    results = experiment.run(parts, tmp_path)
    assert set(results['last_accuracy']) == {'cnn'}
    assert [p['exemplars']['count'] for p in results['phases']] == [0, 0, 0]
    assert results['predictor'] == 'cnn'
    assert (tmp_path / 'report.html').exists()
    # What it leaves says so, too.
    assert not (tmp_path / 'exemplars').exists()
    with np.load(tmp_path / 'features' / 'phase_2.npz') as found:
        assert not found['mask'].any()
        assert found['means'].shape[0] == 6
    assert 'border' not in results['phases'][-1]['exemplars']
    end = finished.restore_phase(tmp_path, -1)
    assert (end.classifiers, end.predictor) == (('cnn',), 'cnn')
