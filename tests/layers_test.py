"""The architecture, read from the imports: layers, and who may know what."""

import ast
import functools
import graphlib
import pathlib
import subprocess
import sys

import mnemonics_jax
from mnemonics_jax.core import parallel

ROOT = pathlib.Path(mnemonics_jax.__file__).parent
PACKAGE = ROOT.name

# Imports go strictly downwards between the floors; the folders and files of one
# floor never import each other. A new file needs no entry. What `__init__`
# imports is for type checkers; it loads a name when that is asked for.
LAYERS = (
    ('__init__', 'core', 'types', 'metrics'),
    ('losses', 'prototypes', 'data', 'backbones', 'bilevel'),
    ('methods', 'exemplars', 'train', 'report'),
    ('config',),
    ('experiment',),
    ('main', 'evaluate', 'predict', 'export', 'plan'),
)
LAYER_OF = {name: i for i, layer in enumerate(LAYERS) for name in layer}

# What bilevel/ must not know of: it serves any model and any data.
FOREIGN_WORDS = ('phase', 'herding', 'num_old', 'num_seen', 'backbone')

# What parallel.py alone may name, beside the string that the axis is called.
MESH_WORDS = {'AXIS', 'AxisType', 'PartitionSpec', 'axis_name', 'make_mesh'}


@functools.cache
def trees():
    """Syntax trees of all files, by path within the package."""
    return {
        path.relative_to(ROOT): ast.parse(path.read_text(), str(path))
        for path in sorted(ROOT.rglob('*.py'))
    }


def unit_of(path):
    """The entry of the table that a file belongs to."""
    return path.parts[0].removesuffix('.py')


def imported_names(tree):
    """Full names of what a file imports, `a.b` for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'line {node.lineno}: a relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def imported_units(tree):
    """Entries of the table that a file imports."""
    for name in imported_names(tree):
        first, *rest = name.split('.')
        if first == PACKAGE:
            yield rest[0] if rest and rest[0] in LAYER_OF else '__init__'


def identifiers(tree):
    """Every name that a file gives or uses."""
    for node in ast.walk(tree):
        for field in ('id', 'attr', 'arg', 'name', 'asname', 'module'):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def foreign_words(tree):
    names = {name.lower() for name in identifiers(tree)}
    return {w for w in FOREIGN_WORDS for name in names if w in name}


def modules_of(tree):
    """Paths of the files of the package that a file imports."""
    for name in imported_names(tree):
        first, *rest = name.split('.')
        if first != PACKAGE:
            continue
        # `from a.b import c`: the module a.b.c, or a name of a.b.
        for stem in ('/'.join(rest), '/'.join(rest[:-1])):
            paths = map(pathlib.Path, (f'{stem}.py', f'{stem}/__init__.py'))
            found = [path for path in paths if path in trees()]
            if found:
                yield found[0]
                break


def test_the_table_lists_every_folder_and_file_at_the_top_once():
    units = {unit_of(path) for path in trees()}
    assert units == set(LAYER_OF)
    assert len(LAYER_OF) == sum(len(layer) for layer in LAYERS)


def test_imports_go_strictly_to_a_lower_floor():
    count = 0
    for path, tree in trees().items():
        ours = unit_of(path)
        if ours == '__init__':
            continue
        for theirs in imported_units(tree):
            count += 1
            lower = LAYER_OF[theirs] < LAYER_OF[ours]
            assert lower or ours == theirs, f'{path} imports {theirs}'
    assert count > 50  # The imports were found.


def test_files_form_no_cycle():
    """Raises graphlib.CycleError, which names the files, if there is one."""
    graph = {
        path: set(modules_of(tree))
        for path, tree in trees().items()
        if path != pathlib.Path('__init__.py')
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) >= len(graph) > 100


def test_modules_are_imported_by_name_only_within_a_folder():
    """What is found by name would escape the test above."""
    users = {
        path
        for path, tree in trees().items()
        if {'import_module', '__import__'} & set(identifiers(tree))
    }
    users -= {pathlib.Path('__init__.py')}  # The names for use from outside.
    assert users
    assert all(len(path.parts) > 1 for path in users), users


def test_tensorflow_is_imported_by_data_alone_and_inside_functions():
    users = set()
    for path, tree in trees().items():
        names = [n.split('.')[0] for n in imported_names(tree)]
        if any(name.startswith('tensorflow') for name in names):
            users.add(unit_of(path))
        for node in tree.body:
            names = [n.split('.')[0] for n in imported_names(node)]
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            at_start = [n for n in names if n.startswith('tensorflow')]
            assert not (is_import and at_start), f'{path}: {at_start}'
    assert users == {'data'}


def test_a_start_imports_nothing_slow_and_everything_no_tensorflow():
    modules = [
        '.'.join([PACKAGE, *path.with_suffix('').parts]).removesuffix(
            '.__init__'
        )
        for path in trees()
    ]
    code = f"""
import sys
from mnemonics_jax import experiment, main
from mnemonics_jax.data import sources
from mnemonics_jax.train import checkpoint
slow = 'sklearn', 'scipy', 'matplotlib', 'orbax.checkpoint', 'flax.nnx'
sources.make_source('digits', {{}})
with checkpoint.Checkpointer('/nowhere', keep=1) as checkpoints:
    assert checkpoints.latest() is checkpoints.position(0) is None
print([name for name in slow if name in sys.modules])
import {', '.join(modules)}
print([m for m in sys.modules if m.startswith('tensorflow')])
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    assert done.stdout.split() == ['[]', '[]']


def test_parallel_alone_knows_the_mesh():
    users = {}
    for path, tree in trees().items():
        strings = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found = MESH_WORDS & set(identifiers(tree))
        found |= {parallel.AXIS} & strings
        if found:
            users[str(path)] = found
    assert set(users) == {'core/parallel.py'}, users
    assert {'PartitionSpec', parallel.AXIS} <= users['core/parallel.py']


def test_bilevel_knows_no_word_of_class_incremental_learning():
    ours = [path for path in trees() if path.parts[0] == 'bilevel']
    assert len(ours) > 4
    for path in ours:
        assert foreign_words(trees()[path]) == set(), path
    # The words are found where they are.
    assert {'backbone', 'num_seen'} <= foreign_words(
        trees()[pathlib.Path('exemplars/steps.py')]
    )
