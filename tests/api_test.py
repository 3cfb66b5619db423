"""The public names: there, described, tried out, and loaded late."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import subprocess
import sys
import types

import compiling
import pytest

import mnemonics_jax

ROOT = pathlib.Path(mnemonics_jax.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Each of these has its functions for public names.
MODULES = [
    name
    for name in mnemonics_jax.__all__
    if isinstance(getattr(mnemonics_jax, name), types.ModuleType)
]
# Runs phases, over all devices that there are: in a process of its own.
OWN_PROCESS = 'mnemonics_jax.experiment.phase_loop'


def public_functions():
    """Qualified name -> function, of the package and of its public modules."""
    found = {}
    for name in mnemonics_jax.__all__:
        value = getattr(mnemonics_jax, name)
        members = {name: value}
        if name in MODULES:
            members = {
                f'{name}.{key}': member
                for key, member in vars(value).items()
                if getattr(member, '__module__', None) == value.__name__
                and not key.startswith('_')
            }
        found |= {k: v for k, v in members.items() if inspect.isfunction(v)}
    return found


FUNCTIONS = public_functions()


def in_a_fresh_process(code, **environment):
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_there_are_few_names_and_each_is_found():
    assert 12 <= len(mnemonics_jax.__all__) <= 20
    assert set(mnemonics_jax.__all__) <= set(dir(mnemonics_jax))
    assert len(FUNCTIONS) > 20
    for name in mnemonics_jax.__all__:
        value = getattr(mnemonics_jax, name)
        assert value.__doc__, name
        home = value.__name__ if name in MODULES else value.__module__
        assert home == f'mnemonics_jax.{mnemonics_jax._HOMES[name]}', name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        mnemonics_jax.absent  # noqa: B018


def test_type_checkers_and_users_get_the_same_names():
    tree = ast.parse((ROOT / '__init__.py').read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert block.test.id == 'TYPE_CHECKING'
    seen = {
        alias.name: f'{node.module}.{alias.name}'
        if alias.name in MODULES
        else node.module
        for node in block.body
        for alias in node.names
    }
    homes = mnemonics_jax._HOMES.items()
    assert seen == {name: f'mnemonics_jax.{home}' for name, home in homes}
    assert sorted(seen) == sorted(mnemonics_jax.__all__)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_public_function_is_typed_and_has_an_example(name):
    function = FUNCTIONS[name]
    assert '>>> ' in function.__doc__
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        # Its name is explained, or in the summary.
        assert parameter.name in function.__doc__, parameter.name
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize(
    'module', sorted({f.__module__ for f in FUNCTIONS.values()} - {OWN_PROCESS})
)
def test_the_examples_show_what_they_say(module):
    found = doctest.testmod(
        importlib.import_module(module), optionflags=FLAGS, report=True
    )
    assert found.attempted > 0
    assert found.failed == 0


def test_the_example_of_a_whole_run_shows_what_it_says():
    code = (
        f'import doctest, {OWN_PROCESS} as module\n'
        f'found = doctest.testmod(module, optionflags={FLAGS})\n'
        'assert found.attempted and not found.failed, found'
    )
    # Of its devices the conftest has eight; a user's CPU is one.
    flags = compiling.QUICKLY
    assert in_a_fresh_process(code, XLA_FLAGS=flags) == ''


def test_importing_the_package_loads_no_library():
    code = (
        'import sys; before = set(sys.modules)\n'
        'import mnemonics_jax; mnemonics_jax.__all__\n'
        'new = {m.split(".")[0] for m in set(sys.modules) - before}\n'
        'print(*sorted(new - set(sys.stdlib_module_names)))'
    )
    assert in_a_fresh_process(code) == 'mnemonics_jax'


def test_the_exemplar_step_loads_no_tensorflow():
    code = (
        'import sys\n'
        'from mnemonics_jax import herding, losses, make_exemplar_learner\n'
        'print("jax" in sys.modules, "tensorflow" in sys.modules)'
    )
    assert in_a_fresh_process(code) == 'True False'
