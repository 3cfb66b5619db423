"""Eight fake devices, and compilations shared between workers and runs."""

import os
import pathlib
from collections.abc import Iterator

import compiling

# Before JAX is imported anywhere: it reads these once.
os.environ['JAX_PLATFORMS'] = 'cpu'
# Programs of eight devices that overlap could wait for each other's threads.
os.environ['JAX_CPU_ENABLE_ASYNC_DISPATCH'] = 'false'
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '')
    + ' --xla_force_host_platform_device_count=8'
    # Eight devices share two cores: waiting for each other takes its time.
    + ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
    + ' --xla_cpu_collective_call_warn_stuck_timeout_seconds=120'
    + f' {compiling.QUICKLY}'
)
CACHE = pathlib.Path(__file__).parent.parent / '.jax_cache'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
# A run has dozens of small programs, and loading one takes milliseconds.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')

import jax
import pytest
from absl import logging
from ml_collections import config_dict

from mnemonics_jax.config import default_config
from mnemonics_jax.core import parallel, plugins
from tests import saved_runs

LOG_LEVEL = logging.get_verbosity()
STEPS = (
    'jit(train)',
    'jit(learn)',
    'jit(adjust)',
    'jit(embed)',
    'jit(count)',
)


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for kind in plugins.KINDS:
        monkeypatch.setitem(plugins._registered, kind, {})


@pytest.fixture(autouse=True)
def log_level() -> None:
    """A command that ran in this process silenced logs for later tests."""
    logging.set_verbosity(LOG_LEVEL)


@pytest.fixture(scope='session')
def one_device() -> parallel.Placement:
    """A placement on a single device."""
    return parallel.make_placement(jax.devices()[:1])


@pytest.fixture
def all_devices() -> Iterator[parallel.Placement]:
    """A placement on all eight fake devices.

    See `parallel.avoid_cached_collectives`: here for one test at a time.
    """
    parallel.avoid_cached_collectives()
    yield parallel.make_placement()
    parallel.use_compilation_cache(True)


@pytest.fixture
def tiny_config() -> config_dict.ConfigDict:
    """Everything on, at the least size: seconds a phase.

    But for the report, whose figures take longer than the run.
    """
    config = default_config()
    config.update_from_flattened_dict(
        {
            'report': False,
            'data.source': 'synthetic',
            'data.num_classes': 6,
            'data.train_per_class': 12,
            'data.test_per_class': 6,
            'data.image_size': 8,
            'data.channels': 1,
            'data.pad': 1,
            'data.flip': True,
            'backbone.name': 'convnet_tiny',
            'weight_transfer': False,
            'protocol.base_classes': 2,
            'protocol.phases': 2,
            'train.epochs': 2,
            'train.batch_size': 16,
            'train.milestones': (1,),
            'exemplars.preset': 'bilevel',
            'exemplars.per_class': 3,
            'exemplars.adjust': True,
            'exemplars.outer_steps': 3,
            'exemplars.adjust_steps': 3,
            'exemplars.inner_steps': 2,
            'exemplars.query_batch': 8,
            'finetune.epochs': 1,
            'finetune.batch_size': 8,
            'evaluate.batch_size': 16,
        }
    )
    return config


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Names of the steps that are compiled while a test runs."""
    names = []

    def listen(event, duration, **more):
        del duration
        name = more.get('fun_name')
        if event.endswith('backend_compile_duration') and name in STEPS:
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope='session')
def saved_run(tmp_path_factory, one_device):
    """A small run on a folder of images: three phases, of which two stay."""
    return saved_runs.make(tmp_path_factory.mktemp('saved'), one_device)
