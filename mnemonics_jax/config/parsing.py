"""Parses `--config` and the flags of its fields; a mistake is one line."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from mnemonics_jax.config import command_line
from mnemonics_jax.config.fields import FIELDS
from mnemonics_jax.config.resolve import BUDGETS

DEFAULT_CONFIG = 'digits'


class Parser:
    """A parser of commands that have a configuration.

    Attributes:
        values: the flags of the command.
    """

    def __init__(self, values: flags.FlagValues) -> None:
        """Defines `--config` among `values`."""
        self.values = values
        # The command with `--config` first, where ml_collections looks for
        # fields.
        self._argv: list[str] = []
        self._config = config_flags.DEFINE_config_file(
            'config',
            None,
            'File with a get_config() function, or the name of one in the '
            f'package; default {DEFAULT_CONFIG}.',
            flag_values=values,
            sys_argv=self._argv,
        )

    @property
    def config(self) -> config_dict.ConfigDict:
        """The configuration, once parsed."""
        return self._config.value

    def given(self) -> Collection[str]:
        """Names of the fields that are flags of this command."""
        if not self._config.present:
            return ()
        return config_flags.get_override_values(self.values['config'])

    def parse(self, argv: Sequence[str]) -> list[str]:
        """Parses a command.

        Args:
            argv: the command, its name first.

        Returns:
            What is left of it, its name first.

        Raises:
            ValueError: a mistake, in one line.
            OSError: a file cannot be read.
        """
        given = DEFAULT_CONFIG
        try:
            given, argv = command_line.config_first(argv, DEFAULT_CONFIG)
            argv, unset = command_line.take_none(argv)
            command_line.load_plugins(argv)
            self._argv[:] = argv
            rest = self.values(argv)
            self.config.update_from_flattened_dict(dict.fromkeys(unset))
            self._prefer_flags()
        except (AttributeError, KeyError) as e:
            line = command_line.explain_field(argv) or explain_key(given, e)
            raise ValueError(line or e) from e
        except flags.UnrecognizedFlagError as e:
            line = command_line.explain_flag(argv, list(self.values))
            raise ValueError(line or e) from e
        except flags.Error as e:
            raise ValueError(explain_file(e) or explain_type(e) or e) from e
        except (SyntaxError, TypeError) as e:
            raise ValueError(e) from e
        return rest

    def _prefer_flags(self) -> None:
        """Has flags replace what the file says in other fields.

        The flag `phase_sizes` replaces the file's number of phases, and a
        budget of the memory the file's other budgets.
        """
        given = self.given()
        budgets = [f'exemplars.{name}' for name in BUDGETS]
        if any(name in given for name in budgets):
            for name in set(budgets) - set(given):
                self.config.update_from_flattened_dict({name: 0})
        if 'protocol.phase_sizes' in given:
            for name in ('base_classes', 'phases', 'remainder'):
                if f'protocol.{name}' not in given:
                    self.config.protocol[name] = None


def explain_type(error: flags.Error) -> str | None:
    """What a field must be, if a flag has a value of another type."""
    found = re.match(r'flag (--config\.([\w.]+)=.*?): ', str(error))
    if found is None or found[2] not in FIELDS:
        return None
    return f'{found[1]}: must be {FIELDS[found[2]].rule.must_be()}'


def explain_file(error: flags.Error) -> str | None:
    """The message for an error inside the configuration file, or None."""
    flag, wrapped, _ = str(error).partition(': Error whilst parsing config')
    if not wrapped:
        return None
    # absl's error wraps that of ml_collections, which has the traceback in its
    # text and wraps the error that the file raised.
    raised: Any = error.__context__
    return f'{flag}: {raised and raised.__context__}'


def explain_key(given: str, error: Exception) -> str | None:
    """The message for an unknown field in a configuration file, or None."""
    unknown = re.search(r'Key "(\w+)" does not exist', str(error))
    if not unknown:
        return None
    near = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f'; nearest: {near[1]}' if near else ''
    return f'--config={given}: no field {unknown[1]!r}{hint}'
