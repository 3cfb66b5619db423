"""All fields of the configuration as a table, from the code that has them.

A field is described by the comment above it in `fields.py`, or above the
fields before it in the same section; settings of a method in the method's file.
"""

import ast
import importlib
import inspect
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from mnemonics_jax import config, methods
from mnemonics_jax.config import fields as fields_lib

_ANY = {int: 'a whole number', str: 'a text', float: 'a number', bool: 'a bool'}


class Field(NamedTuple):
    """A field.

    Attributes:
        name: dotted.
        default: its value by default.
        allowed: what it may be.
        text: what it is.
    """

    name: str
    default: Any
    allowed: str
    text: str


def comment_above(lines: list[str], number: int) -> str:
    """The comment that ends in the line before line `number`, from 1 on."""
    found = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith('#'):
            break
        found.append(line.strip().removeprefix('#').strip())
    return ' '.join(reversed(found))


def walk(
    call: ast.Call, lines: list[str], prefix: str, above: str
) -> Iterator[tuple[str, str]]:
    """Name and comment of each field of a `config_dict.create`."""
    text = above
    for keyword in call.keywords:
        if keyword.arg is None:  # The settings of methods, see below.
            continue
        text = comment_above(lines, keyword.lineno) or text
        value = keyword.value
        if isinstance(value, ast.Call) and 'create' in ast.dump(value.func):
            yield from walk(value, lines, f'{prefix}{keyword.arg}.', text)
            # What stands above a section is not said of what follows it.
            text = above
        else:
            yield f'{prefix}{keyword.arg}', text


def from_defaults() -> Iterator[Field]:
    """The fields of `fields.default_config`, without methods' own."""
    source = inspect.getsource(fields_lib)
    call = next(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and node.targets[0].id == 'fields'
    )
    values, rules = fields_lib.default_config(), config.field_rules()
    for name, text in walk(call, source.splitlines(), '', ''):
        rule = rules.get(name)
        allowed = rule.allowed if rule else type_of(values, name)
        yield Field(name, at(values, name), allowed, text)


def at(values: Any, name: str) -> Any:
    """The value of a dotted name."""
    for part in name.split('.'):
        values = values[part]
    return values


def type_of(values: Any, name: str) -> str:
    """What a field without a rule may be, by its type."""
    section, _, last = name.rpartition('.')
    return _ANY[(at(values, section) if section else values).get_type(last)]


def of_method(module: types.ModuleType, name: str) -> Iterator[Field]:
    """The settings of a method, from its file or the one it takes them from."""
    tree = ast.parse(inspect.getsource(module))
    value = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and target_of(node).id == 'SETTINGS'
    )
    if isinstance(value, ast.Attribute):
        yield from of_method(getattr(module, value.value.id), name)
        return
    lines = inspect.getsource(module).splitlines()
    for key in value.keys:
        default, rule = module.SETTINGS[key.value]
        text = comment_above(lines, key.lineno)
        yield Field(f'method.{name}.{key.value}', default, rule.allowed, text)


def target_of(node: ast.Assign | ast.AnnAssign) -> Any:
    """What a statement assigns to."""
    return node.target if isinstance(node, ast.AnnAssign) else node.targets[0]


def fields() -> list[Field]:
    """All fields."""
    found = list(from_defaults())
    for name in methods.method_names():
        module = importlib.import_module(f'{methods.__name__}.{name}')
        found += of_method(module, name)
    return found


def shown(value: Any) -> str:
    """A value as a flag takes it; nothing for None."""
    if value is None:
        return ''
    if isinstance(value, bool):
        return f'`{str(value).lower()}`'
    if isinstance(value, tuple):
        return f'`{",".join(map(str, value))}`'
    return f'`{value}`' if value != '' else ''


def table() -> str:
    """All fields as a table in Markdown."""
    found = fields()
    # Of fields that share a comment the first has it.
    above = ['', *(field.text for field in found[:-1])]
    texts = [
        '' if field.text == before else field.text
        for field, before in zip(found, above, strict=True)
    ]
    rows = [
        f'| `{f.name}` | {shown(f.default)} | {f.allowed} | {text} |'
        for f, text in zip(found, texts, strict=True)
    ]
    header = ['| field | default | allowed | what |', '|---|---|---|---|']
    return '\n'.join([*header, *rows]) + '\n'
