"""BatchNorm over groups of a batch: `backbone.norm_group`."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mnemonics_jax import backbones
from mnemonics_jax import config as config_lib
from mnemonics_jax.backbones import conv, convnet
from mnemonics_jax.core import plugins

NUM, GROUP, SIDE, CHANNELS = 16, 4, 3, 5
# Groups with all, some, one and none of their images.
COUNTS = (4, 2, 1, 0)
MASK = np.concatenate([np.arange(GROUP) < count for count in COUNTS])


@pytest.fixture(scope='module')
def inputs():
    """Images, and variables that are no one's initial values."""
    random = np.random.default_rng(0)
    x = random.normal(1, 2, (NUM, SIDE, SIDE, CHANNELS)).astype(np.float32)
    scale, bias, mean, var = random.uniform(0.5, 2, (4, CHANNELS)).astype(
        np.float32
    )
    return x, {
        'params': {'scale': scale, 'bias': bias},
        'batch_stats': {'mean': mean, 'var': var},
    }


def normalise(group, variables, x, mask=None):
    """Outputs and running statistics of a training step."""
    module = conv.BatchNorm(momentum=0.9, epsilon=1e-5, group=group)
    if mask is not None:
        mask = jnp.asarray(mask)[:, None, None, None]
    return module.apply(variables, x, False, mask=mask, mutable=['batch_stats'])


def by_loop(variables, x, mask):
    """The same by a loop over groups in NumPy, in float64."""
    x = x.astype(np.float64)
    outputs, means, variances = np.zeros_like(x), [], []
    for first in range(0, NUM, GROUP):
        rows = [i for i in range(first, first + GROUP) if mask[i]]
        pixels = x[rows].reshape(-1, CHANNELS)
        if not rows:
            continue
        mean = pixels.mean(0)
        outputs[rows] = (x[rows] - mean) / np.sqrt(pixels.var(0) + 1e-5)
        # An image counts as much as any other.
        means += [mean] * len(rows)
        variances += [pixels.var(0, ddof=1)] * len(rows)
    params, before = variables['params'], variables['batch_stats']
    return outputs * params['scale'] + params['bias'], {
        'mean': 0.9 * before['mean'] + 0.1 * np.mean(means, 0),
        'var': 0.9 * before['var'] + 0.1 * np.mean(variances, 0),
    }


@pytest.mark.parametrize('mask', [MASK, np.ones(NUM, bool)])
def test_each_group_has_its_own_statistics(inputs, mask):
    x, variables = inputs
    y, updated = normalise(GROUP, variables, x, mask)
    expected, stats = by_loop(variables, x, mask)
    np.testing.assert_allclose(y[mask], expected[mask], rtol=1e-4, atol=1e-5)
    assert np.isfinite(y).all()
    for name, values in stats.items():
        found = updated['batch_stats'][name]
        np.testing.assert_allclose(found, values, rtol=1e-5)


def test_padding_leaves_no_trace(inputs):
    x, variables = inputs
    other = np.where(MASK[:, None, None, None], x, 1e3)

    def loss(variables, x):
        y, updated = normalise(GROUP, variables, x, MASK)
        return jnp.sum(jnp.sin(y) * MASK[:, None, None, None]), updated

    gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
    ours, theirs = gradient(variables, x), gradient(variables, other)
    for one, two in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    assert np.all(ours[1][1][~MASK] == 0)


def test_gradients_are_those_of_the_plain_formula(inputs):
    x, variables = inputs

    def formula(params, x):
        grouped = x.reshape(-1, GROUP, *x.shape[1:])
        mean = grouped.mean((1, 2, 3), keepdims=True)
        deviation = grouped - mean
        variance = (deviation**2).mean((1, 2, 3), keepdims=True)
        y = deviation / jnp.sqrt(variance + 1e-5)
        return y.reshape(x.shape) * params['scale'] + params['bias']

    def ours(params, x):
        return normalise(GROUP, {**variables, 'params': params}, x)[0]

    def gradients(function):
        return jax.grad(
            lambda *args: jnp.sum(jnp.sin(function(*args))), (0, 1)
        )(variables['params'], x)

    expected, found = gradients(formula), gradients(ours)
    for one, two in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_one_group_is_the_batch_and_0_is_the_batchnorm_of_flax(inputs):
    x, variables = inputs
    y, updated = normalise(0, variables, x, MASK)
    flax, _ = nn.BatchNorm(momentum=0.9, epsilon=1e-5).apply(
        variables,
        x,
        False,
        mask=MASK[:, None, None, None],
        mutable=['batch_stats'],
    )
    np.testing.assert_array_equal(y, flax)
    whole = normalise(NUM, variables, x, MASK)
    for one, two in zip(
        *map(jax.tree.leaves, (whole, (y, updated))), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def make(name='convnet_tiny', **options):
    return backbones.make_backbone(
        name,
        num_classes=3,
        image_shape=(8, 8, 3),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        **options,
    )


@pytest.mark.parametrize('name', ['convnet_tiny', 'resnet8'])
def test_all_layers_of_a_network_have_the_option(name):
    """A group's features are those of the group alone, at most rounded."""
    backbone = make(name, norm_group=4)
    variables = backbone.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (8, 8, 8, 3))
    whole, *_ = backbone.embed(variables, images, train=True)
    alone, *_ = make(name).embed(variables, images[:4], train=True)
    np.testing.assert_allclose(whole[:4], alone, rtol=1e-3, atol=1e-4)
    batch, *_ = make(name).embed(variables, images, train=True)
    assert np.abs(batch[:4] - alone).max() > 1e-2


def step_on(placement, group):
    """A compiled step's features, gradients and statistics; its arguments."""
    backbone = make(norm_group=group)
    variables = backbone.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (16, 8, 8, 3))
    mask = jnp.arange(16) < 13

    def features(variables, images, mask):
        return backbone.embed(variables, images, train=True, mask=mask)[0]

    def loss(params, images, mask):
        found, _, stats = backbone.embed(
            variables.replace(params=params), images, train=True, mask=mask
        )
        return jnp.sum(jnp.sin(found) * mask[:, None]), stats

    arguments = (
        jax.device_put(variables, placement.replicated),
        jax.device_put(images, placement.batch),
        jax.device_put(mask, placement.batch),
    )
    text = jax.jit(features).lower(*arguments).compile().as_text()
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return text, gradient(variables.params, *arguments[1:])


@pytest.mark.parametrize('group', [2, 4])
def test_eight_devices_give_what_one_gives(one_device, all_devices, group):
    """Each has two images: a group is on one device, or on two."""
    text, found = step_on(all_devices, group)
    _, expected = step_on(one_device, group)
    for one, two in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    exchanges = any(
        word in text for word in ('all-reduce', 'all-gather', 'permute')
    )
    assert exchanges == (group > 2)


def test_statistics_of_the_batch_are_exchanged(all_devices):
    text, _ = step_on(all_devices, 0)
    assert 'all-reduce' in text


@pytest.mark.parametrize('group', [-1, 3, 256])
def test_a_group_must_divide_the_batch(group):
    config = config_lib.default_config()
    config.backbone.norm_group = group
    with pytest.raises(ValueError, match=r'^backbone.norm_group=.*must be '):
        config_lib.resolve(config)


def test_what_has_no_such_option_is_named(monkeypatch):
    monkeypatch.setitem(
        convnet.BACKBONES, 'bare', functools.partial(nn.Dense, 3)
    )
    with pytest.raises(
        ValueError, match=r'norm_group=4: must be 0 with .*bare'
    ):
        make('bare', norm_group=4)
    with pytest.raises(ValueError, match='a batch of 6: must be a multiple'):
        conv.group_statistics(jnp.zeros((6, 1, 1, 1)), None, 4)


def test_a_plugin_with_the_option_keeps_the_contract():
    own = types.ModuleType('own')
    own.BACKBONES = {'own': functools.partial(convnet.ConvNet, (4, 4))}
    plugins.register(own, 'own')
    backbone = make('own', norm_group=8)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0))
    assert shapes.params['trunk']['ConvNorm_0']['BatchNorm_0']
