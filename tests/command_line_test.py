"""What the command line makes of flags, and what it needs to do so."""

import os
import shlex
import subprocess
import sys

import pytest
from command import ROOT, assert_refused, call_main

from mnemonics_jax import config as config_lib
from mnemonics_jax.config import arguments, default_config
from mnemonics_jax.core import dependencies


def run(*command, **environment):
    """Runs Python, in which an environment without a device may be set."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def printed(*flags):
    done = call_main(*flags, '--print_config')
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def test_what_is_printed_is_the_configuration_and_touches_no_device():
    asked = ('--config=cifar100:phases=10', '--config.method.name=icarl')
    done = run(
        '-m',
        'mnemonics_jax.main',
        *asked,
        '--print_config',
        JAX_PLATFORMS='cuda',
    )
    assert done.returncode == 0, done.stderr
    flags = shlex.split(done.stdout)
    wanted = {
        '--config.protocol.phases=10',
        '--config.data.dir=None',
        '--config.train.milestones=80,120',
        # Filled in by the preset, and by the method.
        '--config.exemplars.outer_steps=150',
        '--config.finetune.scope=all',
        '--config.method.icarl.temperature=2.0',
    }
    assert wanted <= set(flags)
    # On top of another configuration they are this one again.
    assert printed(*flags, '--config=digits') == flags
    assert printed('--config.train.milestones=()', *asked).count(
        '--config.train.milestones=()'
    )


def test_a_field_may_be_none_and_stand_before_its_file():
    small = '--config.data.image_size=32'
    unset = '--config.data.image_size=None'
    assert small in printed('--config=folder')
    assert unset in printed(unset, '--config=folder')
    # Adjusting is the file's choice; None leaves it to the preset.
    assert '--config.exemplars.adjust=true' in printed('--config=digits')
    found = printed('--config.exemplars.adjust=None', '--config', 'digits')
    assert '--config.exemplars.adjust=false' in found


@pytest.mark.parametrize(
    'command',
    [
        '-m mnemonics_jax.main',
        '-m mnemonics_jax.predict',
        '-m mnemonics_jax.report',
        'launch/sweep.py',
        'benchmarks/readme_picture.py',
    ],
)
def test_without_the_environment_a_command_says_so(command, tmp_path):
    # -S leaves out what is installed.
    done = run('-S', *command.split(), f'{tmp_path}/run')
    assert_refused(done, 'not installed for', 'source .venv/bin/activate')


def test_a_missing_device_and_a_missing_package_are_one_line(tmp_path):
    done = run(
        '-m',
        'mnemonics_jax.main',
        f'--workdir={tmp_path}/run',
        JAX_PLATFORMS='cuda',
    )
    platform = 'JAX_PLATFORMS=cuda: must be a platform with a device'
    assert_refused(done, platform)
    assert not (tmp_path / 'run').exists()
    code = (
        'import mnemonics_jax as m; m.run_experiment(m.default_config(), "run")'
    )
    done = run('-c', code, JAX_PLATFORMS='cuda')
    assert done.stderr.splitlines()[-1].startswith(f'ValueError: {platform}')
    code = (
        'import sys; sys.modules["optax"] = None; '
        'from mnemonics_jax.main import command; command()'
    )
    done = run('-c', code, f'--workdir={tmp_path}/run')
    assert_refused(done, 'optax: not installed for', 'pip install -e .')


def test_a_package_is_told_with_its_extra(monkeypatch):
    declared = [
        'optax>=0.2.6',
        'tensorflow-datasets>=4.9; extra == "tfds"',
        'tensorflow-cpu>=2.20; sys_platform != "darwin" and extra == "tfds"',
        'tensorflow>=2.20; sys_platform == "darwin" and extra == "tfds"',
        'safetensors>=0.5; extra == "export"',
        'safetensors>=0.5; extra == "dev"',
    ]
    monkeypatch.setattr(
        dependencies.metadata, 'requires', lambda name: declared
    )
    for module, end in {
        'optax._src': 'pip install -e .',
        'tensorflow_datasets': "pip install -e '.[tfds]'",
        'tensorflow.data': "pip install -e '.[tfds]'",
        'safetensors': "pip install -e '.[export]'",
    }.items():
        assert dependencies.explain(module).endswith(end)


def test_settings_of_other_methods_are_refused_where_the_user_set_them():
    imagenet = arguments.load('imagenet:method=icarl')
    assert imagenet.method.lucir.lambda_base == 10.0
    assert 'lucir' not in config_lib.resolve(imagenet).method
    config = default_config()
    config.method.icarl.temperature = 3.0
    with pytest.raises(ValueError, match=r'^method\.icarl\.temperature=3\.0: '):
        config_lib.resolve(config)
    # Of a file, as far as the command line knows.
    config_lib.resolve(config, given=['method.lucir.margin'])


def test_help_lists_configurations_and_how_to_see_fields():
    done = run('-m', 'mnemonics_jax.main', '--help')
    assert done.returncode == 0
    for name in arguments.configurations():
        assert f'\n  {name}: ' in done.stdout
    assert '--print_config' in done.stdout
    assert '\n  --config.train.milestones: ' in done.stdout
