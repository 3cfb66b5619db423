"""Derivatives through JPEG: straight through rounding and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from mnemonics_jax.data import storage
from mnemonics_jax.data.storage.jpeg import transform
from tests import storage_images
from tests.storage_jpeg_test import TO_YCC, random_kept

CASES = [
    ((11, 13, 3), '4:2:0'),
    ((8, 8, 3), '4:4:4'),
    ((11, 5, 1), '4:4:4'),
    ((9, 4, 3), '4:2:0'),
]


def wider(row, width):
    """Twice as many values by triangles; repeated if a plane is narrow."""
    if width <= 2:
        return [row[i // 2] for i in range(2 * len(row))]
    found = []
    for i, value in enumerate(row):
        before, after = row[max(i - 1, 0)], row[min(i + 1, len(row) - 1)]
        found += [0.75 * value + 0.25 * before, 0.75 * value + 0.25 * after]
    return found


def smooth(image, kept, subsampling):
    """A decoded image [H, W, C] in real numbers, without rounding: a loop."""
    height, width, channels = image.shape
    ycc = image @ TO_YCC.T if channels == 3 else image
    planes, first = [], 0
    for k in range(channels):
        plane = ycc[..., k]
        halved = k > 0 and subsampling == '4:2:0'
        size = [-(-s // (1 + halved)) for s in (height, width)]
        if halved:
            spare = (height % 2, -width % 16)
            plane = np.pad(plane, [(0, s) for s in spare], mode='edge')
            plane = (plane[::2] + plane[1::2]) / 2
            plane = (plane[:, ::2] + plane[:, 1::2]) / 2
        spare = [(0, -s % 8) for s in plane.shape]
        plane = np.pad(plane, spare, mode='edge')
        for y in range(0, plane.shape[0], 8):
            for x in range(0, plane.shape[1], 8):
                part = (slice(y, y + 8), slice(x, x + 8))
                found = scipy.fft.dctn(plane[part], norm='ortho') * kept[first]
                plane[part] = scipy.fft.idctn(found, norm='ortho')
                first += 1
        plane = plane[: size[0], : size[1]]
        if halved:
            width_before = plane.shape[1]
            plane = [wider(column, width_before) for column in plane.T]
            plane = [wider(row, width_before) for row in np.array(plane).T]
            plane = np.array(plane)
        planes.append(plane[:height, :width])
    found = np.stack(planes, axis=-1)
    return found @ np.linalg.inv(TO_YCC).T if channels == 3 else found


def dense(function, shape):
    """The matrix of a linear function of images."""
    size = int(np.prod(shape))
    columns = [function(unit.reshape(shape)).ravel() for unit in np.eye(size)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(('shape', 'subsampling'), CASES)
def test_the_gradient_is_the_transposed_map_of_real_numbers(shape, subsampling):
    """Whatever the quality, and where pixels are clipped as well."""
    kind = 'saturated' if shape[0] == 8 else 'noise'
    images = storage_images.make(kind, 2, shape)
    weights = np.random.default_rng(1).normal(size=images.shape)
    weights = weights.astype(np.float32)
    codec = storage.make('jpeg', shape, 20, subsampling)
    kept = random_kept(codec, 2)

    def objective(pixels):
        return jnp.sum(weights * codec.shown(pixels, jnp.asarray(kept)))

    found = jax.jit(jax.grad(objective))(jnp.asarray(images))
    assert found.dtype == np.float32
    for i in range(2):
        matrix = dense(lambda x, i=i: smooth(x, kept[i], subsampling), shape)
        expected = (matrix.T @ weights[i].ravel()).reshape(shape)
        # Constants of the decoder have 13 bits.
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(('shape', 'subsampling'), CASES[:3])
def test_the_smooth_part_passes_central_differences(shape, subsampling):
    codec = storage.make('jpeg', shape, 50, subsampling)
    layout = transform.make_layout(shape, 50, subsampling)
    kept = random_kept(codec, 1)
    rng = np.random.default_rng(2)
    weights, direction = rng.normal(size=(2, 1, *shape))
    images = storage_images.make('noise', 1, shape).astype(np.float64)

    @jax.jit
    @jax.value_and_grad
    def compiled(pixels):
        change = transform.smooth_change(pixels - 0.5, kept, layout)
        # Curved, so that it matters where the derivative is taken.
        return jnp.sum(weights * jnp.tanh(3 * (0.5 + change)))

    with jax.enable_x64(True):
        _, gradient = compiled(images)
        step = 1e-5 * direction
        ends = [compiled(images + step)[0], compiled(images - step)[0]]
        expected = (ends[0] - ends[1]) / 2e-5
        found = jnp.sum(gradient * direction)
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_values_are_rounded_and_derivatives_are_taken_there():
    """d f(shown) = f'(shown) d(smooth part), forwards and backwards."""
    shape = (16, 16, 3)
    codec = storage.make('jpeg', shape, 10)
    layout = transform.make_layout(shape, 10, '4:2:0')
    images = jnp.asarray(storage_images.make('noise', 2, shape))
    kept = jnp.asarray(codec.kept(images))
    direction = jnp.asarray(storage_images.make('smooth', 2, shape))

    def objective(pixels):
        return jnp.sum(jnp.sin(3 * codec.shown(pixels, kept)))

    @jax.jit
    def derivatives(pixels):
        _, forwards = jax.jvp(objective, (pixels,), (direction,))
        gradient = jax.grad(objective)
        # The second derivative, as hypergradients take it.
        found, second = jax.jvp(gradient, (pixels,), (direction,))
        return forwards, found, second

    forwards, backwards, second = derivatives(images)
    shown = np.float64(jax.jit(codec.shown)(images, kept))
    with jax.enable_x64(True):
        wide = jnp.asarray(np.float64(direction))
        change = np.asarray(transform.smooth_change(wide, kept, layout))
    expected = np.sum(3 * np.cos(3 * shown) * change)
    np.testing.assert_allclose(forwards, expected, rtol=1e-4)
    np.testing.assert_allclose(
        np.sum(backwards * direction), expected, rtol=1e-4
    )
    bend = np.sum(-9 * np.sin(3 * shown) * np.square(change))
    np.testing.assert_allclose(np.sum(second * direction), bend, rtol=1e-4)


def test_rows_do_not_depend_on_each_other():
    """Under `vmap` too, as each image alone."""
    codec = storage.make('jpeg', (8, 8, 3), 50)
    images = jnp.asarray(storage_images.make('noise', 3, (8, 8, 3)))
    kept = jnp.asarray(random_kept(codec, 3))
    whole = jax.jit(codec.shown)(images, kept)
    alone = jax.jit(jax.vmap(codec.shown))
    each = alone(images[:, None], kept[:, None])[:, 0]
    np.testing.assert_array_equal(whole, each)
