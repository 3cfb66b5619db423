"""Batches on their way to the devices, and how networks are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.backbones.conv import conv2d
from mnemonics_jax.core import parallel, xla_flags


def make_batches(num, log):
    for number in range(num):
        log.append(number)
        yield {'x': np.full((8, 2), number, np.float32)}


@pytest.mark.parametrize('ahead', [0, 1, 3, 9])
def test_batches_keep_their_order_and_only_so_many_run_ahead(one_device, ahead):
    log = []
    pairs = parallel.shard_batches(
        one_device, make_batches(5, log), ahead=ahead
    )
    for number, (host, placed) in enumerate(pairs):
        assert log == list(range(min(5, number + 1 + ahead)))
        assert isinstance(placed['x'], jax.Array)
        np.testing.assert_array_equal(host['x'], number)
        np.testing.assert_array_equal(placed['x'], number)
    assert number == 4


def test_a_batch_is_split_and_what_lies_on_the_devices_stays(all_devices):
    pool = parallel.replicate(all_devices, np.arange(6.0))
    batch = {'x': np.arange(16.0), 'pool': pool}
    placed = parallel.shard_batch(all_devices, batch)
    assert placed['pool'] is pool
    assert placed['x'].sharding.is_equivalent_to(all_devices.batch, 1)
    assert len(placed['x'].addressable_shards) == 8
    np.testing.assert_array_equal(placed['x'], np.arange(16.0))


def test_programs_of_several_devices_are_not_cached(
    one_device, tmp_path, request
):
    """They would wait for each other for ever, see the function's docstring."""
    settings = {
        'jax_compilation_cache_dir': str(tmp_path),
        'jax_persistent_cache_min_compile_time_secs': 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        parallel.use_compilation_cache(True)

        def compile_anew():
            before = len(list(tmp_path.iterdir()))
            jax.jit(lambda x: x @ x.T + 1).lower(jnp.ones((9, 9))).compile()
            return len(list(tmp_path.iterdir())) - before

        assert compile_anew() > 0
        request.getfixturevalue('all_devices')
        jax.clear_caches()
        assert compile_anew() == 0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        parallel.use_compilation_cache(True)


def test_one_process_feeds_the_whole_batch(all_devices):
    assert all_devices.shard == (0, 1)
    assert all_devices.num_devices == 8
    assert all_devices.platform == 'cpu'


@pytest.fixture
def flags(monkeypatch):
    """`xla_flags`, which forgets what it found out before and after."""
    monkeypatch.delenv(xla_flags.VARIABLE, raising=False)
    xla_flags.of_networks.cache_clear()
    yield xla_flags
    xla_flags.of_networks.cache_clear()


def test_networks_on_cpu_leave_convolutions_to_eigen(flags):
    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.sum(jnp.sin(conv2d(x, k))))(kernel)

    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 32))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 32)) / 17
    options = flags.of_networks('cpu')
    assert options
    jitted = jax.jit(gradient, compiler_options=options)
    text = jitted.lower(x, kernel).compile().as_text()
    assert text.count(' convolution(') == 2
    assert '__ynn_fusion' not in text
    np.testing.assert_allclose(
        jitted(x, kernel), jax.jit(gradient)(x, kernel), rtol=1e-4, atol=1e-4
    )


def test_the_users_flags_and_other_compilers_are_left_alone(flags, monkeypatch):
    assert flags.of_networks('gpu') == flags.of_networks('tpu') == {}
    monkeypatch.setattr(flags, '_LIBRARY', {'xla_cpu_no_such_option': 'x'})
    assert flags.of_networks('cpu') == {}
    flags.of_networks.cache_clear()
    monkeypatch.undo()
    (name,) = flags.of_networks('cpu')
    flags.of_networks.cache_clear()
    monkeypatch.setenv(flags.VARIABLE, f'--{name}=')
    assert flags.of_networks('cpu') == {}
