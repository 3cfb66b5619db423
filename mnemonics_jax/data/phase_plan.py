"""The plan of a run: which classes arrive in which phase.

It is made when a run begins and kept with it. Classes that come into being
later are appended, in phases after the planned ones; nothing planned changes.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.data import class_order
from mnemonics_jax.data.sources import Source


class Plan(NamedTuple):
    """What a run keeps of its data, as JSON takes it.

    Attributes:
        classes: names in the order in which they arrive.
        bounds: (num_old, num_seen) of each phase.
        image_shape: (H, W, C).
        mean: per channel, in [0, 1], for the model's normalisation.
        std: per channel.
    """

    classes: tuple[str, ...]
    bounds: tuple[tuple[int, int], ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def begin(source: Source, protocol: Any) -> Plan:
    """The plan of a new run.

    Args:
        source: of the images.
        protocol: the section of the config, with base_classes and phases set.

    Raises:
        ValueError: the classes do not divide so, or the file with their order
            is none.
    """
    names = arrange(source.class_names, protocol)
    bounds = class_order.phase_bounds(
        len(names), protocol.base_classes, protocol.phases
    )
    return Plan(names, tuple(bounds), *appearance(source))


def extend(plan: Plan, source: Source, protocol: Any) -> Plan:
    """The plan with the classes that did not exist when it was made.

    They come after all others, in phases as large as phase 1, the last one
    smaller if they do not divide; or in one phase, if there is no phase 1. The
    statistics of the pixels stay, since the model was trained with them.

    Args:
        plan: of the run so far.
        source: with all classes of the plan, and maybe others.
        protocol: as for `begin`.

    Raises:
        ValueError: a class of the plan, or the images' shape, is another; or
            the file with the order does not begin with the classes of the plan.
    """
    check_data(plan, source)
    known = set(plan.classes)
    added = tuple(name for name in source.class_names if name not in known)
    if protocol.class_order_file is None:
        added = arrange(added, protocol)
    else:
        names = arrange(source.class_names, protocol)
        check_start(names, plan, protocol.class_order_file)
        added = names[len(known) :]
    if not added:
        return plan
    later = plan.bounds[1:]
    step = later[0][1] - later[0][0] if later else len(added)
    total = len(known) + len(added)
    edges = [*range(len(known), total, step), total]
    bounds = (*plan.bounds, *itertools.pairwise(edges))
    return plan._replace(classes=(*plan.classes, *added), bounds=bounds)


def from_json(content: dict[str, Any]) -> Plan:
    """The plan of which `content` is `_asdict()`, written as JSON and read."""
    plan = Plan(**{name: tuple(content[name]) for name in Plan._fields})
    return plan._replace(bounds=tuple((a, b) for a, b in plan.bounds))


def apply(plan: Plan, source: Source) -> tuple[Source, np.ndarray]:
    """What a plan says of a source that has its classes.

    Returns:
        The source with the plan's statistics, and int64[K], the original label
        of the class at each position.
    """
    labels = {name: k for k, name in enumerate(source.class_names)}
    order = np.array([labels[name] for name in plan.classes], np.int64)
    return source._replace(mean=plan.mean, std=plan.std), order


def arrange(names: Sequence[str], protocol: Any) -> tuple[str, ...]:
    """Names in the order of the seed, or of the file."""
    if protocol.class_order_file is None:
        order = class_order.class_order(len(names), protocol.class_order_seed)
    else:
        order = class_order.read_order(protocol.class_order_file, names)
    return tuple(names[k] for k in order)


def appearance(source: Source) -> tuple[tuple[Any, ...], ...]:
    """Shape, means and standard deviations of a source's images."""
    return (
        tuple(source.image_shape),
        tuple(float(value) for value in source.mean),
        tuple(float(value) for value in source.std),
    )


def check_data(plan: Plan, source: Source) -> None:
    """Raises ValueError if the data are not those of the plan, or more."""
    missing = [name for name in plan.classes if name not in source.class_names]
    if missing:
        raise ValueError(
            f'data: no class {missing[0]!r}, which this run has planned; '
            f'allowed: its {len(plan.classes)} classes, and new ones'
        )
    if tuple(source.image_shape) != plan.image_shape:
        raise ValueError(
            f'data: images of the shape {tuple(source.image_shape)}; allowed: '
            f'{plan.image_shape}, which this run was begun with'
        )


def check_start(names: Sequence[str], plan: Plan, path: str) -> None:
    """Raises ValueError if an order does not begin with that of the plan."""
    for position, (ours, theirs) in enumerate(
        zip(names, plan.classes, strict=False)
    ):
        if ours != theirs:
            raise ValueError(
                f'protocol.class_order_file={path!r}: class {position + 1} is '
                f'{ours!r}; allowed: {theirs!r}, since new classes come after '
                'those that this run was begun with'
            )
