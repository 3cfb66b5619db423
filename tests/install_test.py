"""What the README's two commands install, with a stand-in for Python."""

import shutil

import pytest
from command import ROOT
from launch_test import environment, launch, make_program

# As an interpreter that makes environments of itself, and notes its arguments.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  *sys.version_info*) exit "${OLD:-0}" ;;
  '-m venv .venv') mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *) echo "$*" >>"$NOTES"; exit "${FAILS:-0}" ;;
esac
"""
INSTALL = '-m pip install --quiet --disable-pip-version-check -e '
RUN = '-m mnemonics_jax.main --config=configs/digits.py --workdir=runs/digits'
TESTS = '-m pytest -n 2 --dist loadfile --no-loadscope-reorder -m not slow'


@pytest.fixture
def clone(tmp_path):
    """A function that runs a script of a clone: what it did, and its end."""
    shutil.copytree(ROOT / 'launch', tmp_path / 'launch')
    shutil.copy(ROOT / 'setup.py', tmp_path)
    make_program(tmp_path / 'python', PYTHON)
    notes = tmp_path / 'notes'

    def start(script, *arguments, **variables):
        notes.write_text('')
        variables = {'PYTHON': str(tmp_path / 'python'), **variables}
        env = environment(NOTES=str(notes), **variables)
        done = launch(script, *arguments, root=tmp_path, env=env)
        return notes.read_text().splitlines(), done

    return start


def test_the_run_takes_no_extra_and_the_tests_take_dev(clone):
    did, done = clone('quickstart', '--config.seed=1')
    assert did == [f'{INSTALL}.', f'{RUN} --config.seed=1']
    assert done.returncode == 0
    # Once, and the tests after the run add what they need.
    assert clone('quickstart')[0] == [RUN]
    assert clone('test')[0] == [f'{INSTALL}.[dev]', TESTS]
    assert clone('test')[0] == [TESTS]
    assert clone('quickstart')[0] == [RUN]


def test_the_tests_first_leave_nothing_for_the_run_to_install(clone):
    assert clone('test')[0] == [f'{INSTALL}.[dev]', TESTS]
    assert clone('quickstart')[0] == [RUN]


def test_extras_are_chosen_and_stay_when_setup_changes(clone, tmp_path):
    did, _ = clone('quickstart', EXTRAS='cuda, tfds')
    assert did == [f'{INSTALL}.[cuda,tfds]', RUN]
    with (tmp_path / 'setup.py').open('a') as setup:
        setup.write('# changed\n')
    assert clone('quickstart')[0] == [f'{INSTALL}.[cuda,tfds]', RUN]
    did, _ = clone('test', EXTRAS='tfds')
    assert did == [f'{INSTALL}.[cuda,tfds,dev]', TESTS]


def test_an_installation_that_failed_is_done_again(clone):
    did, done = clone('quickstart', EXTRAS='cuda', FAILS='1')
    assert (did, done.returncode) == ([f'{INSTALL}.[cuda]'], 1)
    assert clone('quickstart')[0] == [f'{INSTALL}.', RUN]


@pytest.mark.parametrize(
    ('variables', 'line'),
    [
        (
            {'EXTRAS': 'tfds,cudda'},
            'error: EXTRAS=tfds,cudda: must be some of '
            'cuda,tpu,plan,tfds,gcs,export,wandb,mlflow,docs,bench,dev\n',
        ),
        ({'OLD': '1'}, '/python: must be Python 3.11 or newer\n'),
        (
            {'PYTHON': 'no-such-python'},
            'error: PYTHON=no-such-python: must be Python 3.11 or newer\n',
        ),
    ],
)
def test_a_mistake_is_one_line_and_installs_nothing(
    variables, line, clone, tmp_path
):
    did, done = clone('quickstart', **variables)
    assert (did, done.returncode) == ([], 2)
    assert done.stderr.endswith(line)
    assert done.stderr.count('\n') == 1
    assert not (tmp_path / '.venv').exists()
