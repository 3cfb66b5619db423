"""Weight transfer: what is frozen, what is scaled, and how many there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mnemonics_jax.backbones import (
    make_backbone,
    mask_frozen,
    weight_transfer,
)

SHAPE = (8, 8, 3)


def backbone(name='convnet_tiny'):
    return make_backbone(
        name, num_classes=5, image_shape=SHAPE, mean=(0.5,) * 3, std=(0.2,) * 3
    )


@pytest.fixture(scope='module')
def wrapped():
    model = weight_transfer.wrap(backbone())
    return model, model.init(jax.random.key(0))


def test_resnet32_has_the_published_numbers_of_parameters():
    model = weight_transfer.wrap(backbone('resnet32'))
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    trunk = jax.tree.leaves(params['trunk'])
    assert sum(x.size for x in trunk if x.ndim == 4) == 463_792
    assert sum(x.size for x in trunk if x.ndim < 4) == 2_464
    assert sum(x.size for x in jax.tree.leaves(params['scales'])) == 53_808


def test_with_scales_of_one_it_is_the_plain_model(wrapped):
    model, variables = wrapped
    images = jax.random.uniform(jax.random.key(1), (2, *SHAPE))
    plain = backbone()
    expected, _ = plain.apply(plain.init(jax.random.key(0)), images)
    found, _ = model.apply(variables, images)
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_a_scale_multiplies_its_pair_of_channels(wrapped):
    _, variables = wrapped
    rng = np.random.default_rng(0)
    scales = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype),
        variables.params['scales'],
    )
    merged = weight_transfer.merge(variables.params['trunk'], scales)
    trunk = traverse_util.flatten_dict(variables.params['trunk'])
    scales = traverse_util.flatten_dict(scales)
    assert len(scales) == 2
    for path, found in traverse_util.flatten_dict(merged).items():
        expected = np.array(trunk[path])
        if path in scales:
            for i in range(expected.shape[2]):
                for o in range(expected.shape[3]):
                    expected[:, :, i, o] *= scales[path][0, 0, i, o]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('phase_index', [0, 1, 7])
def test_phase_0_trains_kernels_and_later_phases_scales(wrapped, phase_index):
    _, variables = wrapped
    updates = mask_frozen(
        jax.tree.map(lambda x: -jnp.ones_like(x), variables.params), phase_index
    )
    for path, value in traverse_util.flatten_dict(updates).items():
        if path[0] == 'scales':
            expected = 0.0 if phase_index == 0 else -1.0
        elif path[0] == 'trunk' and path[-1] == 'kernel':
            expected = -1.0 if phase_index == 0 else 0.0
        else:
            expected = -1.0
        np.testing.assert_array_equal(value, expected)


def test_a_model_without_scales_is_left_alone():
    updates = {'trunk': {'conv': {'kernel': jnp.ones((3, 3, 1, 1))}}}
    assert weight_transfer.mask_updates(updates, 3) is updates


def test_a_run_freezes_the_kernels_of_phase_0(
    tiny_config, tmp_path, one_device
):
    """In whole runs: kernels stay bit for bit, scales and BatchNorm move."""
    from mnemonics_jax import experiment

    tiny_config.weight_transfer = True
    tiny_config.exemplars.adjust = False
    tiny_config.finetune.carry = True
    tiny_config.exemplars.update(inner_scope='all', inner_lr=0.1)
    tiny_config.checkpoint.keep = 3
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    experiment.run(parts, tmp_path)
    from mnemonics_jax.train.checkpoint import Checkpointer

    like = experiment.first_carry(parts)
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        base, middle, last = (
            traverse_util.flatten_dict(
                checkpointer.restore(phase, like)[0].variables.params
            )
            for phase in range(3)
        )
    for path, value in base.items():
        if path[0] == 'scales':
            np.testing.assert_array_equal(value, 1)
            assert np.any(middle[path] != value)
            assert np.any(last[path] != middle[path])
        elif path[0] == 'trunk':
            is_kernel = path[-1] == 'kernel'
            moved = np.any(last[path] != value)
            assert moved != is_kernel, path
