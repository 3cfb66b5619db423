"""Flags of configuration fields: preparing them for absl, and error messages.

absl and ml_collections parse the flags. They expect `--config` first and do not
accept None or fields of plug-ins.
"""

import difflib
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import config_dict

from mnemonics_jax import methods
from mnemonics_jax.config import arguments, tables
from mnemonics_jax.config.fields import FIELDS, default_config, with_settings
from mnemonics_jax.config.presets import ByMethod, Presets
from mnemonics_jax.core import plugins
from mnemonics_jax.core.rules import one_of

PREFIX = '--config.'


def split(word: str) -> tuple[str, str | None]:
    """A flag as its name, with two dashes, and its value, if it is in there."""
    name, equals, value = word.partition('=')
    if name.startswith('-') and not name.startswith('--'):
        name = f'-{name}'
    return name, value if equals else None


def config_first(argv: Sequence[str], default: str) -> tuple[str, list[str]]:
    """The value of `--config`, and the command with it in front, as a path.

    Args:
        argv: the command, its name first.
        default: the configuration where none is given.

    Raises:
        ValueError: there is no such configuration, or there are two.
    """
    all_given, rest, words = values_of('config', argv), [], iter(argv[1:])
    for word in words:
        name, value = split(word)
        if name != '--config':
            rest.append(word)
        elif value is None:
            next(words, '')
    if len(all_given) > 1:
        both = ', '.join(f'--config={given}' for given in all_given)
        raise ValueError(f'{both}: must be given once')
    given = all_given[0] if all_given else default
    return given, [argv[0], f'--config={arguments.locate(given)}', *rest]


def values_of(flag: str, argv: Sequence[str]) -> list[str]:
    """The values of a flag, which may be a word of their own."""
    found, words = [], iter(argv[1:])
    for word in words:
        name, value = split(word)
        if name == f'--{flag}':
            found.append(next(words, '') if value is None else value)
    return found


def take_none(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command without flags such as `--config.data.name=None`.

    Returns:
        The command, and the fields that are to be None: those whose rule says
        so, and those that a preset or the method fills in.
    """
    kept, unset = [], []
    for word in argv:
        name, value = split(word)
        field = FIELDS.get(name.removeprefix(PREFIX))
        if value == 'None' and name.startswith(PREFIX) and field is not None:
            is_late = isinstance(field.default, ByMethod | Presets)
            if is_late or field.rule.holds(None):
                unset.append(name.removeprefix(PREFIX))
                continue
        kept.append(word)
    return kept, unset


def load_plugins(argv: Sequence[str]) -> None:
    """Loads the files of `--config.plugins`, so that their fields are known.

    Raises:
        ValueError: see `plugins.load`.
    """
    for word in argv:
        name, value = split(word)
        if name == f'{PREFIX}plugins' and value:
            plugins.load_all(value)


def explain_flag(argv: Sequence[str], known: Collection[str]) -> str | None:
    """The message for the first flag that there is not, or None.

    Args:
        argv: the command.
        known: names of the flags, without dashes.
    """
    for word in argv[1:]:
        name, value = split(word)
        if not name.startswith('--') or name.startswith(PREFIX):
            continue
        bare = name[2:]
        if not bare or bare in known or bare.removeprefix('no') in known:
            continue
        fields = with_settings(methods.method_names())
        near = [f for f in fields if f == bare or f.endswith(f'.{bare}')]
        end = '' if value is None else f'={value}'
        if near:
            hint = ' or '.join(f'{PREFIX}{field}{end}' for field in near)
            return f'{word}: no such flag; as a field: {hint}'
        close = difflib.get_close_matches(bare, known, n=1)
        hint = f'; nearest: --{close[0]}' if close else ''
        return (
            f'{word}: no such flag{hint}; --help lists flags, those of fields '
            f'are {PREFIX}FIELD=VALUE'
        )
    return None


def explain_field(argv: Sequence[str]) -> str | None:
    """The message for the first `--config.a.b` that is no field, or None."""
    for word in argv:
        name, _ = split(word)
        if not name.startswith(PREFIX):
            continue
        node: Any = default_config()
        path = name.split('.')
        for part in path[1:]:
            has_fields = isinstance(node, config_dict.ConfigDict)
            fields = list(node) if has_fields else []
            if part not in fields:
                if not fields:
                    return f'{word}: {".".join(path[1:-1])} has no fields'
                return (
                    f'{word}: no field {part!r}; must be {one_of(fields).words}'
                )
            node = node[part]
    return None


def as_flags(config: config_dict.FrozenConfigDict) -> list[str]:
    """A resolved configuration as flags that give it again, for a shell."""
    found = []
    for name in with_settings([config.method.name]):
        value: Any = config
        for part in name.split('.'):
            value = value[part]
        text = '()' if value == () else tables.as_flag(value)
        found.append(shlex.quote(f'{PREFIX}{name}={text}'))
    return found
