"""PODNet: its numbers, its settings, its start, and a small training."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import config as config_lib
from mnemonics_jax import experiment, losses, methods, prototypes, train
from mnemonics_jax.backbones import heads, make_backbone
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.core.numerics import weighted_mean
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.device_batch import place_rows, to_float
from mnemonics_jax.experiment import components, model_stages
from mnemonics_jax.experiment.context import PhaseContext, in_order
from mnemonics_jax.train import evaluation
from mnemonics_jax.types import ExemplarSet, Outputs, Phase

B, K, D = 6, 7, 4
MAPS = [(3, 4, 2), (2, 2, 5)]
SIGMA = 2.5


def make(**changes):
    settings = {**methods.default_settings()['podnet'], **changes}
    section = {'podnet': types.SimpleNamespace(**settings)}
    return methods.make_method('podnet', section)


def make_outputs(seed):
    rng = np.random.default_rng(seed)
    scores = np.tanh(rng.normal(size=(B, K)))
    features = rng.normal(size=(B, D))
    maps = tuple(rng.normal(size=(B, *shape)) for shape in MAPS)
    outputs = Outputs(SIGMA * scores, scores, features, maps)
    return jax.tree.map(np.float32, outputs)


def run(phase, reference, **changes):
    """Means of the terms and the gradient of their sum in the outputs."""
    labels = np.int32(np.arange(B) % phase[2])
    method = make(**changes)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(outputs):
        phase_now = Phase(*np.int32(phase))
        terms = method.loss(outputs, reference, labels, phase_now)
        means = {name: weighted_mean(*term) for name, term in terms.items()}
        return sum(means.values()), means

    grads, means = gradient(make_outputs(0))
    return means, grads


# NumPy, from the definitions.


def nca(outputs, num_seen):
    logits = outputs.logits.astype(float)
    values = []
    for b in range(B):
        truth = b % num_seen
        in_sum = logits[b, :num_seen].copy()
        in_sum[truth] = in_sum.max()
        values.append(np.log(np.exp(in_sum).sum()) - logits[b, truth])
    return np.mean(values)


def spatial(outputs, reference):
    total = 0
    for pair in zip(outputs.maps, reference.maps, strict=True):
        squares = [stage.astype(float) ** 2 for stage in pair]
        profiles = [
            np.concatenate(
                [s.sum(2).reshape(B, -1), s.sum(1).reshape(B, -1)], axis=1
            )
            for s in squares
        ]
        unit = [p / np.linalg.norm(p, axis=1)[:, None] for p in profiles]
        total += np.linalg.norm(unit[0] - unit[1], axis=1).mean()
    return total / len(outputs.maps)


def flat(outputs, reference):
    f, r = outputs.features.astype(float), reference.features.astype(float)
    lengths = np.linalg.norm(f, axis=1) * np.linalg.norm(r, axis=1)
    return (1 - (f * r).sum(1) / lengths).mean()


@pytest.mark.parametrize('phase', [(1, 3, 5), (2, 5, 6)])
def test_the_loss_is_the_sum_of_its_three_terms(phase):
    _, num_old, num_seen = phase
    outputs, reference = make_outputs(0), make_outputs(1)
    means, _ = run(phase, reference, spatial_weight=1.5, flat_weight=0.7)
    growth = np.sqrt(num_seen / (num_seen - num_old))
    expected = {
        'nca': nca(outputs, num_seen),
        'pod_spatial': 1.5 * growth * spatial(outputs, reference),
        'pod_flat': 0.7 * growth * flat(outputs, reference),
    }
    assert means.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0
        np.testing.assert_allclose(means[name], value, rtol=1e-5)


def test_the_base_phase_distils_nothing():
    reference = jax.tree.map(np.zeros_like, make_outputs(1))
    means, grads = run((0, 0, 4), reference)
    np.testing.assert_allclose(means['nca'], nca(make_outputs(0), 4), rtol=1e-5)
    assert means['pod_spatial'] == means['pod_flat'] == 0
    for grad in jax.tree.leaves((grads.maps, grads.features)):
        np.testing.assert_array_equal(grad, 0)
    assert np.any(grads.logits != 0)


def test_settings_are_the_papers():
    assert methods.default_settings()['podnet'] == {
        'spatial_weight': 3.0,
        'flat_weight': 1.0,
    }
    config = config_lib.default_config()
    config.method.name = 'podnet'
    found = config_lib.resolve(config)
    assert found.backbone.head == 'local_similarity'
    assert found.train.schedule == 'cosine'
    assert found.finetune.to_dict() == {
        'epochs': 20,
        'batch_size': 128,
        'lr': 0.05,
        'momentum': 0.9,
        'scope': 'head',
        'carry': True,
    }
    assert set(methods.heads_of('podnet')) <= set(heads.HEADS)
    method = make()
    assert method.uses_reference
    assert method.predictor == 'finetuned'


def test_the_scale_stays_where_features_can_be_told_apart():
    """The loss of the head on fixed features falls, and so does its gradient.

    With a margin on the true score, and the scale before it held constant, the
    gradient is that of no loss: sigma grew beyond 100, and the loss with it.
    """
    features = jnp.repeat(jnp.eye(4), 5, axis=0)
    features += 0.1 * jax.random.normal(jax.random.key(0), features.shape)
    labels = jnp.repeat(jnp.arange(4), 5)
    head = heads.make_head('local_similarity')

    @jax.value_and_grad
    def loss(params):
        logits, _ = head.apply(params, features)
        return losses.nca(logits, labels, 4).mean()

    def step(params, _):
        value, grads = loss(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), value

    start = head.init(jax.random.key(1), 4, 4)
    end, values = jax.jit(
        lambda params: jax.lax.scan(step, params, length=500)
    )(start)
    assert values[-1] < 0.05 < 1 < values[0]
    assert 1 < end['sigma'] < 20


# A small training.

NUM_CLASSES, SLOTS, SHAPE, SIZE = 6, 4, (8, 8, 1), 16
PHASE = Phase(*np.int32([1, 2, 4]))


@functools.cache
def backbone():
    return make_backbone(
        'convnet_tiny',
        num_classes=NUM_CLASSES,
        image_shape=SHAPE,
        mean=(0.5,),
        std=(0.25,),
        head='local_similarity',
    )


@functools.cache
def previous_model():
    return jax.jit(backbone().init)(jax.random.key(0))


def make_memory():
    """Exemplars of the two old classes: noise on stripes, and on spots."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_CLASSES, SLOTS, *SHAPE))
    images[0, :, ::2] //= 4
    images[1, :, ::2, ::2] //= 4
    mask = np.zeros((NUM_CLASSES, SLOTS), bool)
    mask[:2] = True
    return ExemplarSet(images.astype(np.uint8), mask)


def make_batch():
    """All exemplars, and four images of each of two new classes."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (SIZE, *SHAPE))
    images[8:12, :4] //= 4
    images[12:, :, 4:] //= 4
    return {
        'image': images.astype(np.uint8),
        'label': np.repeat(np.arange(4, dtype=np.int32), 4),
        'index': np.arange(SIZE, dtype=np.int32),
        'slot': np.where(np.arange(SIZE) < 8, np.arange(SIZE), -1).astype(
            np.int32
        ),
        'weight': np.ones(SIZE, np.float32),
    }


def train_model(placement, scope='all', **changes):
    """Trains from the previous model; returns it and each step's metrics."""
    trainer = train.make_trainer(
        backbone(),
        make(**changes),
        train.StepSettings(
            momentum=0.9,
            weight_decay=0.0,
            augmentation=Augmentation(),
            augment_real=True,
            update_stats=True,
            scope=scope,
        ),
        placement,
        with_reference=True,
    )
    previous = parallel.replicate(placement, previous_model())
    inputs = train.StepInputs(
        reference=previous,
        exemplars=place_rows(placement, make_memory().images),
        phase=PHASE,
        head_rows=np.int32([0, 4]),
        lr=np.float32(0.02),
        key=jax.device_put(jax.random.key(0), placement.replicated),
    )
    state, metrics = trainer.init(previous), []
    block = multistep.single(placement, make_batch())
    for _ in range(20):
        state, found = trainer.steps(state, (block, inputs), 1)
        metrics.append({name: value[0] for name, value in found.items()})
    return state.variables, metrics


@jax.jit
def drift(variables):
    """Distances of the exemplars' maps and features to the previous model."""
    memory = make_memory()
    images = to_float(jnp.asarray(memory.images[:2].reshape(-1, *SHAPE)))
    ours, _ = backbone().apply(variables, images, train=True)
    theirs, _ = backbone().apply(previous_model(), images)
    return (
        losses.pod_spatial(ours.maps, theirs.maps).mean(),
        losses.less_forget(ours.features, theirs.features).mean(),
    )


def test_training_learns_and_distils_the_exemplars(one_device):
    distilled, metrics = train_model(one_device)
    totals = [each['loss'] for each in metrics]
    assert np.all(np.isfinite(totals))
    assert totals[-1] < 0.8 * totals[0]
    assert metrics[-1]['nca'] < metrics[0]['nca']
    assert metrics[-1]['accuracy'] > metrics[0]['accuracy']
    old, new = (
        np.asarray(model.params['head']['kernel'])
        for model in (previous_model(), distilled)
    )
    assert np.all(np.any(old[:4] != new[:4], axis=-1)), 'a proxy stood still'
    np.testing.assert_array_equal(old[4:], new[4:])
    assert distilled.params['head']['sigma'] != 1
    free, _ = train_model(one_device, spatial_weight=0.0, flat_weight=0.0)
    for held, drifted in zip(drift(distilled), drift(free), strict=True):
        assert held < 0.5 * drifted, (held, drifted)


def test_in_the_scope_of_the_head_its_rows_alone_are_trained(one_device):
    found, metrics = train_model(one_device, scope='head')
    assert metrics[-1]['nca'] < metrics[0]['nca']
    start = previous_model().params
    jax.tree.map(
        np.testing.assert_array_equal, found.params['trunk'], start['trunk']
    )
    assert found.params['head']['sigma'] == start['head']['sigma']
    moved = found.params['head']['kernel'] != start['head']['kernel']
    assert np.all(np.any(moved[:4], axis=-1))
    assert not np.any(moved[4:])


# The start of a phase.


def build(config, placement, **changes):
    config.method.name = 'podnet'
    config.update_from_flattened_dict(changes)
    return components.build(config_lib.resolve(config), placement)


def rows_of(variables):
    return np.array(variables.params['head']['kernel'])


def test_new_proxies_start_as_centres_with_the_norm_of_old_ones(
    tiny_config, one_device
):
    parts = build(tiny_config, one_device, seed=3)
    before = experiment.first_carry(parts).variables
    kernel = rows_of(before)
    # Without this, new rows would have the right norm by chance.
    kernel[:2] *= 3
    head = {**before.params['head'], 'kernel': jnp.asarray(kernel)}
    before = before.replace(params={**before.params, 'head': head})
    compiled = []
    for index, low, high in [(1, 2, 4), (2, 4, 6)]:
        context = PhaseContext(parts, index, low, high, None, None)
        data = context.examples('train', low, high)
        features = evaluation.features_of(
            parts.evaluator, before, in_order(data, 16)
        )
        centres = prototypes.class_centres(
            features, data.labels, 6, heads.NUM_PROXIES, seed=(3, index, 0)
        )[low:high]
        lengths = np.linalg.norm(centres, axis=-1, keepdims=True)
        expected = kernel.copy()
        norm = np.linalg.norm(kernel[:low], axis=-1).mean()
        expected[low:high] = norm * centres / lengths
        after = model_stages.start_model(context, before, data)
        np.testing.assert_allclose(rows_of(after), expected, atol=1e-5)
        compiled.append(model_stages.imprint._cache_size())
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize(('index', 'imprint'), [(0, True), (1, False)])
def test_nothing_is_imprinted_in_phase_0_or_when_switched_off(
    tiny_config, one_device, index, imprint
):
    parts = build(tiny_config, one_device, **{'method.imprint': imprint})
    before = experiment.first_carry(parts).variables
    context = PhaseContext(parts, index, *parts.bounds[index], None, None)
    data = context.examples('train', *parts.bounds[index])
    assert model_stages.start_model(context, before, data) is before
