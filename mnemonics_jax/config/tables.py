"""All fields as text: for `--help`, and as tables of the documentation."""

import ast
import textwrap
from collections.abc import Sequence
from typing import Any

from mnemonics_jax import methods
from mnemonics_jax.config import arguments
from mnemonics_jax.config.fields import (
    FIELDS,
    default_config,
    with_settings,
)
from mnemonics_jax.config.presets import ByMethod, Presets


def as_help() -> str:
    """Configurations and all fields, without the settings of methods.

    Their files load jax.
    """
    found = ['configurations (--config=NAME, or a file of your own):']
    for name, path in arguments.configurations().items():
        text = ast.get_docstring(ast.parse(path.read_text())) or ''
        found.append(_wrapped(f'  {name}: {text.partition(chr(10))[0]}'))
    found += [
        '',
        'fields of the configuration (--print_config prints their values):',
    ]
    for name, (default, rule, text) in FIELDS.items():
        if isinstance(default, Presets):
            values = {key: default.value(key) for key in Presets._fields}
            said = ', '.join(f'{key}: {as_flag(values[key])}' for key in values)
        elif isinstance(default, ByMethod):
            said = f'default: {as_flag(default.usual)}, or as the method has it'
        else:
            said = f'default: {as_flag(default) or "none"}'
        found += [
            _wrapped(f'  --config.{name}: {text}'),
            _wrapped(f'    ({said}; must be {rule.words})'),
        ]
    found.append(
        '  --config.method.NAME.SETTING: A field of SETTINGS in the file of a '
        'method.'
    )
    return '\n'.join(found) + '\n'


def as_markdown() -> str:
    """All fields as a table in Markdown."""
    rows = [
        (f'`{name}`', _cell(default), rule.must_be(), text)
        for name, (default, rule, text) in with_settings(
            methods.method_names()
        ).items()
    ]
    return _markdown(('field', 'default', 'must be', 'what'), rows)


def presets_as_markdown() -> str:
    """The values of the presets as a table in Markdown."""
    rows = [
        (
            f'`{name.removeprefix("exemplars.")}`',
            *(as_flag(field.default.value(key)) for key in Presets._fields),
            field.text,
        )
        for name, field in FIELDS.items()
        if isinstance(field.default, Presets)
    ]
    names = (f'`{name}`' for name in Presets._fields)
    return _markdown(('field of `exemplars`', *names, 'what'), rows)


def methods_as_markdown() -> str:
    """Defaults that depend on the method, by method, in Markdown."""
    names = methods.method_names()
    own = {name: methods.defaults_of(name) for name in names}
    rows = [
        (
            f'`{field}`',
            *(as_flag(own[n].get(field, entry.default.usual)) for n in names),
        )
        for field, entry in FIELDS.items()
        if isinstance(entry.default, ByMethod)
    ]
    section = default_config().method
    made = (methods.make_method(name, section) for name in names)
    transfer = ('false' if m.keeps_data else 'if learned' for m in made)
    rows.append(('`weight_transfer`', *transfer))
    return _markdown(('field', *(f'`{name}`' for name in names)), rows)


def as_flag(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ','.join(map(str, value))
    return str(value)


def _cell(default: Any) -> str:
    if isinstance(default, Presets):
        return '[preset](presets.md)'
    if isinstance(default, ByMethod):
        return f'`{as_flag(default.usual)}`, or by [method](reproduce.md)'
    return '' if default in (None, '') else f'`{as_flag(default)}`'


def _wrapped(line: str) -> str:
    return textwrap.fill(line, width=80, subsequent_indent='    ')


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
