"""Parses `--config` and the flags of its fields; a mistake is one line."""

import re
from collections.abc import Collection, Sequence

from absl import flags
from ml_collections import config_dict, config_flags

from mnemonics_jax.config import arguments, command_line
from mnemonics_jax.config.fields import FIELDS
from mnemonics_jax.config.resolve import BUDGETS, check_form

DEFAULT_CONFIG = 'digits'


class _Loader(flags.ArgumentParser[config_dict.ConfigDict]):
    """Reads configuration files for the flag `--config`.

    Attributes:
        mistake: the mistake in the last one, in one line; absl adds words of
            its own to what is raised.
    """

    mistake: str | None = None

    def parse(self, argument: str) -> config_dict.ConfigDict:
        """The configuration of a file, locked."""
        try:
            config = arguments.load(argument)
        except ValueError as e:
            self.mistake = str(e)
            raise
        try:
            check_form(config)
        except ValueError as e:
            self.mistake = f'--config={argument}: {e}'
            raise
        return config.lock()

    def flag_type(self) -> str:
        """What `--help` says that the flag takes."""
        return 'config object'


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

        # In place of the parser of ml_collections, which runs the file as part
        # of the program.
        self._loader = values['config'].parser = _Loader()

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
        self._loader.mistake = None
        try:
            _, argv = command_line.config_first(argv, DEFAULT_CONFIG)
            argv, unset = command_line.take_none(argv)
            command_line.load_plugins(argv)
            self._argv[:] = argv
            rest = self.values(argv)
            self.config.update_from_flattened_dict(dict.fromkeys(unset))
            self._prefer_flags()
        except (AttributeError, KeyError) as e:
            raise ValueError(command_line.explain_field(argv) or e) from e
        except UnicodeDecodeError as e:
            files = command_line.values_of('flagfile', argv)
            raise ValueError(f'--flagfile={",".join(files)}: {e}') from e
        except flags.UnrecognizedFlagError as e:
            line = command_line.explain_flag(argv, list(self.values))
            raise ValueError(line or e) from e
        except flags.Error as e:
            raise ValueError(
                self._loader.mistake
                or explain_flagfile(e)
                or explain_type(e)
                or e
            ) from e
        except TypeError as e:
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


def explain_flagfile(error: flags.Error) -> str | None:
    """The message for a file of flags that cannot be read, or None."""
    if not isinstance(error, flags.CantOpenFlagFileError):
        return None
    cause = error.__context__
    if not isinstance(cause, OSError):
        return None
    return f'--flagfile={cause.filename}: {cause.strerror}'
