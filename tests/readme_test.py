"""What the documents say exists: commands, flags, files, names and defaults."""

import functools
import importlib
import importlib.util
import os
import pathlib
import re
import shlex

import pytest
from absl import flags
from layers_test import ROOT
from ml_collections import config_flags

import mnemonics_jax
from mnemonics_jax import backbones, methods
from mnemonics_jax import config as config_lib
from mnemonics_jax.config import arguments, command_line, parsing, presets
from mnemonics_jax.data import sources, storage
from mnemonics_jax.exemplars import strategies
from mnemonics_jax.experiment import components

TOP = ROOT.parent
DOCUMENTS = (
    'README.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    *sorted(f'docs/{path.name}' for path in (TOP / 'docs').glob('*.md')),
)
TEXTS = {name: (TOP / name).read_text() for name in DOCUMENTS}
README = TEXTS['README.md']
BLOCK = re.compile(r'^```(\S+)[^\n]*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
MAIN = 'mnemonics_jax.main'

# Names that a user has and a clone has not.
WRITTEN_BY_RUNS = ('runs', '.venv')
FILE_TYPES = (
    *('.py', '.sh', '.json', '.jsonl', '.html', '.cff', '.md', '.csv'),
    *('.npz', '.safetensors', '.jax', '.tex'),
)
OTHER_PACKAGES = ('jax', 'tf', 'lax', 'mnemonics_jax', 'model', 'optax')


def blocks(text, language):
    return [body for kind, body in BLOCK.findall(text) if kind == language]


def prose(text):
    return BLOCK.sub('', text)


def code_spans(text):
    return re.findall(r'`([^`\n]+)`', prose(text))


def table(name, header):
    """Cells of the rows below a table's header, which is given in full."""
    lines = TEXTS[name].split(f'{header}\n')[1].splitlines()[1:]
    rows = lines[: next(i for i, line in enumerate(lines) if not line)]
    return [[cell.strip() for cell in row[1:-1].split('|')] for row in rows]


def words_of(line):
    """A command as a list of words, without comment and assignments."""
    words = shlex.split(line, comments=True)
    return [w for w in words if not re.match(r'[A-Z_]+=', w)]


def commands():
    """All commands of all documents that are meant to work."""
    found = []
    for text in TEXTS.values():
        for body in blocks(text, 'sh'):
            lines = body.replace('\\\n', ' ').splitlines()
            found += [words_of(line) for line in lines if line.strip()]
        found += [
            words_of(span)
            for span in code_spans(text)
            if span.startswith(('./launch/', 'python -m '))
        ]
    return found


def mistakes():
    """Commands that are shown with an error, and the error."""
    body = TEXTS['docs/configuration.md']
    body = ' '.join(blocks(body, 'console')[0].split())
    parts = re.split(r'\$ (?=python)', body)[1:]
    return [re.split(r' (?=error: )', part.strip()) for part in parts]


@functools.cache
def parsed(*words):
    """The configuration that the words of a command say, and their workdir."""
    if not any(word.startswith('--config=') for word in words):
        words = (f'--config={arguments.locate(parsing.DEFAULT_CONFIG)}', *words)
    argv, values = ['main', *words], flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    rest = values(argv)
    assert rest == ['main'], rest
    # As the command does: one budget of the memory replaces the file's.
    given = config_flags.get_override_values(values['config'])
    budgets = {f'exemplars.{name}' for name in config_lib.BUDGETS}
    if budgets & set(given):
        zeros = dict.fromkeys(budgets - set(given), 0)
        values.config.update_from_flattened_dict(zeros)
    return values.config, values.workdir


def flags_of(command):
    """The flags of a command, with its configuration file found from here."""
    return tuple(
        word.replace('--config=', f'--config={TOP}/')
        for word in command
        if word.startswith('--')
    )


def test_the_documents_hold_what_the_tests_below_read():
    assert len(commands()) >= 10
    assert len(mistakes()) == 3
    assert ['./launch/quickstart.sh'] in commands()
    assert ['./launch/test.sh'] in commands()
    # The two commands come before all others.
    assert blocks(README, 'sh')[0].split() == [
        './launch/quickstart.sh',
        './launch/test.sh',
    ]


def test_every_script_is_there_and_can_be_executed():
    scripts = {c[0] for c in commands() if '/' in c[0]}
    assert len(scripts) > 1
    for script in scripts:
        if script.split('/')[0] not in WRITTEN_BY_RUNS:
            assert os.access(TOP / script, os.X_OK), script


def test_every_module_that_is_run_is_a_program():
    modules = {c[2] for c in commands() if c[1:2] == ['-m']}
    assert MAIN in modules
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec.submodule_search_locations:
            spec = importlib.util.find_spec(f'{module}.__main__')
        source = spec.origin
        assert "__name__ == '__main__'" in pathlib.Path(source).read_text()


def test_every_run_in_a_block_resolves():
    runs = [c for c in commands() if MAIN in c]
    assert len(runs) >= 3
    for command in runs:
        config, workdir = parsed(*flags_of(command))
        config_lib.resolve(config)
        assert workdir.startswith('runs/')


def test_every_flag_in_the_text_names_a_field_and_a_value_it_takes():
    spans = [s for text in TEXTS.values() for s in code_spans(text)]
    given = [s for s in spans if s.startswith('--config.')]
    assert given
    for flag in given:
        config_lib.resolve(parsed(flag)[0])


def named_in_text():
    """Dotted names in the documents, `a.b`, without files."""
    for text in TEXTS.values():
        for span in code_spans(text):
            is_name = re.fullmatch(r'[a-z_]+(\.[a-z_]+)+', span)
            if is_name and (TOP / span).suffix not in FILE_TYPES:
                yield span


def is_field(name):
    node = config_lib.default_config()
    for part in name.split('.'):
        if not hasattr(node, 'items') or part not in node:
            return False
        node = node[part]
    return True


def is_attribute(name):
    """Whether `folder.module.name` is something in the package."""
    module, _, attribute = f'{mnemonics_jax.__name__}.{name}'.rpartition('.')
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def test_every_dotted_name_is_a_field_or_a_function():
    names = set(named_in_text())
    for name in names:
        if name.split('.')[0] not in OTHER_PACKAGES:
            assert is_field(name) or is_attribute(name), name
    assert sum(is_field(name) for name in names) >= 10
    assert sum(is_attribute(name) for name in names) >= 10


def test_mistakes_are_answered_as_shown(one_device):
    for command, shown in mistakes():
        words = flags_of(shlex.split(command))
        try:
            config = config_lib.resolve(parsed(*words)[0])
            components.build(config, one_device)
        except (AttributeError, KeyError):
            answer = command_line.explain_field(words)
        except ValueError as error:
            answer = str(error)
        if shown.endswith('...'):
            assert f'error: {answer}'.startswith(shown[:-3])
        else:
            assert f'error: {answer}' == shown


def test_the_names_in_the_tables_exist():
    page, shown = 'docs/configuration.md', []
    for row in table(page, '| method | follows | classifier |'):
        shown.append(row[0].strip('`'))
        config = config_lib.default_config().method
        method = methods.make_method(shown[-1], config)
        assert method.predictor == row[2].lower().replace('-', '')
    assert shown == methods.method_names()
    takes = {row[0]: row[1] for row in table(page, '| field | what it takes |')}
    known = {
        'backbone.name': backbones.backbone_names(),
        'data.source': sources.source_names(),
        'exemplars.preset': presets.Presets._fields,
        'exemplars.strategy': strategies.strategy_names(),
        'exemplars.storage': storage.names(),
    }
    for field, names in known.items():
        shown = re.findall(r'`(\w+)`', takes[f'`{field}`'])
        assert shown
        assert set(shown) <= set(names)


@pytest.mark.parametrize('name', DOCUMENTS)
def test_links_and_paths_lead_somewhere(name):
    text = TEXTS[name]
    links = re.findall(r'\]\(([^)\s]+)\)', prose(text))
    paths = [
        span
        for span in code_spans(text)
        if re.fullmatch(r'\.?[\w.]+(/[\w.]+)+/?', span)
        and span.split('/')[0] not in WRITTEN_BY_RUNS
    ]
    for path in (p for p in links if not p.startswith('https://')):
        path, _, _ = path.partition('#')  # Of these, see docs_test.
        assert (TOP / name).parent.joinpath(path).exists(), path
    for path in paths:
        assert (TOP / path).exists(), path


def test_the_examples_for_a_model_of_ones_own_run():
    scope = {}
    exec(blocks(README, 'python')[0], scope)
    assert scope['state'].pixels.shape == (4, 8, 8)
    assert abs(scope['state'].pixels - scope['images'][:4]).max() > 0.1
    step, lower = blocks(TEXTS['docs/own_model.md'], 'python')
    scope = {}
    exec(step, scope)
    assert int(scope['state'].step) == 2
    exec(lower, scope)
    assert scope['grads'].shape == (4, 8, 8, 1)
    assert abs(scope['grads']).max() > 0
    exec(blocks(TEXTS['docs/hypergradients.md'], 'python')[0], scope)
    assert callable(scope['gradient'])
