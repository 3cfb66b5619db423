"""Evaluates a finished phase of a run, also on other data.

    python -m mnemonics_jax.evaluate WORKDIR --data.source=folder --data.dir=DIR

classifies the test images of the run's data source, or of the one that the
flags describe. Classes are matched by name; images of classes that the phase
has not seen are left out and counted.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core import dependencies

with dependencies.explained():
    import jax
    import numpy as np
    from ml_collections import config_dict

    from mnemonics_jax import config as config_lib
    from mnemonics_jax import metrics
    from mnemonics_jax.config.fields import FIELDS, default_config
    from mnemonics_jax.core import cli, compilation_cache, parallel
    from mnemonics_jax.core.workdir import write_atomically
    from mnemonics_jax.data import sources
    from mnemonics_jax.experiment import finished
    from mnemonics_jax.experiment.context import in_order
    from mnemonics_jax.experiment.data import (
        build_source,
        check_feed,
        choose_feed,
        make_loader,
    )
    from mnemonics_jax.train import evaluation

# The most names of left-out classes to print.
_MAX_NAMES = 10


def with_data(
    phase: finished.FinishedPhase, given: Sequence[str]
) -> config_dict.FrozenConfigDict:
    """The configuration of a run, with other data.

    Args:
        phase: finished phase of the run.
        given: flags such as `--data.dir=DIR`. With any of them all classes of
            the data count, and images are resized to the run's size.

    Raises:
        ValueError: a flag is not a field of the data, or has a wrong value.
    """
    config = config_dict.ConfigDict(phase.config.to_dict())
    # Test images alone are read: where to is decided for them, and no random
    # crops of original images are made.
    config.data.update(feed='auto', random_resized_crop=False)
    if not given:
        return config_dict.FrozenConfigDict(config)
    config.data.subset_classes = None
    if any(
        flag.startswith(('--data.dir=', '--data.source=')) for flag in given
    ):
        # They describe the run's own data.
        config.data.labels = config.data.test_fraction = None
    height, width, _ = phase.plan.image_shape
    if height == width:
        config.data.image_size = height
    fields = default_config().data
    for flag in given:
        name, equals, value = flag.partition('=')
        field = name.removeprefix('--data.')
        if field == name or field not in fields or not equals:
            raise ValueError(
                f'{flag}: must be --data.FIELD=VALUE with one of '
                f'{", ".join(fields)}'
            )
        rule = FIELDS[f'data.{field}'].rule
        is_none = value == 'None' and rule.holds(None)
        kind = fields.get_type(field)
        config.data[field] = None if is_none else convert(name, value, kind)
        config_lib.check_field(config, f'data.{field}')
    return config_dict.FrozenConfigDict(config)


def convert(name: str, value: str, kind: type) -> Any:
    """The value of a flag.

    Raises:
        ValueError: it is not of the type `kind`.
    """
    words = {'true': True, 'false': False}
    try:
        return words[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as e:
        rule = 'true or false' if kind is bool else f'of type {kind.__name__}'
        raise ValueError(f'{name}={value}: must be {rule}') from e


def left_out(source: sources.Source, names: Sequence[str]) -> dict[str, int]:
    """Number of test images of each class that is not among `names`."""
    counts = np.bincount(source.labels['test'], minlength=source.num_classes)
    known = set(names)
    return {
        name: int(count)
        for name, count in zip(source.class_names, counts, strict=True)
        if name not in known and count
    }


def check_source(source: sources.Source, phase: finished.FinishedPhase) -> None:
    """Raises ValueError if the phase can classify none of the images."""
    if tuple(source.image_shape) != phase.plan.image_shape:
        raise ValueError(
            f'--data: images of shape {tuple(source.image_shape)}: must be '
            f'{phase.plan.image_shape}, as in the run'
        )
    others = left_out(source, phase.class_names)
    if len(source.labels['test']) == sum(others.values()):
        raise ValueError(
            f'--data: no test image of a class that phase {phase.phase} has '
            f'seen: must have classes such as {phase.class_names[0]!r}, not '
            f'{next(iter(others), None)!r}'
        )


def evaluate(
    phase: finished.FinishedPhase,
    config: config_dict.FrozenConfigDict,
    placement: parallel.Placement,
) -> dict[str, Any]:
    """Evaluates a phase on the test images of a configuration's data.

    Returns:
        A dict for JSON: 'phase', 'num_seen', 'class_names', 'num_images',
        'left_out' (class -> number of images) and, by classifier, 'accuracy',
        'top5_accuracy' and 'confusion'.

    Raises:
        ValueError: the data cannot be read or have no class seen, or what
            reads them is not installed.
    """
    check_feed(config)
    whole = build_source(config)
    for line in whole.notes:
        print(line, file=sys.stderr)
    check_source(whole, phase)
    names, seen = phase.class_names, phase.num_seen
    source = sources.match_classes(whole, names)
    num_images = len(source.labels['test'])
    config = choose_feed(config, source, placement, num_images)
    loader = make_loader(
        config, source, np.arange(seen), [(0, seen)], placement
    )
    examples = loader.examples('test', 0, seen)
    evaluator = evaluation.make_evaluator(
        phase.backbone, placement, mirror=phase.config.data.flip
    )
    counts, _ = evaluation.count_all(
        evaluator,
        finished.models_of(phase, evaluator, placement),
        in_order(examples, config.evaluate.batch_size),
        num_classes=len(phase.plan.classes),
        num_seen=seen,
    )
    counts = {name: counts[name] for name in phase.classifiers}
    total = len(examples.labels)
    return {
        'phase': phase.phase,
        'num_seen': seen,
        'class_names': list(names),
        'num_images': total,
        'left_out': left_out(whole, names),
        'accuracy': {
            name: metrics.accuracy(c.confusion) for name, c in counts.items()
        },
        'top5_accuracy': {
            name: float(c.top5.sum() / total) for name, c in counts.items()
        },
        'confusion': {name: c.confusion.tolist() for name, c in counts.items()},
    }


def lines(found: dict[str, Any], predictor: str) -> list[str]:
    """The lines to print for a result of `evaluate`."""
    said = [
        f'phase {found["phase"]}: {found["num_images"]} test images of '
        f'{found["num_seen"]} classes'
    ]
    for name, value in found['accuracy'].items():
        mark = (
            ' (by which the method is evaluated)' if name == predictor else ''
        )
        said.append(f'{name} {100 * value:.1f} %{mark}')
    others = found['left_out']
    if others:
        names = ', '.join(map(repr, list(others)[:_MAX_NAMES]))
        more = ', ...' if len(others) > _MAX_NAMES else ''
        said.append(
            f'left out: {sum(others.values())} images of {len(others)} classes '
            f'that this phase has not seen: {names}{more}'
        )
    return said


def place(batch_size: int) -> parallel.Placement:
    """A placement over as many devices as divide the batch size."""
    devices = jax.devices()
    return parallel.make_placement(
        devices[: math.gcd(len(devices), batch_size)]
    )


def run(arguments: argparse.Namespace, given: Sequence[str]) -> None:
    """Runs the command; see `cli.answer` for errors."""
    parallel.check_devices()
    phase = finished.restore_phase(
        arguments.workdir, arguments.phase, switch_precision=True
    )
    cli.warn(phase.warning)
    config = with_data(phase, given)
    compilation_cache.keep_programs(arguments.workdir)
    parallel.avoid_cached_collectives()
    found = evaluate(phase, config, place(config.evaluate.batch_size))
    print('\n'.join(lines(found, phase.predictor)), flush=True)
    if arguments.out is not None:
        text = json.dumps(found, indent=1) + '\n'
        write_atomically(pathlib.Path(arguments.out), text)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, by default the process's, and runs it."""
    parser = cli.Parser(
        prog='python -m mnemonics_jax.evaluate',
        description='Evaluates a finished phase of a run.',
        epilog='Every field of the data is a flag, such as --data.dir=DIR.',
        allow_abbrev=False,
    )
    parser.add_argument('workdir', metavar='WORKDIR', help='of the run')
    parser.add_argument(
        '--phase', type=int, default=-1, help='default: the last one'
    )
    parser.add_argument('--out', help='a JSON file for all counts')
    arguments, given = parser.parse_known_args(argv)
    cli.answer(lambda: run(arguments, given))


if __name__ == '__main__':
    main()
