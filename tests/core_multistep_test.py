"""Many steps in one dispatch: the same steps, and fewer copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax import experiment
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.data.device_batch import batch_images, to_rows

B = 8


def host_batches(num, *, resident=False):
    """Batches that tell all examples apart; `resident` ones name rows."""
    pool = jnp.arange(num * B * 4, dtype=jnp.uint8).reshape(-1, 2, 2, 1)
    rows = to_rows(pool)
    for step in range(num):
        row = np.arange(step * B, (step + 1) * B, dtype=np.int32)[::-1]
        weight = np.ones(B, np.float32)
        if step == num - 1:
            weight[5:] = 0
        image = {'image': np.asarray(pool)[row]}
        if resident:
            image = {'pool': rows, 'row': row}
        yield {**image, 'index': row, 'weight': weight}


def seen_by_steps(placement, dispatches, first):
    """What a step sees of each batch, taken as `Trainer.steps` takes them."""

    def step(state, stacked):
        batch = multistep.batch_at(stacked, state)
        image = batch_images(batch).astype(jnp.float32).sum(axis=(1, 2, 3))
        return state + 1, {'image': image, 'index': batch['index']}

    steps = multistep.repeat(step, placement, 'step')
    state, found = parallel.replicate(placement, np.int32(first)), []
    for dispatch in dispatches:
        state, metrics = steps(state, dispatch.inputs, dispatch.num_steps)
        found.append(jax.device_get(metrics))
    return {
        name: np.concatenate([metrics[name] for metrics in found])
        for name in ('image', 'index')
    }


@pytest.mark.parametrize('resident', [False, True])
@pytest.mark.parametrize('devices', ['one_device', 'all_devices'])
@pytest.mark.parametrize(('num', 'sizes'), [(1, [1] * 7), (3, [3, 3, 1])])
def test_each_step_gets_its_own_batch(request, devices, resident, num, sizes):
    placement = request.getfixturevalue(devices)
    expected = list(host_batches(7))
    found = list(
        multistep.dispatches(
            placement,
            host_batches(7, resident=resident),
            first=20,
            num=num,
            capacity=9,
        )
    )
    assert [dispatch.num_steps for dispatch in found] == sizes
    assert sum(dispatch.num_images for dispatch in found) == 6 * B + 5
    seen = seen_by_steps(placement, found, first=20)
    for step, batch in enumerate(expected):
        np.testing.assert_array_equal(seen['index'][step], batch['index'])
        sums = batch['image'].sum(axis=(1, 2, 3), dtype=np.float32)
        np.testing.assert_array_equal(seen['image'][step], sums)


def test_rows_of_a_whole_epoch_are_one_block_of_one_shape(one_device):
    """Whatever is left of the epoch: one block, so nothing more is copied."""
    shapes = set()
    for left in (7, 4, 1):
        found = list(
            multistep.dispatches(
                one_device,
                host_batches(left, resident=True),
                first=7 - left,
                num=2,
                capacity=7,
            )
        )
        assert len({id(dispatch.inputs) for dispatch in found}) == 1
        shapes.add(found[0].inputs.columns['index'].shape)
    assert shapes == {(7, B)}


def test_no_batches_are_no_dispatches(one_device):
    arguments = {'first': 0, 'num': 2, 'capacity': 3}
    assert not list(multistep.dispatches(one_device, [], **arguments))


@pytest.fixture(scope='module')
def configure(request):
    """Configurations of a run with several dispatches in each stage."""

    def make(config, **fields):
        config.update_from_flattened_dict(
            {
                'train.batch_size': 8,
                'exemplars.outer_steps': 5,
                'protocol.base_classes': 4,
                'protocol.phases': 1,
                'method.name': 'finetune',  # Of the smallest programs.
                **fields,
            }
        )
        return config

    return make


def test_a_run_does_not_depend_on_how_many_steps_a_dispatch_takes(
    tiny_config, tmp_path, one_device, configure
):
    """Compared by all that it leaves; the rounding of fused loops differs."""
    found = {}
    for num in (None, 3):
        config = configure(tiny_config, steps_per_dispatch=num)
        workdir = tmp_path / str(num)
        parts = experiment.prepare(config, workdir, one_device)
        results = experiment.run(parts, workdir)
        found[num] = results, np.load(workdir / 'exemplars' / 'phase_1.npz')
    (one, images), (several, others) = found.values()
    for phase, other in zip(one['phases'], several['phases'], strict=True):
        assert phase['confusion'] == other['confusion']
        for each in (phase, other):
            each['exemplars'] |= each['exemplars'].pop('border')
        assert phase['exemplars'] == pytest.approx(other['exemplars'], rel=1e-3)
    change = images['images'].astype(int) - others['images']
    assert np.abs(change).max() <= 1
    records = [
        read_records(tmp_path / str(num) / 'metrics.jsonl') for num in (None, 3)
    ]
    for one, other in zip(*records, strict=True):
        assert one.pop('stage') == other.pop('stage')
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_a_resident_epoch_copies_nothing_after_its_first_dispatch(
    tiny_config, tmp_path, one_device, configure
):
    """All that the dispatches of an epoch read are the same device arrays."""
    config = configure(tiny_config, steps_per_dispatch=2)
    config.data.feed = 'device'
    config.train.epochs = 3
    config.exemplars.strategy = 'none'
    config.exemplars.adjust = False
    config.protocol.update(base_classes=6, phases=0)
    parts = experiment.prepare(config, tmp_path, one_device)
    taken = []

    def spy(state, inputs, num):
        taken.append((num, inputs))
        return steps(state, inputs, num)

    steps = parts.trainers.base.steps
    base = parts.trainers.base._replace(steps=spy)
    parts = parts._replace(trainers=parts.trainers._replace(base=base))
    experiment.run(parts, tmp_path)
    # 72 images: 9 batches, so 4 dispatches of two steps and one of one.
    assert [num for num, _ in taken] == [2, 2, 2, 2, 1] * 3
    for epoch in range(3):
        leaves = [
            jax.tree.leaves(inputs) for _, inputs in taken[5 * epoch :][:5]
        ]
        assert all(isinstance(leaf, jax.Array) for leaf in leaves[0])
        for later in leaves[1:]:
            assert all(a is b for a, b in zip(leaves[0], later, strict=True))
    pools = [inputs[0].pool for _, inputs in taken]
    assert all(pool is pools[0] for pool in pools)
