"""Programs kept on disk: where, and that a second start compiles nothing."""

import os
import pathlib
import subprocess
import sys

import compiling
import jax
import pytest
from command import assert_refused, run_module

from mnemonics_jax.core import compilation_cache

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import start

# Up to the first step; compiling dominates here, and running does not.
QUICK = (
    '--config.data.source=synthetic',
    '--config.data.feed=device',
    '--config.data.num_classes=10',
    '--config.data.channels=1',
    '--config.backbone.name=convnet_tiny',
)
ONE_DEVICE = {'XLA_FLAGS': compiling.QUICKLY}


def entries(folder):
    """Names and times of what lies in a folder."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_second_start_compiles_nothing(tmp_path):
    """The real command, ended at its first step, on one device."""
    cache = tmp_path / '.jax_cache'
    cold = start.start(tmp_path / 'one', *QUICK, variables=ONE_DEVICE)
    kept = entries(cache)
    assert cold['loaded'] < cold['compilations'] <= len(kept)
    warm = start.start(tmp_path / 'two', *QUICK, variables=ONE_DEVICE)
    assert warm['loaded'] == warm['compilations'] == cold['compilations']
    assert entries(cache) == kept

    # What a process that was killed while it wrote, or a full disk, may leave.
    whole = max(cache.iterdir(), key=lambda path: path.stat().st_size)
    whole.write_bytes(whole.read_bytes()[:1000])
    torn = start.start(tmp_path / 'three', *QUICK, variables=ONE_DEVICE)
    assert torn['loaded'] == torn['compilations'] - 1


def test_programs_of_several_cpu_devices_are_not_kept(tmp_path):
    found = start.start(
        tmp_path / 'run',
        *QUICK,
        variables={
            'XLA_FLAGS': ONE_DEVICE['XLA_FLAGS']
            + ' --xla_force_host_platform_device_count=2'
        },
    )
    assert found['compilations'] > 0
    assert not (tmp_path / '.jax_cache').exists()


@pytest.mark.parametrize(
    ('workdir', 'variables', 'expected'),
    [
        ('/runs/one', {}, '/runs/.jax_cache'),
        ('/runs/one/', {}, '/runs/.jax_cache'),
        ('runs/one', {}, f'{os.getcwd()}/runs/.jax_cache'),
        ('/runs/one', {'MNEMONICS_JAX_CACHE': '/kept'}, '/kept'),
        ('/runs/one', {'MNEMONICS_JAX_CACHE': 'off'}, None),
        ('/runs/one', {'MNEMONICS_JAX_CACHE': ''}, None),
        ('gs://b/one', {'XDG_CACHE_HOME': '/c'}, '/c/mnemonics_jax/jax_cache'),
        (
            'gs://b/one',
            {},
            f'{pathlib.Path.home()}/.cache/mnemonics_jax/jax_cache',
        ),
        ('gs://b/one', {'MNEMONICS_JAX_CACHE': 'off'}, None),
        ('gs://b/one', {'MNEMONICS_JAX_CACHE': 'gs://c/kept'}, 'gs://c/kept'),
        ('/runs/one', {'MNEMONICS_JAX_CACHE': 'gs://c/kept'}, 'gs://c/kept'),
    ],
)
def test_where_programs_are_kept(workdir, variables, expected):
    found = compilation_cache.folder(workdir, variables)
    assert found == expected


# Compiles a program as process ID, with a folder in place of Cloud Storage.
IN_BUCKET = """
import os, sys, types
import fsspec
from fsspec.implementations import local

class Buckets(local.LocalFileSystem):
    def __init__(self, finalize_on_close):
        super().__init__(auto_mkdir=True)

    @classmethod
    def _strip_protocol(cls, path):
        path = path.replace('gs://', os.environ['BUCKETS'] + '/')
        return local.LocalFileSystem._strip_protocol(path)

fsspec.register_implementation('gcs', Buckets, clobber=True)
for name in ('gcsfs', 'google', 'google.cloud', 'google.cloud.storage'):
    sys.modules[name] = types.ModuleType(name)

import jax
from jax._src import distributed
from mnemonics_jax.core import compilation_cache

loaded = []
jax.monitoring.register_event_listener(
    lambda name, **_: loaded.append(name.endswith('/cache_hits'))
)
jax.devices()  # As in the real thing, no part of what names a program.
distributed.global_state.process_id = int(os.environ['ID'])
try:
    compilation_cache.keep_programs('gs://bucket/run')
except ValueError as e:
    sys.exit(str(e))
jax.jit(lambda x: 3 * x).lower(jax.ShapeDtypeStruct((2,), 'float32')).compile()
print(sum(loaded), jax.config.jax_persistent_cache_enable_xla_caches)
"""


def compile_in_bucket(buckets, process_id):
    """Ends `IN_BUCKET`, with the cache gs://bucket/cache."""
    unset = {k: v for k, v in os.environ.items() if k not in start.CACHES}
    return subprocess.run(
        [sys.executable, '-c', IN_BUCKET],
        cwd=ROOT,
        env={
            **unset,
            **ONE_DEVICE,
            'BUCKETS': str(buckets),
            'ID': str(process_id),
            'MNEMONICS_JAX_CACHE': 'gs://bucket/cache',
            # Else the program is compiled too fast to be kept.
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        },
        capture_output=True,
        text=True,
    )


def test_process_0_writes_programs_to_a_bucket_and_the_others_read_them(
    tmp_path,
):
    cache = tmp_path / 'bucket' / 'cache'
    cache.parent.mkdir()
    for process_id, loads in ((1, 0), (0, 0), (1, 1), (0, 1)):
        done = compile_in_bucket(tmp_path, process_id)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(loads), 'none']
        wrote = bool(list(cache.glob('*-cache')))
        assert wrote == ((process_id, loads) != (1, 0))
    assert not list(ROOT.glob('gs:*'))


def test_a_bucket_that_is_not_there_is_refused(tmp_path):
    done = compile_in_bucket(tmp_path, 0)
    assert done.returncode == 1
    assert done.stderr == (
        'MNEMONICS_JAX_CACHE=gs://bucket/cache: must be in a bucket that '
        'exists\n'
    )


def test_what_jax_was_told_stays(tmp_path, monkeypatch):
    monkeypatch.setenv('MNEMONICS_JAX_CACHE', str(tmp_path / 'other'))
    before = jax.config.jax_compilation_cache_dir
    assert before is not None
    compilation_cache.keep_programs(tmp_path / 'run')
    assert jax.config.jax_compilation_cache_dir == before


def test_a_folder_that_cannot_be_written_is_refused_if_it_was_asked_for(
    tmp_path, monkeypatch
):
    (tmp_path / 'file').write_text('in the way')
    path = str(tmp_path / 'file' / 'cache')
    for name in start.CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MNEMONICS_JAX_CACHE', path)
    done = run_module('main', f'--workdir={tmp_path}/run')
    assert_refused(
        done, f'MNEMONICS_JAX_CACHE={path}', 'must be a writable', 'off'
    )
    assert not (tmp_path / 'run').exists()

    monkeypatch.setenv('MNEMONICS_JAX_CACHE', 's3://bucket/cache')
    done = run_module('main', f'--workdir={tmp_path}/run')
    assert_refused(
        done,
        'MNEMONICS_JAX_CACHE=s3://bucket/cache: must be a directory or '
        'gs://BUCKET/FOLDER',
    )

    # Bytes that are no UTF-8: XLA does not take them.
    for name, rule in (
        ('JAX_COMPILATION_CACHE_DIR', 'must be UTF-8'),
        ('MNEMONICS_JAX_CACHE', 'must be a writable directory'),
    ):
        monkeypatch.delenv('MNEMONICS_JAX_CACHE', raising=False)
        monkeypatch.setenv(name, f'{tmp_path}/\udcff')
        done = run_module('main', f'--workdir={tmp_path}/run')
        assert_refused(done, f'{name}={tmp_path}/\\udcff: {rule}')
        monkeypatch.delenv(name)

    with pytest.raises(subprocess.CalledProcessError) as caught:
        start.start(tmp_path / 'file' / 'run', *QUICK, variables=ONE_DEVICE)
    assert f'--workdir={tmp_path}/file/run' in caught.value.stderr
