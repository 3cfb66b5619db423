"""Configuration files and plug-ins that do what none should: one line each."""

import io
import sys
import threading

import pytest
from command import assert_refused, call_main

from mnemonics_jax.config import arguments

DEFAULT = """
from mnemonics_jax import default_config
def get_config():
    config = default_config()
    {}
    return config
"""
# A file's text -> the words after its path, and the line of the mistake.
FILES = {
    'def get_config(): return None': ('get_config', 1, ' returned NoneType: '),
    'def get_config(): return {"a": 1}': ('get_config', 1, ' returned {a: int'),
    DEFAULT.format('with config.unlocked(): del config.train'): (
        'train: missing',
        None,
        'must be default_config() with changes',
    ),
    DEFAULT.format('del config.train'): ('AttributeError: ', 5, 'locked'),
    DEFAULT.format('config.train.lrr = 1'): (
        "no field 'lrr'",
        5,
        'nearest: lr',
    ),
    DEFAULT.format('config.train = 3'): ('TypeError: ', 5, 'train'),
    DEFAULT.format('config.seed = int(input())'): ('EOFError', 5, ''),
    'def get_config():\n    raise RuntimeError("a\\nb")': (
        'RuntimeError: a',
        2,
        '',
    ),
    'def get_config(): return {}["abc"]': ("KeyError: 'abc'", 1, ''),
    'def get_config():\n    return get_config()': ('RecursionError: ', 2, ''),
    'def get_config():\n    raise KeyboardInterrupt': (
        'KeyboardInterrupt',
        2,
        '',
    ),
    'def get_config():\n    raise GeneratorExit': ('GeneratorExit', 2, ''),
    'import sys\nsys.exit()': ('SystemExit', 2, ''),
    'import sys\ndef get_config(): sys.exit("no")': ('SystemExit: no', 2, ''),
    'x = 1\ny = 1 / 0': ('ZeroDivisionError: ', 2, ''),
    'x = 1\ndef get_config(:': ('SyntaxError: invalid syntax', 2, ''),
    'x = 1\0': ('SyntaxError: ', None, 'null bytes'),
    'import no_such_package': ('ModuleNotFoundError: ', 1, 'no_such_package'),
    'def get_config(a, b): return None': ('TypeError: ', None, 'missing 2'),
    'get_config = 3': ('must have a function get_config()', None, ''),
}


@pytest.mark.parametrize('text', FILES)
def test_a_mistake_in_a_file_has_its_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.StringIO())
    path = tmp_path / 'own.py'
    path.write_text(text)
    said, line, more = FILES[text]
    done = call_main(f'--config={path}', '--print_config')
    assert_refused(done, f'error: --config={path}: {said}', more)
    assert f'({path}:{"" if line is None else line}' in done.stderr or (
        line is None
    )


def test_text_that_is_not_utf8_is_named(tmp_path):
    (path := tmp_path / 'own.py').write_bytes(b'x = "\xff"\n')
    done = call_main(f'--config={path}', '--print_config')
    assert_refused(done, f'--config={path}: SyntaxError: ', 'utf-8')
    (flags := tmp_path / 'flags').write_bytes(b'--config.seed=\xff\n')
    done = call_main(f'--flagfile={flags}', '--print_config')
    assert_refused(done, str(flags), 'utf-8')


def test_a_file_of_flags_that_is_none_is_named(tmp_path):
    for path, why in (
        (tmp_path / 'no', 'No such file or directory'),
        (tmp_path, 'Is a directory'),
    ):
        done = call_main(f'--flagfile={path}', '--print_config')
        assert_refused(done, f'error: --flagfile={path}: {why}')


PLUGINS = {
    'import sys\nsys.exit(0)': ('SystemExit: 0', 2),
    'x = input()': ('EOFError', 1),
    'raise KeyboardInterrupt': ('KeyboardInterrupt', 1),
    'def make(:': ('SyntaxError: invalid syntax', 1),
}


@pytest.mark.parametrize('text', PLUGINS)
def test_a_plugin_that_ends_the_process_is_named(text, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.StringIO())
    (path := tmp_path / 'own.py').write_text(text)
    said, line = PLUGINS[text]
    done = call_main(f'--config.plugins={path}', '--print_config')
    assert_refused(done, f'{path}', said, f'({path}:{line})')


def test_a_file_that_does_not_return_is_named(tmp_path, monkeypatch, capsys):
    said = threading.Event()
    monkeypatch.setattr(arguments, 'SLOW_SECONDS', 0.01)
    monkeypatch.setattr(arguments.cli, 'warn', lambda line: said.set())
    (path := tmp_path / 'own.py').write_text(
        'import time\n'
        'from mnemonics_jax import default_config\n'
        'def get_config():\n'
        '    time.sleep(0.5)\n'
        '    return default_config()\n'
    )
    arguments.load(str(path))
    assert said.is_set()
