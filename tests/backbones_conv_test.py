"""The loop-safe convolution against XLA's own, to the second derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mnemonics_jax.backbones import conv

# (H, W), kernel side, stride: even and odd images, last kernels that end early,
# images larger and smaller than the kernel.
CASES = [
    ((6, 5), 1, 1),
    ((6, 5), 1, 2),
    ((5, 4), 3, 1),
    ((2, 3), 3, 1),
    ((4, 5), 3, 2),
    ((8, 7), 3, 2),
    ((9, 8), 3, 3),
    ((8, 7), 7, 1),
    ((14, 13), 7, 2),
]
# These programs run once.
QUICK = {'xla_backend_optimization_level': 0}
TOLERANCES = {'float64': 1e-10, 'float32': 3e-4}


def arrays(image, side, dtype):
    """Two images with 3 channels and a kernel for 4, of order one."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *image, 3))
    kernel = rng.standard_normal((side, side, 3, 4)) / side
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def derivatives(convolve):
    """Value, first and second reverse-mode derivatives by both inputs."""

    def first(x, kernel):
        gradients = jax.grad(lambda *a: jnp.sum(jnp.sin(convolve(*a))), (0, 1))
        return gradients(x, kernel)

    def second(x, kernel):
        def scalar(*inputs):
            return sum(jnp.sum(jnp.sin(g)) for g in first(*inputs))

        return jax.grad(scalar, (0, 1))(x, kernel)

    def everything(x, kernel):
        return convolve(x, kernel), first(x, kernel), second(x, kernel)

    return everything


def unrolled(convolve):
    """A bilevel problem: the gradient through two inner steps in a scan."""

    def inner_loss(kernel, x):
        return jnp.mean(jnp.sin(convolve(x, kernel)))

    def step(kernel, x):
        return kernel - jax.grad(inner_loss)(kernel, x), None

    def outer_loss(x, kernel):
        kernel, _ = lax.scan(step, kernel, jnp.stack([x, 2 * x]))
        return inner_loss(kernel, x[:, ::-1])

    return jax.grad(outer_loss, (0, 1))


def compare(make, image, side, stride, dtype):
    """Checks that `make(convolution)` is the same for both convolutions."""

    def plain(x, kernel):
        pads = [(side // 2, side // 2)] * 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )

    def loop_safe(x, kernel):
        return conv.conv2d(x, kernel, stride, loop_safe=True)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(x, kernel):
        return make(loop_safe)(x, kernel), make(plain)(x, kernel)

    with jax.enable_x64(dtype == 'float64'):
        actual, expected = both(*arrays(image, side, dtype))
    tolerance = TOLERANCES[dtype]
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(('image', 'side', 'stride'), CASES)
def test_value_and_two_derivatives(image, side, stride):
    compare(derivatives, image, side, stride, 'float64')


# XLA's CPU backend has other code for float32 than for float64.
@pytest.mark.parametrize(
    ('image', 'side', 'stride'),
    [((6, 5), 1, 2), ((8, 7), 3, 2), ((9, 8), 3, 3), ((8, 7), 7, 1)],
)
def test_value_and_two_derivatives_in_float32(image, side, stride):
    compare(derivatives, image, side, stride, 'float32')


@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize(
    ('image', 'side', 'stride'),
    [((6, 5), 3, 1), ((8, 7), 3, 2), ((4, 4), 3, 2)],
)
def test_gradient_through_a_scan(image, side, stride, dtype):
    compare(unrolled, image, side, stride, dtype)


@pytest.mark.parametrize('loop_safe', [True, False])
@pytest.mark.parametrize(
    ('size', 'expected'), [(32, 16), (7, 4), (8, 4), (5, 3)]
)
def test_stride_two_halves_the_image_rounding_up(size, expected, loop_safe):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
    y = jax.eval_shape(
        lambda *inputs: conv.conv2d(*inputs, 2, loop_safe=loop_safe), x, kernel
    )
    assert y.shape == (1, expected, expected, 4)


def test_is_loop_safe_by_default_on_cpu_only(monkeypatch):
    inputs = arrays((6, 6), 3, 'float32')

    def operations():
        # A new function each time, since JAX remembers what it traced.
        return str(jax.make_jaxpr(functools.partial(conv.conv2d))(*inputs))

    assert 'custom_vjp' in operations()
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert 'custom_vjp' not in operations()


def test_pads_both_sides_alike():
    # With 'SAME' padding the first output would see the pixels 0 to 2.
    x = jnp.arange(1.0, 5.0).reshape(1, 1, 4, 1)
    y = conv.conv2d(x, jnp.ones((3, 3, 1, 1)), 2)
    np.testing.assert_allclose(y.ravel(), [0 + 1 + 2, 2 + 3 + 4])


@pytest.mark.parametrize('shape', [(2, 2, 3, 4), (3, 4, 3, 4)])
def test_even_kernel_sides_are_refused(shape):
    with pytest.raises(ValueError, match='must be odd'):
        conv.conv2d(jnp.zeros((1, 8, 8, 3)), jnp.zeros(shape))


def test_module_is_a_convolution_without_bias():
    x, _ = arrays((5, 5), 3, 'float32')
    module = conv.Conv(features=64, kernel_size=3, stride=2)
    params = module.init(jax.random.key(0), x)['params']
    assert list(params) == ['kernel']
    assert params['kernel'].shape == (3, 3, 3, 64)
    np.testing.assert_array_equal(
        module.apply({'params': params}, x),
        conv.conv2d(x, params['kernel'], 2),
    )
