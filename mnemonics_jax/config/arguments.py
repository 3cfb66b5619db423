"""Configuration files by name, and their arguments: `cifar100:phases=10`.

Arguments choose a cell of the paper's tables; any other field is a flag.
"""

import contextlib
import functools
import pathlib
import re
from typing import Any

from ml_collections import config_dict

from mnemonics_jax.core import cli, plugins

SLOW_SECONDS = 60.0

# Argument -> the field it sets.
FIELDS = {
    'phases': 'protocol.phases',
    'method': 'method.name',
    'exemplars': 'exemplars.strategy',
    'adjust': 'exemplars.adjust',
    'preset': 'exemplars.preset',
    'transfer': 'weight_transfer',
}
# None: as the preset says, or, for transfer, with learned exemplars alone.
DEFAULTS = {
    'phases': 5,
    'method': 'lucir',
    'exemplars': 'mnemonics',
    'adjust': None,
    'preset': 'tuned',
    'transfer': None,
}
# Settings of methods for ImageNet, which a run may have of all of them.
IMAGENET_SETTINGS = {
    'method.lucir.lambda_base': 10.0,
    'method.podnet.spatial_weight': 8.0,
    'method.podnet.flat_weight': 10.0,
}


class ArgumentError(ValueError):
    """What follows the colon of a configuration is wrong."""


def folder() -> pathlib.Path:
    """Where the package's configurations are: beside it in a checkout."""
    here = pathlib.Path(__file__).parent.parent
    installed = here / 'configs'
    return installed if installed.is_dir() else here.parent / 'configs'


def configurations() -> dict[str, pathlib.Path]:
    """The package's configuration files, by name."""
    return {path.stem: path for path in sorted(folder().glob('*.py'))}


def locate(given: str) -> str:
    """A configuration file by its path or, if it is the package's, by its name.

    Args:
        given: as in 'a/file.py:phases=10' or 'cifar100:phases=10'; arguments
            follow the colon.

    Returns:
        The path with the same arguments.

    Raises:
        ValueError: there is no such file; names the configurations there are.
    """
    name, *arguments = given.split(':', 1)
    files = configurations()
    if not pathlib.Path(name).is_file():
        if name not in files:
            raise ValueError(
                f'--config={given}: must be a file with a get_config() '
                f'function, or one of {", ".join(files)}'
            )
        name = str(files[name])
    return ':'.join((name, *arguments))


def load(given: str) -> config_dict.ConfigDict:
    """The configuration of a file.

    Args:
        given: see `locate`.

    Raises:
        ValueError: there is no such file, or it gives no configuration: what it
            did instead, and where.
    """
    path, *words = locate(given).split(':', 1)
    what = f'--config={given}'
    with _waiting(what):
        module = plugins.execute(pathlib.Path(path), path, what)
        make = getattr(module, 'get_config', None)
        if not callable(make):
            raise ValueError(f'{what}: must have a function get_config()')
        try:
            config = plugins.attempt(what, make, *words)
        except plugins.PluginError as e:
            raise ValueError(_explain(what, e)) from e
    if not isinstance(config, config_dict.ConfigDict):
        raise ValueError(
            f'{what}: get_config{plugins.defined_at(make)} returned '
            f'{plugins.described(config)}: must return default_config() with '
            'changes'
        )
    return config


def _explain(what: str, error: plugins.PluginError) -> str:
    """The line for what `get_config` raised."""
    cause = error.__cause__ or error
    if isinstance(cause, ArgumentError):
        return f'{what}: {cause}'
    unknown = re.search(r'Key "(\w+)" does not exist', str(cause))
    if not unknown:
        return str(error)
    near = re.search(r'Did you mean "(\w+)"', str(cause))
    hint = f'; nearest: {near[1]}' if near else ''
    return f'{what}: no field {unknown[1]!r}{hint}{plugins.place(cause) or ""}'


def _waiting(what: str) -> contextlib.AbstractContextManager[None]:
    """Says what is being read if that takes longer than a minute."""
    line = f'still reading {what}; Ctrl-C says at which line'
    return cli.after(SLOW_SECONDS, functools.partial(cli.warn, line))


def apply_arguments(
    config: config_dict.ConfigDict, text: str, **more: Any
) -> dict[str, Any]:
    """Sets the fields that arguments name.

    Args:
        config: changed in place.
        text: what follows the colon, as in 'phases=10,method=bic'.
        **more: defaults of arguments that a file has of its own, or other
            defaults than `DEFAULTS`. With 0 `phases` are left to the data.

    Returns:
        All arguments, those of the file's own for it to apply.

    Raises:
        ArgumentError: an unknown argument, or a value that is not of its type.
    """
    arguments = parse_arguments(text, {**DEFAULTS, **more})
    values = {**arguments, 'phases': arguments['phases'] or None}
    config.update_from_flattened_dict(
        {field: values[name] for name, field in FIELDS.items()}
    )
    return arguments


def set_imagenet(config: config_dict.ConfigDict, source: str) -> None:
    """Data, model and schedule of the paper's runs on ImageNet.

    Args:
        config: changed in place.
        source: 'folder' or 'tfds'.
    """
    config.update_from_flattened_dict(
        {
            'data.source': source,
            'data.image_size': 224,
            'data.eval_resize': 256,
            'data.random_resized_crop': True,
            'data.flip': True,
            'backbone.name': 'resnet18',
            **IMAGENET_SETTINGS,
            'train.epochs': 90,
            'train.milestones': (30, 60),
            # Features of all exemplars of a phase at once, with what their
            # gradients need, would take 43 GB on each of 16 chips, and 7 so.
            'exemplars.microbatch': 1024,
        }
    )
    if source == 'tfds':
        config.data.name = 'imagenet2012'


def parse_arguments(text: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a config file, as in `cifar100.py:phases=10,method=bic`.

    Args:
        text: what follows the colon.
        defaults: name -> value; a value's type is that of the default, None
            standing for an optional truth value.

    Raises:
        ArgumentError: an unknown name, one that is given twice, or a value that
            is not of its type.
    """
    arguments, given = dict(defaults), set()
    for part in filter(None, text.split(',')):
        name, _, value = part.partition('=')
        if name in given:
            raise ArgumentError(
                f'--config argument {name!r}: must be given once, in {text!r}'
            )
        given.add(name)
        if name not in defaults:
            raise ArgumentError(
                f'--config argument {name!r}: must be one of '
                f'{", ".join(defaults)}'
            )
        arguments[name] = parse_argument(name, value, defaults[name])
    return arguments


def parse_argument(name: str, value: str, default: Any) -> Any:
    """One value of `parse_arguments`."""
    if default is None or isinstance(default, bool):
        if value.lower() not in ('true', 'false'):
            raise ArgumentError(
                f'argument {name}={value!r}: must be true or false'
            )
        return value.lower() == 'true'
    if isinstance(default, int) and not value.isdecimal():
        raise ArgumentError(
            f'argument {name}={value!r}: must be an integer >= 0'
        )
    return type(default)(value)
