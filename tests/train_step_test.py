"""Tests of mnemonics_jax.train."""

import functools
import math
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import config_dict

from mnemonics_jax import train
from mnemonics_jax.backbones import conv, heads
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.data import augment
from mnemonics_jax.data.device_batch import (
    fill_exemplars,
    place_rows,
    to_rows,
)
from mnemonics_jax.methods import finetune
from mnemonics_jax.train import step
from mnemonics_jax.types import (
    Backbone,
    ExemplarSet,
    Method,
    Phase,
    Variables,
)

NUM_CLASSES = 6
NUM_SLOTS = 3
SHAPE = (2, 2, 2)
SIZE = 8  # Of a batch: one example a device.
SETTINGS = train.StepSettings(
    momentum=0.9,
    weight_decay=0.05,
    augmentation=augment.Augmentation(),
    augment_real=True,
    update_stats=True,
)
PLAIN = SETTINGS._replace(momentum=0.0, weight_decay=0.0)


def tiny_backbone(num_features=5):
    """One matrix and the cosine head.

    Its statistics tell how it was called: evaluation adds `shift` to the
    features, training does not, and adds 1 to `shift`.
    """
    head = heads.make_head('cosine')

    def init(key):
        keys = jax.random.split(key, 3)
        size = math.prod(SHAPE)
        trunk = {
            'kernel': jax.random.normal(keys[0], (size, num_features)),
            'bias': jax.random.normal(keys[1], (num_features,)),
        }
        return Variables(
            params={
                'trunk': trunk,
                'head': head.init(keys[2], NUM_CLASSES, num_features),
            },
            batch_stats={'shift': jnp.linspace(0.5, 1, num_features)},
        )

    def embed(variables, images, *, train=False, mask=None):
        del mask
        trunk, stats = variables.params['trunk'], variables.batch_stats
        features = images.reshape(len(images), -1) @ trunk['kernel']
        features += trunk['bias']
        if train:
            return features, (), {'shift': stats['shift'] + 1}
        return features + stats['shift'], (), stats

    return Backbone(init, embed, head.apply)


@functools.cache
def tiny_variables(seed=0):
    return jax.device_get(tiny_backbone().init(jax.random.key(seed)))


def pull_loss(outputs, ref_outputs, labels, phase):
    """Cross entropy, and old examples' distance to the reference."""
    seen = jnp.arange(NUM_CLASSES) < phase.num_seen
    logits = jnp.where(seen, outputs.logits, -jnp.inf)
    chosen = labels[:, None] == jnp.arange(NUM_CLASSES)
    log_p = jnp.where(chosen, jax.nn.log_softmax(logits), 0).sum(1)
    pull = jnp.sum((outputs.features - ref_outputs.features) ** 2, axis=1)
    is_old = (labels < phase.num_old).astype(jnp.float32)
    return {
        'cross_entropy': (-log_p, jnp.ones_like(log_p)),
        'pull': (pull, is_old),
    }


PULL = Method(loss=pull_loss, uses_reference=True, predictor='cnn')


def make_images(size=SIZE, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, *shape), 'uint8')


def make_batch(labels, *, weights=None, seed=0, shape=SHAPE, slots=None):
    """A host batch with random images."""
    size = len(labels)
    return {
        'image': make_images(size, shape, seed),
        'label': np.int32(labels),
        'index': np.arange(size, dtype=np.int32),
        'slot': np.full(size, -1, np.int32) if slots is None else slots,
        'weight': np.ones(size, np.float32) if weights is None else weights,
    }


def make_memory(dtype='uint8', shape=SHAPE):
    pixels = make_images(NUM_CLASSES * NUM_SLOTS, shape, seed=9)
    if dtype == 'float32':
        pixels = pixels.astype(np.float32) / np.float32(300)
    mask = np.random.default_rng(2).random((NUM_CLASSES, NUM_SLOTS)) < 0.6
    return ExemplarSet(pixels.reshape(*mask.shape, *shape), mask)


def make_inputs(placement, **changes):
    """Inputs of phase 1, as `model_stages.run_epochs` makes them."""
    values = {
        'reference': tiny_variables(1),
        'exemplars': make_memory(),
        'phase': (1, 2, 4),
        'head_rows': (2, 4),
        'lr': 0.5,
        **changes,
    }
    return train.StepInputs(
        reference=parallel.replicate(placement, values['reference']),
        exemplars=place_rows(placement, values['exemplars'].images),
        phase=Phase(*np.int32(values['phase'])),
        head_rows=np.int32(values['head_rows']),
        lr=np.float32(values['lr']),
        key=jax.device_put(
            jax.random.key(values.get('seed', 0)), placement.replicated
        ),
    )


class Run:
    """A trainer and its state, fed with host arrays."""

    def __init__(self, trainer, placement, variables):
        self.trainer, self.placement = trainer, placement
        self.state = trainer.init(parallel.replicate(placement, variables))

    def step(self, batch, inputs):
        stacked = multistep.single(self.placement, batch)
        self.state, metrics = self.trainer.steps(
            self.state, (stacked, inputs), 1
        )
        return {name: value[0] for name, value in metrics.items()}

    @property
    def variables(self):
        return jax.device_get(self.state.variables)

    @property
    def momentum(self):
        """The optimiser's buffers, by parameter: with PLAIN, the gradients."""
        buffers = jax.tree.leaves(self.state.opt_state)
        params = self.state.variables.params
        return jax.device_get(
            jax.tree.unflatten(jax.tree.structure(params), buffers)
        )


@functools.cache
def tiny_trainer(placement, settings=SETTINGS, with_reference=True):
    return train.make_trainer(
        tiny_backbone(),
        PULL,
        settings,
        placement,
        with_reference=with_reference,
    )


def tiny_run(placement, settings=SETTINGS, with_reference=True):
    trainer = tiny_trainer(placement, settings, with_reference)
    return Run(trainer, placement, tiny_variables())


class Reference(NamedTuple):
    """Loss and gradients of the tiny model under `pull_loss`."""

    loss: dict[str, float]
    grads: dict[str, np.ndarray]


def flat_params(params):
    """Parameters of the tiny model as float64, by name."""
    tree = {
        **params['trunk'],
        **{f'head_{k}': v for k, v in params['head'].items()},
    }
    return {name: np.asarray(value, np.float64) for name, value in tree.items()}


def through_unit(vectors, grads):
    """Gradient by vectors, for the gradient by vectors / norms."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / norms
    return (grads - unit * (unit * grads).sum(1, keepdims=True)) / norms


def by_numpy(params, batch, ref_features, num_old, num_seen):
    """The loss and its gradients, derived by hand."""
    x = batch['image'].reshape(len(batch['image']), -1) / 255
    labels, weights = batch['label'], batch['weight'].astype(np.float64)
    features = x @ params['kernel'] + params['bias']
    rows, sigma = params['head_kernel'], params['head_sigma']
    unit_features = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = unit_features @ unit_rows.T
    p = np.exp(sigma * scores) * (np.arange(NUM_CLASSES) < num_seen)
    p /= p.sum(1, keepdims=True)
    everywhere = weights / weights.sum()
    old = weights * (labels < num_old)
    old /= max(old.sum(), 1)
    delta = features - ref_features
    loss = {
        'cross_entropy': -np.log(p[np.arange(len(x)), labels]) @ everywhere,
        'pull': (delta**2).sum(1) @ old,
    }
    d_logits = (p - np.eye(NUM_CLASSES)[labels]) * everywhere[:, None]
    d_features = through_unit(features, sigma * d_logits @ unit_rows)
    d_features += 2 * delta * old[:, None]
    grads = {
        'kernel': x.T @ d_features,
        'bias': d_features.sum(0),
        'head_kernel': through_unit(rows, sigma * d_logits.T @ unit_features),
        'head_sigma': (d_logits * scores).sum(),
    }
    return Reference({**loss, 'loss': sum(loss.values())}, grads)


def features_by_numpy(variables, images):
    """What the tiny model gives when it is not trained."""
    params = flat_params(variables.params)
    x = images.reshape(len(images), -1) / 255
    shift = np.asarray(variables.batch_stats['shift'], np.float64)
    return x @ params['kernel'] + params['bias'] + shift


BATCHES = (
    make_batch([0, 1, 2, 3, 3, 2, 1, 0], seed=0),
    make_batch([2, 2, 2, 3, 3, 3, 3, 3], seed=1),
    make_batch(
        [0, 3, 1, 2, 2, 0, 0, 0],
        seed=2,
        weights=np.float32([1, 1, 1, 1, 1, 0, 0, 0]),
    ),
    make_batch([1, 1, 2, 3, 0, 2, 1, 3], seed=3),
    make_batch([3, 2, 1, 0, 3, 2, 1, 0], seed=4),
)


def test_steps_are_sgd_as_pytorch_defines_it(one_device):
    run = tiny_run(one_device)
    params = flat_params(tiny_variables().params)
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    # PyTorch's buffer holds no learning rate: a lower one acts on all of it.
    for batch, lr in zip(BATCHES, (0.5, 0.5, 0.05, 0.05, 0.2), strict=True):
        metrics = run.step(batch, make_inputs(one_device, lr=lr))
        ref_features = features_by_numpy(tiny_variables(1), batch['image'])
        loss, grads = by_numpy(params, batch, ref_features, 2, 4)
        for name, value in loss.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
        for name, value in params.items():
            velocity[name] = 0.9 * velocity[name] + grads[name] + 0.05 * value
            update = lr * velocity[name]
            if name == 'head_kernel':
                update[[0, 1, 4, 5]] = 0
            params[name] = value - update
        found = flat_params(run.variables.params)
        for name, value in params.items():
            np.testing.assert_allclose(
                found[name], value, rtol=2e-5, atol=2e-6, err_msg=name
            )
    assert int(run.state.step) == len(BATCHES)


def test_rows_outside_head_rows_do_not_move_at_all(one_device):
    run = tiny_run(one_device)
    start = tiny_variables().params
    run.step(BATCHES[0], make_inputs(one_device, head_rows=(0, 4)))
    first = run.variables.params
    moved = np.any(first['head']['kernel'] != start['head']['kernel'], axis=1)
    np.testing.assert_array_equal(moved, np.arange(NUM_CLASSES) < 4)
    # The old rows have momentum, weight decay and gradients of their own now.
    assert np.all(run.momentum['head']['kernel'][:4] != 0)
    for batch in BATCHES[1:4]:
        run.step(batch, make_inputs(one_device, head_rows=(2, 4)))
    last = run.variables.params
    rows = first['head']['kernel'], last['head']['kernel']
    for frozen in (slice(0, 2), slice(4, 6)):
        np.testing.assert_array_equal(rows[0][frozen], rows[1][frozen])
    assert np.all(rows[0][2:4] != rows[1][2:4])
    assert first['head']['sigma'] != last['head']['sigma']
    assert np.all(first['trunk']['kernel'] != last['trunk']['kernel'])


def test_padding_changes_nothing(one_device):
    weights = np.float32([1, 1, 1, 1, 1, 0, 0, 0])
    batch = make_batch([0, 3, 1, 2, 2, 0, 0, 0], weights=weights)
    other = {name: np.copy(value) for name, value in batch.items()}
    other['image'][5:] = 255 - other['image'][5:]
    other['label'][5:] = [3, 1, 5]
    other['index'][5:] = [1000, 7, 3]
    other['slot'][5:] = [4, 0, -1]
    outcomes = []
    for given in (batch, other):
        run = tiny_run(one_device)
        metrics = run.step(given, make_inputs(one_device))
        outcomes.append((run.variables, metrics))
    jax.tree.map(np.testing.assert_array_equal, *outcomes)
    # And the real examples do count.
    other['label'][4] = 3
    run = tiny_run(one_device)
    metrics = run.step(other, make_inputs(one_device))
    assert metrics['loss'] != outcomes[0][1]['loss']


def test_a_batch_of_padding_alone_has_no_gradient(one_device):
    run = tiny_run(one_device)
    batch = make_batch([0] * SIZE, weights=np.zeros(SIZE, np.float32))
    metrics = run.step(batch, make_inputs(one_device))
    assert all(value == 0 for value in metrics.values())
    # Weight decay is all that is left.
    jax.tree.map(
        lambda v, p: np.testing.assert_allclose(v, 0.05 * p, rtol=1e-6),
        run.momentum,
        tiny_variables().params,
    )


@pytest.mark.parametrize('with_reference', [False, True])
def test_the_reference_is_the_previous_model_in_evaluation(
    one_device, with_reference
):
    run = tiny_run(one_device, with_reference=with_reference)
    batch = BATCHES[0]
    metrics = run.step(batch, make_inputs(one_device))
    ref_features = np.zeros(5)
    if with_reference:
        ref_features = features_by_numpy(tiny_variables(1), batch['image'])
    params = flat_params(tiny_variables().params)
    loss, _ = by_numpy(params, batch, ref_features, 2, 4)
    np.testing.assert_allclose(metrics['pull'], loss['pull'], rtol=1e-5)


def test_without_reference_the_reference_is_not_read(one_device):
    run = tiny_run(one_device, with_reference=False)
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), tiny_variables())
    metrics = run.step(BATCHES[0], make_inputs(one_device, reference=broken))
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize('update_stats', [False, True])
def test_update_stats_says_whether_statistics_are_used_and_moved(
    one_device, update_stats
):
    settings = SETTINGS._replace(update_stats=update_stats)
    run = tiny_run(one_device, settings)
    start = tiny_variables()
    metrics = run.step(BATCHES[0], make_inputs(one_device))
    moved = run.variables.batch_stats['shift'] - start.batch_stats['shift']
    np.testing.assert_array_equal(moved, np.full(5, float(update_stats)))
    features = features_by_numpy(start, BATCHES[0]['image'])
    if update_stats:
        features -= start.batch_stats['shift']
    reference = features_by_numpy(tiny_variables(1), BATCHES[0]['image'])
    pull = ((features - reference) ** 2).sum(1)[BATCHES[0]['label'] < 2].mean()
    np.testing.assert_allclose(metrics['pull'], pull, rtol=1e-5)


def test_accuracy_is_over_the_classes_seen_and_real_examples(one_device):
    run = tiny_run(one_device)
    batch = BATCHES[2]
    metrics = run.step(batch, make_inputs(one_device, phase=(1, 2, 3)))
    params = flat_params(tiny_variables().params)
    x = batch['image'].reshape(SIZE, -1) / 255
    features = x @ params['kernel'] + params['bias']
    rows = params['head_kernel']
    cosines = features @ (rows / np.linalg.norm(rows, axis=1)[:, None]).T
    everyone, seen = cosines.argmax(1), cosines[:, :3].argmax(1)
    assert not np.array_equal(everyone, seen)
    hits = (seen == batch['label'])[:5]
    np.testing.assert_allclose(metrics['accuracy'], hits.mean(), rtol=1e-6)


def test_reduce_terms_weighs_each_term_on_its_own():
    terms = {
        'all': (jnp.array([1.0, 2, 3, 50]), jnp.ones(4)),
        'old': (jnp.array([4.0, 8, 16, 50]), jnp.array([1.0, 0, 1, 1])),
        'none': (jnp.array([5.0, 5, 5, 5]), jnp.zeros(4)),
    }
    found = step.reduce_terms(terms, jnp.array([1.0, 1, 1, 0]))
    assert {name: float(value) for name, value in found.items()} == {
        'all': 2.0,
        'old': 10.0,
        'none': 0.0,
        'loss': 12.0,
    }


@pytest.mark.parametrize('real', ['uint8', 'float32'])
@pytest.mark.parametrize('stored', ['uint8', 'float32'])
def test_fill_exemplars_equals_a_loop(one_device, stored, real):
    memory = make_memory(stored)
    inputs = make_inputs(one_device, exemplars=memory)
    images = make_images(6, SHAPE, seed=5).astype(real)
    slots = np.int32([-1, 0, 17, -1, 7, 0])
    expected = images / np.float32(255 if real == 'uint8' else 1)
    for row, slot in enumerate(slots):
        if slot >= 0:
            image = memory.images[slot // NUM_SLOTS, slot % NUM_SLOTS]
            scale = np.float32(255 if stored == 'uint8' else 1)
            expected[row] = image / scale
    found = fill_exemplars(jnp.asarray(images), slots, inputs.exemplars)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
@pytest.mark.parametrize(
    ('shape', 'width'), [((8, 8, 2), 1), ((8, 8, 4), 2), ((5, 7, 4), 2)]
)
def test_rows_have_128_columns_and_give_back_the_images(dtype, shape, width):
    """The form that a TPU takes images of without a copy of all."""
    images = make_images(12, shape, seed=3).astype(dtype)
    index = np.int32([[11, 0], [4, 4]])
    for given in (images, images.reshape(3, 4, *shape), jnp.asarray(images)):
        rows = to_rows(given)
        assert rows.rows.shape == (12, width, 128)
        assert rows.rows.dtype == dtype
        found = jax.jit(lambda rows, index: rows.take(index))(rows, index)
        np.testing.assert_array_equal(found, images[index])


def test_a_step_on_slots_is_a_step_on_their_images(one_device):
    memory = make_memory()
    slots = np.int32([-1, 4, -1, 17, 0, -1, 9, -1])
    batch = make_batch([0, 1, 2, 3, 0, 1, 3, 2], slots=slots)
    plain = make_batch(batch['label'])
    for row in np.flatnonzero(slots >= 0):
        rank = divmod(slots[row], NUM_SLOTS)
        plain['image'][row] = memory.images[rank]
    found = []
    for given in (batch, plain):
        run = tiny_run(one_device)
        run.step(given, make_inputs(one_device))
        found.append(run.variables)
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert not np.array_equal(plain['image'], batch['image'])


def test_with_slots_equals_a_loop():
    num_real, slots = 5, np.int32([3, 8, 21])
    index = np.int32([[7, 0, 5, 4], [6, 1, 2, 3], [7, 0, 0, 6]])
    weight = np.float32([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0]])
    batches = [
        {'index': i, 'weight': w, 'label': i + 40}
        for i, w in zip(index, weight, strict=True)
    ]
    found = list(train.with_slots(iter(batches), num_real, slots))
    assert len(found) == 3
    for batch, given in zip(found, batches, strict=True):
        assert batch['slot'].dtype == np.int32
        for i, w, slot in zip(
            given['index'], given['weight'], batch['slot'], strict=True
        ):
            named = i >= num_real and w > 0
            assert slot == (slots[i - num_real] if named else -1)
        assert batch['label'] is given['label']
        assert 'slot' not in given


def test_with_slots_of_a_set_without_exemplars():
    batch = {'index': np.int32([2, 0, 0]), 'weight': np.float32([1, 1, 0])}
    nothing = np.zeros(0, np.int32)
    (found,) = train.with_slots(iter([batch]), 3, nothing)
    np.testing.assert_array_equal(found['slot'], [-1, -1, -1])


def test_valid_slots_equals_a_loop():
    memory = make_memory()
    expected = [
        (k * NUM_SLOTS + j, k)
        for k in range(NUM_CLASSES)
        for j in range(NUM_SLOTS)
        if memory.mask[k, j]
    ]
    assert 0 < len(expected) < memory.mask.size
    slots, labels = train.valid_slots(memory)
    assert slots.dtype == labels.dtype == np.int32
    assert list(zip(slots.tolist(), labels.tolist(), strict=True)) == expected


def test_images_are_augmented_by_the_epochs_key_and_their_index(one_device):
    augmentation = augment.Augmentation(pad=1, flip=True)
    settings = SETTINGS._replace(augmentation=augmentation)
    batch = {**BATCHES[0], 'index': np.arange(100, 108, dtype=np.int32)}
    inputs = make_inputs(one_device, seed=3)
    move = functools.partial(augment.augment, settings=augmentation)
    images = jax.jit(move)(
        inputs.key, np.float32(batch['image']) / 255, batch['index']
    )
    run, plain = tiny_run(one_device, settings), tiny_run(one_device)
    augmented = run.step(batch, inputs)
    expected = plain.step({**batch, 'image': np.asarray(images)}, inputs)
    np.testing.assert_allclose(augmented['loss'], expected['loss'], rtol=1e-5)
    for changed in (
        tiny_run(one_device).step(batch, inputs),
        tiny_run(one_device, settings).step(
            batch, make_inputs(one_device, seed=4)
        ),
        tiny_run(one_device, settings).step(BATCHES[0], inputs),
    ):
        assert not np.isclose(changed['loss'], expected['loss'], rtol=1e-3)


@pytest.mark.parametrize('augment_real', [False, True])
def test_images_augmented_on_the_host_are_left_alone(augment_real):
    settings = SETTINGS._replace(
        augmentation=augment.Augmentation(pad=2, flip=True),
        augment_real=augment_real,
    )
    random = np.random.default_rng(0)
    stored = random.integers(0, 256, (2, 4, 8, 8, 1)).astype(np.uint8)
    batch = {
        'image': random.integers(0, 256, (8, 8, 8, 1)).astype(np.uint8),
        'index': np.arange(8),
        'slot': np.array([-1, 3, -1, -1, 0, 7, -1, 1]),
    }
    inputs = types.SimpleNamespace(
        key=jax.random.key(5),
        exemplars=to_rows(jnp.asarray(stored)),
        reference=types.SimpleNamespace(dtype=jnp.float32),
    )
    found = step.augment_batch(settings, inputs, batch)
    is_exemplar = batch['slot'] >= 0
    plain = np.where(
        is_exemplar[:, None, None, None],
        stored.reshape(-1, 8, 8, 1)[batch['slot']],
        batch['image'],
    )
    moved = np.any(np.abs(found * 255 - plain) > 0.5, axis=(1, 2, 3))
    assert moved[is_exemplar].all()
    assert moved[~is_exemplar].all() == augment_real
    assert moved[~is_exemplar].any() == augment_real


def test_the_callers_variables_survive_donation(one_device):
    given = parallel.replicate(one_device, tiny_variables())
    trainer = tiny_trainer(one_device)
    state = trainer.init(given)
    stacked = multistep.single(one_device, BATCHES[0])
    following, _ = trainer.steps(state, (stacked, make_inputs(one_device)), 1)
    # The state itself is donated: without the copy, so would be the model.
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    jax.tree.map(np.testing.assert_array_equal, given, tiny_variables())
    inputs = make_inputs(one_device, reference=given)
    trainer.steps(following, (stacked, inputs), 1)
    jax.tree.map(np.testing.assert_array_equal, given, tiny_variables())


@pytest.mark.parametrize('devices', ['one_device', 'all_devices'])
def test_phases_and_epochs_share_one_compilation(request, devices):
    placement = request.getfixturevalue(devices)
    # Not the cached one: other tests give it batches of their own.
    trainer = train.make_trainer(
        tiny_backbone(), PULL, SETTINGS, placement, with_reference=True
    )
    variables = parallel.replicate(placement, tiny_variables())
    memory = parallel.replicate(placement, make_memory())
    imprint = jax.jit(heads.imprint)
    for index, (num_old, num_seen) in enumerate([(0, 2), (2, 4), (4, 6)]):
        reference = variables
        if index:
            means = np.ones((NUM_CLASSES, 5), np.float32)
            counts = np.int32(num_old), np.int32(num_seen)
            head = imprint(variables.params['head'], means, *counts)
            params = {**variables.params, 'head': head}
            variables = variables.replace(params=params)
        run = Run(trainer, placement, variables)
        for epoch in range(2):
            inputs = make_inputs(
                placement,
                reference=reference,
                exemplars=memory,
                phase=(index, num_old, num_seen),
                head_rows=(num_old, num_seen),
                lr=0.1 / (1 + epoch),
                seed=10 * index + epoch,
            )
            for batch in BATCHES[:2]:
                run.step({**batch, 'label': batch['label'] % num_seen}, inputs)
        variables = run.state.variables
    assert trainer.steps._cache_size() == 1
    assert trainer.init._cache_size() <= 2


def section(**values):
    return config_dict.FrozenConfigDict({'lr': 0.2, 'epochs': 10, **values})


def test_scheduled_rate_step():
    rates = section(schedule='step', milestones=(3, 7), gamma=0.1)
    found = [train.scheduled_rate(rates, epoch) for epoch in range(10)]
    expected = [0.2] * 3 + [0.02] * 4 + [0.002] * 3
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scheduled_rate_cosine():
    rates = section(schedule='cosine')
    found = [train.scheduled_rate(rates, epoch) for epoch in range(10)]
    # cos^2 of the half angle: from the full rate, through half of it, to 0.
    expected = 0.2 * np.cos(np.pi * np.arange(10) / 20) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0] == 0.2
    assert found[5] == pytest.approx(0.1)
    assert 0 < found[9] < 0.01


def test_scheduled_rate_constant():
    found = {train.scheduled_rate(section(), epoch) for epoch in range(10)}
    assert found == {0.2}


IMAGE_SHAPE = (6, 6, 1)
IMAGE_MEAN, IMAGE_STD = 0.3, 0.4
MANY = 16


class Trunk(nn.Module):
    """A trunk with the networks' own BatchNorm, quick to compile."""

    @nn.compact
    def __call__(self, x, *, train, mask):
        x = nn.relu(conv.ConvNorm(3, 3)(x, train=train, mask=mask))
        x = conv.ConvNorm(4, 3, 2)(x, train=train, mask=mask)
        return jnp.mean(x, axis=(1, 2)), (x,)


def real_backbone():
    trunk, head = Trunk(), heads.make_head('cosine')

    def init(key):
        images = jnp.zeros((1, *IMAGE_SHAPE))
        variables = trunk.init(key, images, train=False, mask=None)
        params = {
            'trunk': variables['params'],
            'head': head.init(key, NUM_CLASSES, 4),
        }
        return Variables(params, variables['batch_stats'])

    def embed(variables, images, *, train=False, mask=None):
        inputs = {
            'params': variables.params['trunk'],
            'batch_stats': variables.batch_stats,
        }
        (features, maps), updated = trunk.apply(
            inputs,
            (images - IMAGE_MEAN) / IMAGE_STD,
            train=train,
            mask=mask,
            mutable=['batch_stats'],
        )
        return features, maps, updated['batch_stats']

    return Backbone(init, embed, head.apply)


@functools.cache
def real_variables():
    variables = jax.jit(real_backbone().init)(jax.random.key(5))
    return jax.device_get(variables)


def real_run(placement, update_stats):
    trainer = real_trainer(placement, update_stats)
    return Run(trainer, placement, real_variables())


@functools.cache
def real_trainer(placement, update_stats):
    # Momentum without decay: after one step the buffers are the gradients.
    return train.make_trainer(
        real_backbone(),
        finetune.make(None),
        PLAIN._replace(momentum=0.9, update_stats=update_stats),
        placement,
        with_reference=False,
    )


def real_batch():
    """Five of 16 are padding, so that devices have unequal shares."""
    weights = np.float32([1] * 11 + [0] * 5)
    batch = make_batch(np.arange(MANY) % 4, weights=weights, shape=IMAGE_SHAPE)
    batch['slot'][[2, 9]] = [4, 16]
    return batch


def real_inputs(placement):
    return make_inputs(
        placement,
        reference=real_variables(),
        exemplars=make_memory(shape=IMAGE_SHAPE),
        phase=(0, 0, 4),
        head_rows=(0, 4),
        lr=0.1,
    )


def test_batch_norm_reads_and_moves_on_real_examples_alone(one_device):
    batch, variables = real_batch(), real_variables()
    run = real_run(one_device, True)
    run.step(batch, real_inputs(one_device))
    memory = make_memory(shape=IMAGE_SHAPE).images.reshape(-1, *IMAGE_SHAPE)
    pixels = np.where(
        (batch['slot'] >= 0)[:, None, None, None],
        memory[np.maximum(batch['slot'], 0)],
        batch['image'],
    )
    x = ((pixels / 255 - IMAGE_MEAN) / IMAGE_STD)[:11].astype(np.float32)
    first = variables.params['trunk']['ConvNorm_0']['Conv_0']['kernel']
    x = jax.lax.conv_general_dilated(
        x, first, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    stats = run.variables.batch_stats['ConvNorm_0']['BatchNorm_0']
    expected = {
        'mean': 0.1 * np.mean(x, (0, 1, 2)),
        # Unbiased, as in PyTorch.
        'var': 0.9 + 0.1 * np.var(x, (0, 1, 2), ddof=1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(stats[name], value, rtol=1e-4, atol=1e-6)


def test_padding_does_not_reach_batch_norm(one_device):
    batch, found = real_batch(), []
    other = {**batch, 'image': np.copy(batch['image'])}
    other['image'][11:] = 255 - other['image'][11:]
    for given in (batch, other):
        run = real_run(one_device, True)
        run.step(given, real_inputs(one_device))
        found.append(run.variables)
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_fine_tuning_keeps_batch_norms_statistics(one_device):
    run = real_run(one_device, False)
    start = real_variables()
    run.step(real_batch(), real_inputs(one_device))
    end = run.variables
    jax.tree.map(
        np.testing.assert_array_equal, end.batch_stats, start.batch_stats
    )
    # Its scales and biases are trained all the same.
    for name, value in start.params['trunk']['ConvNorm_0'][
        'BatchNorm_0'
    ].items():
        trained = end.params['trunk']['ConvNorm_0']['BatchNorm_0'][name]
        assert np.any(trained != value)


def relative_distance(found, expected):
    error = np.linalg.norm(found - expected)
    return error / max(np.linalg.norm(expected), 1e-6)


def test_all_devices_give_what_one_device_gives(one_device, all_devices):
    runs = [real_run(place, True) for place in (one_device, all_devices)]
    metrics = [
        run.step(real_batch(), real_inputs(run.placement)) for run in runs
    ]
    leaf = jax.tree.leaves(runs[1].state.variables)[0]
    assert len(leaf.sharding.device_set) == 8
    for name, value in metrics[0].items():
        np.testing.assert_allclose(metrics[1][name], value, rtol=1e-5)
    compared = [(run.momentum, run.variables.batch_stats) for run in runs]
    distances = jax.tree.map(relative_distance, *reversed(compared))
    worst = max(jax.tree.leaves(distances))
    assert worst < 1e-5, distances
    norms = jax.tree.map(np.linalg.norm, compared[0])
    assert min(jax.tree.leaves(norms)) > 1e-4, norms


def test_devices_share_the_work(one_device, all_devices):
    flops = []
    for placement in (one_device, all_devices):
        run = real_run(placement, True)
        stacked = multistep.single(placement, real_batch())
        lowered = run.trainer.steps.lower(
            run.state, (stacked, real_inputs(placement)), 1
        )
        flops.append(lowered.compile().cost_analysis()['flops'])
    # Of each device; what does not depend on the batch is done by all.
    assert flops[1] < flops[0] / 6
