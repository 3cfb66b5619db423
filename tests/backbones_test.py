"""All backbones: the contract, the paper's architecture, BatchNorm masks."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mnemonics_jax import backbones, losses
from mnemonics_jax.backbones import convnet, resnet

# These programs run once or twice.
quick_jit = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
NUM_CLASSES = 7
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
NUM_FEATURES = {
    'convnet': 128,
    'resnet8': 64,
    'resnet20': 64,
    'resnet32': 64,
    'resnet18': 512,
}
# For 8x8 images (32x32 for the last). ResNets on CIFAR also show their third
# stage without its last block, as in PODNet's code.
MAPS = {
    'convnet': [(8, 8, 32), (4, 4, 64), (2, 2, 128)],
    'convnet_tiny': [(8, 8, 8), (4, 4, 16)],
    'resnet8': [(8, 8, 16), (4, 4, 32), (2, 2, 64)],
    'resnet20': [(8, 8, 16), (4, 4, 32), (2, 2, 64), (2, 2, 64)],
    'resnet32': [(8, 8, 16), (4, 4, 32), (2, 2, 64), (2, 2, 64)],
    'resnet18': [(8, 8, 64), (4, 4, 128), (2, 2, 256), (1, 1, 512)],
}


def make(name, *, size=8, mean=MEAN, std=STD, **kwargs):
    return backbones.make_backbone(
        name,
        num_classes=NUM_CLASSES,
        image_shape=(size, size, 3),
        mean=mean,
        std=std,
        **kwargs,
    )


def image_size(name):
    return 32 if name == 'resnet18' else 8


@functools.cache
def initializer(name):
    return quick_jit(make(name, size=image_size(name)).init)


@functools.cache
def variables_of(name, seed=0):
    return initializer(name)(jax.random.key(seed))


def images(count, size=8):
    return jax.random.uniform(jax.random.key(1), (count, size, size, 3))


def shapes_of(name):
    """Shapes of the parameters of the trunk, computing nothing."""
    backbone = make(name, size=32)
    return jax.eval_shape(backbone.init, jax.random.key(0)).params['trunk']


def sizes(params, *names):
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return [leaf.size for path, leaf in leaves if path[-1].key in names]


def assert_trees_close(actual, expected, tolerance):
    jax.tree.map(
        functools.partial(
            np.testing.assert_allclose, rtol=tolerance, atol=tolerance
        ),
        actual,
        expected,
    )


@pytest.mark.parametrize('name', backbones.backbone_names())
def test_contract(name):
    size = image_size(name)
    backbone = make(name, size=size)
    variables = variables_of(name)
    train = quick_jit(functools.partial(backbone.apply, train=True))
    outputs, batch_stats = train(variables, images(3, size))

    num_features = outputs.features.shape[-1]
    assert num_features == NUM_FEATURES.get(name, num_features)
    assert outputs.features.shape == (3, num_features)
    assert outputs.logits.shape == outputs.scores.shape == (3, NUM_CLASSES)
    for leaf in jax.tree.leaves((outputs, batch_stats)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    assert outputs.features.min() < 0, 'a final ReLU'
    shapes = [stage.shape[1:] for stage in outputs.maps]
    assert shapes == MAPS.get(name, shapes)
    for stage in outputs.maps:
        assert stage.shape[0] == 3
        assert stage.min() < 0, 'a final ReLU'
    np.testing.assert_allclose(
        outputs.maps[-1].mean((1, 2)), outputs.features, atol=1e-5
    )
    assert jax.tree.structure(batch_stats) == jax.tree.structure(
        variables.batch_stats
    )


def test_resnet32_has_the_size_of_the_paper():
    params = shapes_of('resnet32')
    kernels = sizes(params, 'kernel')
    assert len(kernels) == 33
    assert sum(kernels) == 463_792
    assert sum(sizes(params, 'scale', 'bias')) == 2_464


@pytest.mark.parametrize(
    ('name', 'count'),
    # The sizes known from ImageNet and CIFAR-10, less those of the classifiers.
    [('resnet18', 11_689_512 - 513_000), ('resnet20', 272_474 - 650)],
)
def test_sizes_of_other_residual_networks(name, count):
    assert sum(sizes(shapes_of(name), 'kernel', 'scale', 'bias')) == count


@pytest.mark.parametrize('name', ['convnet_tiny', 'resnet8'])
def test_the_final_relu_is_before_the_average(name):
    backbone = make(name, final_relu=True)
    embed = quick_jit(backbone.embed)
    features, maps, _ = embed(variables_of(name), images(2))
    assert maps[-1].min() < 0
    expected = np.maximum(maps[-1], 0).mean((1, 2))
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_a_network_without_a_final_relu_to_switch_on_is_named(monkeypatch):
    monkeypatch.setitem(convnet.BACKBONES, 'bare', lambda: nn.Dense(3))
    with pytest.raises(ValueError, match=r'final_relu=True: must be false'):
        make('bare', final_relu=True)


@pytest.mark.parametrize('name', ['convnet', 'resnet8'])
def test_masked_examples_leave_no_trace(name):
    backbone = make(name)
    variables = variables_of(name)
    valid = images(4)
    garbage = jnp.full((2, 8, 8, 3), 1e3)
    train = quick_jit(functools.partial(backbone.embed, train=True))
    expected = train(variables, valid)
    *of_examples, batch_stats = train(
        variables,
        jnp.concatenate([garbage[:1], valid, garbage[1:]]),
        mask=jnp.array([False, True, True, True, True, False]),
    )
    found = jax.tree.map(lambda leaf: leaf[1:5], of_examples)
    assert_trees_close((*found, batch_stats), expected, 1e-5)


def test_training_moves_statistics_by_a_tenth():
    backbone = make('convnet')
    old = variables_of('convnet')
    variables = old.replace(
        batch_stats=jax.tree.map(jnp.ones_like, old.batch_stats)
    )
    train = quick_jit(functools.partial(backbone.embed, train=True))
    *_, from_initial = train(old, images(4))
    *_, from_ones = train(variables, images(4))
    differences = jax.tree.map(
        lambda a, b, c, d: (a - b) - 0.9 * (c - d),
        from_ones,
        from_initial,
        variables.batch_stats,
        old.batch_stats,
    )
    for leaf in jax.tree.leaves(differences):
        np.testing.assert_allclose(leaf, 0, atol=1e-5)


def test_evaluation_changes_nothing_and_sees_one_example_at_a_time():
    backbone = make('convnet')
    variables = variables_of('convnet')
    embed = quick_jit(backbone.embed)
    features, _, batch_stats = embed(variables, images(4))
    assert_trees_close(batch_stats, variables.batch_stats, 0)
    alone, *_ = embed(variables, images(4)[2:3])
    np.testing.assert_allclose(features[2:3], alone, atol=1e-5)


def test_a_block_keeps_its_convolutions_apart_only_in_evaluation():
    """For any platform: a TPU would compute the first inside the second."""
    backbone = make('resnet8')

    def barriers(train, differentiate):
        def total(variables, x):
            return backbone.embed(variables, x, train=train)[0].sum()

        function = jax.grad(total) if differentiate else total
        shapes = jax.eval_shape(backbone.init, jax.random.key(0)), images(2)
        return str(jax.make_jaxpr(function)(*shapes)).count('barrier')

    num_blocks = 3
    assert [barriers(*case) for case in np.ndindex(2, 2)] == [
        num_blocks,
        num_blocks,
        0,
        0,
    ]


def test_values_and_derivatives_pass_what_keeps_convolutions_apart():
    def derivatives(apart):
        def loss(x):
            return jnp.sum(jnp.sin(apart(x * x)) ** 2)

        def step(x):
            return jnp.sum((x - jax.grad(loss)(x)) ** 3)

        return loss(x), jax.grad(loss)(x), jax.grad(step)(x)

    x = jnp.linspace(-1.0, 2.0, 7)
    found = derivatives(resnet._in_two_kernels)
    assert_trees_close(found, derivatives(lambda x: x), 1e-6)


def test_maps_that_no_loss_reads_cost_nothing():
    backbone = make('convnet_tiny')

    def without_maps(*args, **kwargs):
        features, _, batch_stats = backbone.embed(*args, **kwargs)
        return features, (), batch_stats

    def compiled(backbone):
        def loss(params, variables):
            outputs, batch_stats = backbone.apply(
                variables.replace(params=params), images(4), train=True
            )
            reference = jax.tree.map(jnp.zeros_like, outputs)
            values = losses.less_forget(outputs.features, reference.features)
            return values.sum() + outputs.logits.sum(), batch_stats

        variables = variables_of('convnet_tiny')
        gradient = quick_jit(jax.grad(loss, has_aux=True))
        return gradient.lower(variables.params, variables).compile()

    found = compiled(backbone)
    expected = compiled(backbone._replace(embed=without_maps))
    assert found.cost_analysis() == expected.cost_analysis()
    memory = [each.memory_analysis() for each in (found, expected)]
    assert memory[0].temp_size_in_bytes == memory[1].temp_size_in_bytes


def test_initial_values():
    variables = variables_of('resnet32')
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables.params['trunk'])
    for path, leaf in leaves:
        if path[-1].key == 'kernel':
            std = (2 / np.prod([*leaf.shape[:2], leaf.shape[3]])) ** 0.5
            # 3.5 standard errors of the mean and of the standard deviation.
            assert abs(leaf.mean()) < 3.5 * std / leaf.size**0.5
            assert abs(leaf.std() / std - 1) < 3.5 / (2 * leaf.size) ** 0.5
        else:
            assert (leaf == (path[-1].key == 'scale')).all()
    rows = variables.params['head']['kernel']
    assert rows.shape == (NUM_CLASSES, 64)
    assert 0.9 / 8 < jnp.abs(rows).max() <= 1 / 8


def test_other_keys_give_other_variables():
    one, other = variables_of('convnet'), variables_of('convnet', seed=1)
    differences = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), one.params, other.params
    )
    assert differences['head']['kernel'] > 0
    assert differences['trunk']['ConvNorm_0']['Conv_0']['kernel'] > 0


def test_normalisation_comes_first():
    variables = variables_of('convnet')
    raw = images(4)
    normalised = (raw - np.float32(MEAN)) / np.float32(STD)
    identity = make('convnet', mean=(0, 0, 0), std=(1, 1, 1))
    expected, *_ = quick_jit(identity.embed)(variables, normalised)
    features, *_ = quick_jit(make('convnet').embed)(variables, raw)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_float64_stays_float64():
    backbone = make('convnet')
    inputs = (variables_of('convnet'), images(2))
    expected, _ = quick_jit(backbone.apply)(*inputs)
    with jax.enable_x64(True):
        inputs = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), inputs)
        outputs, _ = quick_jit(backbone.apply)(*inputs)
        for leaf in jax.tree.leaves(outputs):
            assert leaf.dtype == jnp.float64
    assert_trees_close(outputs, expected, 1e-4)


def test_one_file_adds_a_backbone(tmp_path, monkeypatch):
    (tmp_path / 'averages.py').write_text(
        'from flax import linen as nn\n'
        'class Averages(nn.Module):\n'
        '    def __call__(self, x, *, train, mask):\n'
        '        return x.mean((1, 2)), (x,)\n'
        "BACKBONES = {'averages': Averages}\n"
    )
    monkeypatch.setattr(
        backbones, '__path__', [*backbones.__path__, str(tmp_path)]
    )
    try:
        assert 'averages' in backbones.backbone_names()
        backbone = make('averages', mean=(0.25,) * 3, std=(2,) * 3)
    finally:
        sys.modules.pop('mnemonics_jax.backbones.averages', None)
        vars(backbones).pop('averages', None)
    variables = backbone.init(jax.random.key(0))
    pixels = np.array(images(2))
    outputs, batch_stats = backbone.apply(variables, pixels, train=True)
    expected = (images(2).mean((1, 2)) - 0.25) / 2
    np.testing.assert_allclose(outputs.features, expected, rtol=1e-6)
    np.testing.assert_array_equal(pixels, images(2))
    assert batch_stats == {}


def test_a_miss_names_what_exists():
    with pytest.raises(ValueError, match=r"'vgg'.*convnet, .*resnet32"):
        make('vgg')
    with pytest.raises(ValueError, match=r"'dot'.*cosine, linear"):
        make('convnet', head='dot')


@pytest.mark.parametrize(
    ('mean', 'std'),
    [((0.5,), (0.2,)), (MEAN, (0.2, 0.2)), (MEAN, (0.2, 0.0, 0.2))],
)
def test_mean_and_std_must_fit_the_images(mean, std):
    with pytest.raises(ValueError, match='must have 3 values'):
        make('convnet', mean=mean, std=std)


def test_images_as_bytes_are_refused():
    backbone = make('convnet')
    with pytest.raises(TypeError, match='uint8: must be floats'):
        backbone.embed(None, jnp.zeros((1, 8, 8, 3), jnp.uint8))
