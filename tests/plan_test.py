"""A plan needs no data and no device, and says what fits."""

import collections
import importlib.util
import json
import math
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from mnemonics_jax import config as config_lib
from mnemonics_jax import experiment
from mnemonics_jax.backbones import conv
from mnemonics_jax.core import parallel
from mnemonics_jax.experiment import components, step_counts, step_shapes
from mnemonics_jax.plan import chips, compiling, request, table

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import aot
import plans as plans_benchmark

CIFAR = '--config=cifar100:phases=5'


@pytest.mark.parametrize(
    ('name', 'number', 'topology', 'bounds'),
    [
        ('v4-2', 1, 'v4:1x1x1', (1, 1, 1)),
        ('v4-8', 4, 'v4:2x2x1', (2, 2, 1)),
        ('v4-16', 8, 'v4:2x2x2', (2, 2, 1)),
        ('v4-32', 16, 'v4:2x2x4', (2, 2, 1)),
        ('v4-64', 32, 'v4:2x4x4', (2, 2, 1)),
        ('v5p-128', 64, 'v5p:4x4x4', (2, 2, 1)),
        ('v5e-1', 1, 'v5e:1x1', (1, 1, 1)),
        ('v5e-4', 4, 'v5e:2x2', (2, 2, 1)),
        ('v5litepod-8', 8, 'v5e:2x4', (2, 4, 1)),
        ('v6e-16', 16, 'v6e:4x4', (2, 2, 1)),
    ],
)
def test_a_slice_has_the_shape_by_which_it_is_rented(
    name, number, topology, bounds
):
    found = chips.find(name)
    assert (found.num_chips, found.topology) == (number, topology)
    assert found.host_bounds == bounds
    assert np.prod(found.sides) == number


def test_gpus_are_of_machines_of_eight():
    assert chips.find('a100:1').topology == '1x1x1'
    assert chips.find('h100:8').topology == '1x1x8'
    assert chips.find('h200:16').topology == '1x2x8'
    text = chips.target_config(chips.CHIPS['h100'])
    assert 'core_count: 132' in text
    assert f'device_memory_size: {chips.CHIPS["h100"].memory}\n' in text


def test_the_clock_of_a_tpu_gives_its_peak():
    """Twice a product a cycle and multiplier, see `chips`."""
    multipliers = {
        'v4': 8 * 128**2,
        'v5p': 8 * 128**2,
        'v5e': 4 * 128**2,
        'v6e': 4 * 256**2,
    }
    for name, number in multipliers.items():
        chip = chips.CHIPS[name]
        assert chip.peak == pytest.approx(2 * number * chip.clock, rel=0.003)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ([CIFAR], '--chips: must be a TPU slice such as v4-32'),
        ([CIFAR, '--chips=v4-33'], '--chips=v4-33: v4- must be followed by'),
        ([CIFAR, '--chips=v4:8'], '--chips=v4:8: must be a TPU slice'),
        ([CIFAR, '--chips=h100:12'], '--chips=h100:12: must be up to 8 GPUs'),
        (
            ['--config=imagenet', '--chips=v4-8'],
            '--classes: must be an integer >= 1 for data.source=folder',
        ),
        (
            [CIFAR, '--chips=v4-8', '--config.exemplars.bytes_per_class=9999'],
            'exemplars.bytes_per_class or bytes_total: how many images fit',
        ),
        ([CIFAR, '--chips=v4-8', '--batch=3'], '--batch=3: no such flag'),
        (
            [CIFAR, '--chips=v4-8', '--config.train.batch=3'],
            "--config.train.batch=3: no field 'batch'",
        ),
    ],
)
def test_a_mistake_is_one_line(flags, words):
    with pytest.raises(ValueError) as caught:
        request.parse(flags)
    assert str(caught.value).startswith(words)


def test_data_are_described_and_not_read():
    asked = request.parse([CIFAR, '--chips=v4-32'])
    source = asked.source
    assert source.image_shape == (32, 32, 3)
    assert np.bincount(source.labels['train']).tolist() == [500] * 100
    assert np.bincount(source.labels['test']).tolist() == [100] * 100
    asked = request.parse(
        [
            '--config=imagenet_subset',
            '--chips=h100:8',
            '--classes=1000',
            '--images_per_class=1300',
            '--test_images_per_class=50',
        ]
    )
    assert asked.source.image_shape == (224, 224, 3)
    assert asked.source.encoded is not None


def test_flags_of_fields_are_those_of_a_run():
    asked = request.parse(
        [CIFAR, '--chips=v4-32', '--config.train.batch_size', '64']
    )
    assert asked.config.train.batch_size == 64
    assert asked.config.protocol.phases == 5


def test_described_devices_get_shapes_and_the_form_of_their_platform(
    tiny_config, one_device
):
    """Arrays would have nowhere to lie; loops are no trouble for TPUs."""
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    kernel = np.ones((3, 3, 1, 1), np.float32)
    images = np.ones((1, 8, 8, 1), np.float32)
    real = step_shapes.some_key(parts)
    assert np.asarray(jax.random.key_data(real)).shape == (2,)
    assert has_own_rule(images, kernel)
    with parallel.compiling_for('tpu'):
        shape = step_shapes.some_key(parts, 2)
        assert isinstance(shape, jax.ShapeDtypeStruct)
        assert (shape.shape, shape.dtype) == ((2,), real.dtype)
        assert not has_own_rule(images, kernel)
    assert parallel.described_platform() is None


def has_own_rule(images, kernel):
    """Whether a convolution is the form with gradients of its own."""

    def convolve(x, k):  # A new function, which JAX has not traced yet.
        return conv.conv2d(x, k)

    return 'custom_vjp' in str(jax.make_jaxpr(convolve)(images, kernel))


def counting(function, kind, taken):
    """The steps of a trainer or learner, which adds to `taken[kind]`."""

    def steps(state, inputs, num):
        taken[kind] += num
        return function(state, inputs, num)

    return steps


def test_a_run_takes_as_many_steps_as_are_counted(
    tiny_config, one_device, tmp_path
):
    """Of the kinds that are loops; nothing is held out."""
    tiny_config.method.name = 'icarl'
    tiny_config.data.feed = 'device'
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    taken = collections.Counter()
    kinds = {'base': 'training', 'later': 'training', 'finetune': 'fine-tuning'}
    trainers = {
        name: getattr(parts.trainers, name)._replace(
            steps=counting(getattr(parts.trainers, name).steps, kind, taken)
        )
        for name, kind in kinds.items()
    }
    learner = {
        name: counting(getattr(parts.learner, name), kind, taken)
        for name, kind in (
            ('learn', 'learning exemplars'),
            ('adjust', 'adjusting exemplars'),
        )
    }
    counted = step_counts.steps_of_run(parts, 2)
    parts = parts._replace(
        trainers=components.Trainers(**trainers),
        learner=parts.learner._replace(**learner),
    )
    experiment.run(parts, tmp_path)
    assert len(taken) == 4
    assert taken == {name: counted[name] for name in taken}


def test_steps_of_features_and_evaluation_cover_all_images(
    tiny_config, one_device
):
    """6 classes of 12 and 6 images, 2 a phase; batches of 16."""
    tiny_config.exemplars.init = 'herding'
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    counted = step_counts.steps_of_run(parts, 2)
    assert counted['evaluation'] == 1 + 2 + 3  # 12, 24 and 36 images.
    # 24 images, twice after phase 0: the head's new rows need them, too.
    assert counted['features'] == 2 + 4 + 4
    names = [each.name for each in step_shapes.programs(parts, 2)]
    assert set(names) == set(counted)
    tiny_config.update_from_flattened_dict(
        {'exemplars.init': 'random', 'method.imprint': False}
    )
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    assert 'features' not in step_counts.steps_of_run(parts, 2)
    # All classes seen, for the nearest mean of all images: 24, 48 and 72.
    tiny_config.evaluate.oracle = True
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    counted = step_counts.steps_of_run(parts, 2)
    assert counted['features'] == 2 + 3 + 5
    assert counted['evaluation'] == 2 * (1 + 2 + 3)
    features = step_shapes.features(parts, 2)
    assert features.num_images == 16


ROW = {
    'program': 'training',
    'status': compiling.COMPILED,
    'num_steps': 4,
    'num_images': 128,
    'argument_bytes': 3_000_000,
    'temporary_bytes': 5_000_000,
    'needed_bytes': 2**33,
    'cost': {
        'flops': 4 * 275e9,
        'hbm_bytes': 4 * 12e8,
        'kernels': 4 * 50,
        'cycles': 4 * 2_100_000,
        'collectives': {'all-reduce': {'calls': 8, 'bytes': 4_000_000}},
        'loops': [],
        'largest_image_copy': 0,
    },
}


def test_figures_follow_from_what_was_read():
    """1 ms of operations and of bytes, 2 ms of cycles, on a v4."""
    found = table.figures(ROW, chips.CHIPS['v4'], 1000)
    assert found['bound_seconds'] == pytest.approx(1e-3)
    assert found['estimated_seconds'] == pytest.approx(2e-3)
    assert found['run_estimated_seconds'] == pytest.approx(2.0)
    assert found['collectives'] == {
        'all-reduce': {'calls': 2, 'bytes': 1_000_000}
    }
    # Of GPUs there is no estimate.
    gpu = table.figures(ROW, chips.CHIPS['h100'], 1000)
    assert gpu['estimated_seconds'] is None
    assert gpu['bound_seconds'] == pytest.approx(12e8 / 3.35e12)


def report_of(*rows, name='v4-32', crops_on_host=False):
    chip = chips.find(name).chip
    rows = [{**row, 'figures': table.figures(row, chip, 9000)} for row in rows]
    run = table.whole_run(rows)
    return {
        'chips': name,
        'images': 'some',
        'crops_on_host': crops_on_host,
        'programs': rows,
        'run': run,
    }


def test_the_table_says_what_a_run_takes():
    text = table.render(report_of(ROW))
    assert text.startswith('16 x v4, 32.0 GiB each\nimages: some\n')
    cells = next(
        line for line in text.splitlines() if line.startswith('training')
    )
    assert re.split('  +', cells) == [
        *('training', 'yes', '3 MB', '5 MB', '25.0%', '275.0', '1,200', '50'),
        *('2, 1.0 MB', '2.00', '64,000', '1.00', '9,000', '18 s', '9 s'),
    ]
    assert 'training: 2 all-reduce of 1.00 MB' in text
    assert 'whole run: 18 s by the estimate of the compiler; ' in text


def test_the_table_says_how_many_cores_decode_as_fast_as_it_trains():
    """64,000 images a second; without an estimate, those of the bound."""
    text = table.render(report_of(ROW, crops_on_host=True))
    assert 'input: 105 to 168 cores of all hosts together' in text
    assert 'input:' not in table.render(report_of(ROW))
    gpu = report_of(ROW, name='h100:8', crops_on_host=True)
    rate = 128 / (12e8 / 3.35e12)
    assert table.cores_to_decode(gpu['programs']) == (
        math.ceil(rate / 615),
        math.ceil(rate / 382),
    )


def test_durations_have_the_unit_that_suits_them():
    seconds = (None, 0.5, 18, 7190, 18_360)
    words = ['-', '0.5 s', '18 s', '120 min', '5.1 h']
    assert [table.duration(each) for each in seconds] == words


def test_a_program_that_does_not_compile_is_a_row():
    crash = {'program': 'x', 'status': compiling.CRASHED, 'reason': 'SIGSEGV'}
    large = {
        'program': 'y',
        'status': compiling.TOO_LARGE,
        'remedy': 'train.batch_size=128: must be at most 64',
    }
    lines = table.render(report_of(ROW, crash, large)).splitlines()
    assert any(line.startswith('x  ') for line in lines)
    assert 'x: the compiler crashed (SIGSEGV)' in lines
    assert 'train.batch_size=128: must be at most 64' in lines
    assert lines[-1].startswith('whole run: unknown')


def test_a_crash_of_the_compiler_does_not_end_the_command(monkeypatch):
    def crash(command, **options):
        code = (
            'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)'
            if command[4] == 'crashes'
            else 'import sys; sys.exit("no such thing")'
        )
        return run([sys.executable, '-c', code], **options)

    run = subprocess.run
    monkeypatch.setattr(compiling.subprocess, 'run', crash)
    assert compiling.in_process_of_its_own([], 'crashes') == {
        'program': 'crashes',
        'status': compiling.CRASHED,
        'reason': 'SIGSEGV',
    }
    assert compiling.in_process_of_its_own([], 'fails') == {
        'program': 'fails',
        'status': compiling.FAILED,
        'reason': 'no such thing',
    }


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(
        compiling.importlib.util, 'find_spec', lambda name: None
    )
    with pytest.raises(ValueError) as caught:
        compiling.placement_on(chips.find('v4-8'))
    assert str(caught.value) == (
        '--chips: needs libtpu, which is not installed; to install it: pip '
        "install 'mnemonics-jax[plan]'"
    )


def test_gates_of_the_benchmark_fail_for_what_they_name():
    good = {
        'chips': 'v4-2',
        **ROW,
        'exemplar_bytes': 100,
        'figures': table.figures(ROW, chips.CHIPS['v4'], 0),
    }
    assert list(aot.failures(good, good)) == []
    loop = {'by_compiler': True, 'trips': 128, 'times': 4, 'name': 'f/gather'}
    bad = {
        **good,
        'cost': {**ROW['cost'], 'largest_image_copy': 100, 'loops': [loop]},
        'figures': {**good['figures'], 'kernels': 60},
    }
    assert list(aot.failures(bad, good)) == [
        'v4-2, training: 0.0 MB of images are laid out anew',
        'v4-2, training: a loop of 128 rounds: f/gather',
        'v4-2, training: kernels a step: 60, were 50',
    ]
    crash = {**good, 'status': compiling.CRASHED, 'reason': 'SIGSEGV'}
    assert list(aot.failures(crash, good)) == [
        'v4-2, training: the compiler crashed (SIGSEGV)'
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='libtpu is not installed (the extra plan)',
)
def test_evaluation_compiles_for_a_tpu_without_one():
    row = aot.measure('v4-2', 'evaluation', aot.CONFIG)
    assert row['status'] == compiling.COMPILED
    assert row['needed_bytes'] < chips.CHIPS['v4'].memory
    assert not any(loop['by_compiler'] for loop in row['cost']['loops'])
    # Two networks and three heads of 100 classes on 256 images.
    products = 2 * RESNET32 + 3 * 64 * 100
    assert row['figures']['flops'] == 2 * 256 * products


# Products of ResNet-32 on an image, without those of the padding: on a side of
# n pixels, the taps of a 3 x 3 kernel meet 3n - 2 pixels, or with a stride of 2
# 3n / 2 - 1.
RESNET32 = (
    94**2 * (3 * 16 + 10 * 16**2)
    + 47**2 * 16 * 32
    + 16**2 * 16 * 32
    + 46**2 * 9 * 32**2
    + 23**2 * 32 * 64
    + 8**2 * 32 * 64
    + 22**2 * 9 * 64**2
)


def test_the_table_of_plans_is_that_of_the_record():
    record = ROOT / 'benchmarks' / 'results' / 'plans.json'
    plans = json.loads(record.read_text())['plans']
    assert len(plans) == len(plans_benchmark.SHAPES) * len(
        plans_benchmark.CHIPS
    )
    for plan in plans:
        assert len(plan['programs']) == 5
        for each in plan['programs']:
            assert each['status'] == 'compiled'
            assert each['needed_bytes'] < plans_benchmark.room(plan['chips'])
    page = (ROOT / 'docs' / 'devices.md').read_text()
    assert plans_benchmark.table(plans) in page
