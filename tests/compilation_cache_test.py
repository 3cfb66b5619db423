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
    ],
)
def test_where_programs_are_kept(workdir, variables, expected):
    found = compilation_cache.folder(workdir, variables)
    assert (found and str(found)) == expected


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

    monkeypatch.delenv('MNEMONICS_JAX_CACHE')
    with pytest.raises(subprocess.CalledProcessError) as caught:
        start.start(tmp_path / 'file' / 'run', *QUICK, variables=ONE_DEVICE)
    assert f'--workdir={tmp_path}/file/run' in caught.value.stderr
