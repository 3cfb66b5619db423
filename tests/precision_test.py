"""Trunks in bfloat16: what is computed in it, and how far results move."""

import functools

import jax
import jax.extend.core as jax_core
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mnemonics_jax import backbones, experiment
from mnemonics_jax.backbones import conv, convnet, resnet
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.train.checkpoint import Checkpointer

NUM_CLASSES, SIZE = 4, 8
LABELS = np.arange(12) % NUM_CLASSES
# Rounding to 8 bits moves a number by at most 2^-9 = 0.2 %.
OUTPUTS_BOUND, GRADIENTS_BOUND = 0.02, 0.03


# With a shortcut, and one that is a convolution.
TRUNKS = {
    'convnet': convnet.ConvNet((8, 16)),
    'resnet': resnet.ResNet((1, 1), 8),
}


def make(name, precision):
    return backbones.from_trunk(
        TRUNKS[name],
        num_classes=NUM_CLASSES,
        image_shape=(SIZE, SIZE, 3),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        precision=precision,
    )


@functools.cache
def problem(name):
    """Float32 variables and images."""
    variables = jax.jit(make(name, 'float32').init)(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (12, SIZE, SIZE, 3))
    return variables, images


def everything(backbone, variables, images):
    """Outputs and gradients of one model, down to a hypergradient."""

    def loss(params, images, train):
        outputs, batch_stats = backbone.apply(
            variables.replace(params=params), images, train=train
        )
        logs = jax.nn.log_softmax(4 * outputs.logits)
        loss = -jnp.mean(logs[np.arange(len(LABELS)), LABELS])
        return loss, (outputs, batch_stats)

    def after_a_step(images):
        """The loss of a model that took a step on these images, on others."""
        grads, _ = jax.grad(loss, has_aux=True)(variables.params, images, False)
        params = jax.tree.map(lambda p, g: p - g, variables.params, grads)
        return loss(params, images[::-1], False)[0]

    (value, (outputs, batch_stats)), grads = jax.value_and_grad(
        loss, (0, 1), has_aux=True
    )(variables.params, images, True)
    return {
        'outputs': (value, outputs),
        'batch_stats': batch_stats,
        'evaluated': loss(variables.params, images, False),
        'params_grads': grads[0],
        'pixel_grads': grads[1],
        'hypergradient': jax.grad(after_a_step)(images),
    }


def in_both(name):
    """`everything` in bfloat16 and in float32."""
    return (
        jax.jit(functools.partial(everything, make(name, precision)))(
            *problem(name)
        )
        for precision in ('bf16', 'float32')
    )


def joined(tree):
    leaves = jax.tree.leaves(tree)
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def relative_error(found, expected):
    found, expected = joined(found), joined(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('name', ['convnet', 'resnet'])
def test_differs_from_float32_by_rounding(name, monkeypatch):
    """With a smooth activation: rounding flips ReLUs, see below."""
    monkeypatch.setattr(nn, 'relu', nn.softplus)
    found, expected = in_both(name)
    for key in expected:
        bound = GRADIENTS_BOUND if 'grad' in key else OUTPUTS_BOUND
        error = relative_error(found[key], expected[key])
        assert 0 < error < bound, key
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32


def test_gradients_through_relus_keep_their_direction():
    """A share p of ReLUs flipped by rounding moves them by about sqrt(p)."""
    found, expected = in_both('resnet')
    for key in expected:
        a, b = joined(found[key]), joined(expected[key])
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert cosine > (0.96 if 'grad' in key else 0.999), key


def operands(jaxpr, primitive):
    """Dtypes of the operands of an operation, also in closed calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield {v.aval.dtype for v in equation.invars}
        for inner in jax_core.jaxprs_in_params(equation.params):
            yield from operands(inner, primitive)


@pytest.mark.parametrize('loop_safe', [True, False])
def test_every_convolution_of_every_gradient_is_in_bfloat16(
    loop_safe, monkeypatch
):
    monkeypatch.setattr(
        conv,
        'conv2d',
        functools.partial(conv.conv2d, loop_safe=loop_safe),
    )
    for precision, dtype in (
        ('bf16', jnp.bfloat16),
        ('float32', jnp.float32),
    ):
        function = functools.partial(everything, make('resnet', precision))
        jaxpr = jax.make_jaxpr(function)(*problem('resnet')).jaxpr
        found = list(operands(jaxpr, 'conv_general_dilated'))
        assert len(found) > 20
        assert all(dtypes == {jnp.dtype(dtype)} for dtypes in found)


def test_statistics_gather_what_bfloat16_would_lose():
    """Small numbers added to 1000, where bfloat16 has steps of 4."""
    backbone = make('convnet', 'bf16')
    variables, images = problem('convnet')
    start = jax.tree.map(lambda s: s + 1000, variables.batch_stats)
    variables = variables.replace(batch_stats=start)
    embed = jax.jit(functools.partial(backbone.embed, train=True))
    *_, once = embed(variables, images)
    *_, twice = embed(variables.replace(batch_stats=once), images)
    states = (start, once, twice)
    for first, second, third in zip(*map(jax.tree.leaves, states), strict=True):
        added = second - 0.9 * first
        assert np.all((added > -1) & (added < 2))
        np.testing.assert_allclose(third - 0.9 * second, added, atol=1e-3)


def test_precisions_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"precision='half'.*float32, bf16"):
        make('convnet', 'half')


def test_a_whole_run_keeps_float32(tiny_config, tmp_path, one_device):
    tiny_config.precision = 'bf16'
    tiny_config.protocol.phases = 1
    tiny_config.protocol.base_classes = 3
    tiny_config.exemplars.storage = 'float32'
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    results = experiment.run(parts, tmp_path)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        carry, _ = checkpointer.restore_latest(experiment.first_carry(parts))
    for leaf in jax.tree.leaves((carry.variables, carry.exemplars.images)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    last = results['phases'][-1]['exemplars']
    assert last['drift_grey_levels'] > 0
    assert last['adjust_drift_grey_levels'] > 0
    losses = [
        record['loss']
        for record in read_records(tmp_path / 'metrics.jsonl')
        if record['stage'] == 'train' and record['phase'] == 0
    ]
    assert losses[-1] < losses[0]
