"""What is built and installed works in folders that are no checkout."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import compiling
import pytest
from command import ROOT, assert_refused

pytestmark = pytest.mark.slow
COMMANDS = ('', '-evaluate', '-export', '-predict', '-report')
# The least that runs.
TINY = {
    'data.subset_classes': 4,
    'data.pad': 0,
    'protocol.base_classes': 2,
    'protocol.phases': 1,
    'backbone.name': 'convnet_tiny',
    'method.name': 'finetune',
    'train.epochs': 1,
    'exemplars.strategy': 'random',
    'exemplars.adjust': False,
    'finetune.epochs': 1,
}


def call(*command, **kwargs):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The source distribution, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp('built')
    tree = folder / 'tree'
    for name in ('mnemonics_jax', 'configs'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith('.'):
            shutil.copy(path, tree)
    hook = 'import sys, setuptools.build_meta as m; m.build_sdist(sys.argv[1])'
    done = call(sys.executable, '-c', hook, folder, cwd=tree)
    assert done.returncode == 0, done.stderr
    (source,) = folder.glob('*.tar.gz')
    options = ('--no-deps', '--no-build-isolation', '--wheel-dir', folder)
    done = call(sys.executable, '-m', 'pip', 'wheel', *options, source)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    return source, wheel


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    """The wheel in an environment of its own, with our dependencies."""
    folder = tmp_path_factory.mktemp('installed')
    done = call(sys.executable, '-m', 'venv', '--without-pip', folder)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob('lib/python*/site-packages')
    # Folders only: what is installed to be edited there is not found.
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    python = folder / 'bin' / 'python'
    pip = (sys.executable, '-m', 'pip', '--python', python, 'install')
    options = ('--no-deps', '--no-index', '--ignore-installed')
    done = call(*pip, *options, built[1])
    assert done.returncode == 0, done.stderr
    return folder / 'bin'


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp('elsewhere')


def run(installed, elsewhere, command, *arguments):
    """Runs a command of the environment; nothing of the checkout is in it."""
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    environment['XLA_FLAGS'] = compiling.QUICKLY
    return call(installed / command, *arguments, cwd=elsewhere, env=environment)


def test_the_distributions_hold_what_the_checkout_has(built):
    source, wheel = built
    files = {
        str(path.relative_to(ROOT))
        for name in ('mnemonics_jax', 'configs')
        for path in (ROOT / name).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert 'mnemonics_jax/py.typed' in files
    with tarfile.open(source) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert files | {'setup.py', 'LICENSE', 'README.md'} <= names
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        name if name.startswith('mnemonics_jax') else f'mnemonics_jax/{name}'
        for name in files
    }
    assert {n for n in names if '.dist-info/' not in n} == expected


def test_the_commands_are_there_and_explain_themselves(installed, elsewhere):
    for name in COMMANDS[1:]:
        done = run(installed, elsewhere, f'mnemonics-jax{name}', '--help')
        assert done.returncode == 0, done.stderr
        assert 'WORKDIR' in done.stdout
    done = run(installed, elsewhere, 'mnemonics-jax-plan', '--help')
    assert done.returncode == 0, done.stderr
    assert '--chips' in done.stdout
    done = run(installed, elsewhere, 'mnemonics-jax', '--help')
    assert "the package's configurations" in ' '.join(done.stdout.split())
    assert '--workdir' in done.stdout


def test_a_run_by_name_from_another_folder(installed, elsewhere):
    flags = [f'--config.{field}={value}' for field, value in TINY.items()]
    done = run(
        installed,
        elsewhere,
        'mnemonics-jax',
        '--config=digits',
        '--workdir=run',
        *flags,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((elsewhere / 'run' / 'results.json').read_text())
    assert len(results['phases']) == 2
    begun = json.loads((elsewhere / 'run' / 'config.json').read_text())
    assert begun['config']['data']['subset_classes'] == 4
    assert begun['commit'] is None
    # As a module, and again: it has finished. Without a file it is digits.
    done = run(
        installed,
        elsewhere,
        'python',
        *('-m', 'mnemonics_jax.main', '--workdir=run'),
        *flags,
    )
    assert done.returncode == 0, done.stderr
    assert 'finished' in done.stdout
    (elsewhere / 'run' / 'report.html').unlink()
    done = run(installed, elsewhere, 'mnemonics-jax-report', 'run')
    assert done.returncode == 0, done.stderr
    assert (elsewhere / 'run' / 'report.html').exists()


def test_names_that_there_are_not_list_those_there_are(installed, elsewhere):
    names = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
    done = run(installed, elsewhere, 'mnemonics-jax', '--config=digit:phases=1')
    listed = ', '.join(names)
    assert_refused(done, '--config=digit:phases=1: must be', listed)


def test_the_package_comes_from_the_wheel(installed, elsewhere):
    code = 'import mnemonics_jax; print(mnemonics_jax.__file__)'
    done = run(installed, elsewhere, 'python', '-c', code)
    found = pathlib.Path(done.stdout.strip())
    assert found.is_relative_to(installed.parent), found
