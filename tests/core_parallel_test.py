"""Batches on their way to the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.core import parallel


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
