"""The plan of a run: the classes of each phase.

It is made when the run starts and saved with it. Classes added after the start
are appended, in phases after the planned ones.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mnemonics_jax.data import class_order
from mnemonics_jax.data.sources import Source


class Plan(NamedTuple):
    """Properties of a run's data, saved as JSON.

    Attributes:
        classes: class names in the class order.
        bounds: (num_old, num_seen) of each phase.
        image_shape: (H, W, C).
        mean: mean per channel, in [0, 1], for the model's normalisation.
        std: standard deviation per channel.
        largest_class: training images of the largest class at the start: no
            class has more exemplar slots, so that the shape of the memory does
            not change when data do. 0: not recorded, by an older version.
        slot_bytes: bytes of a class's budget for each of its exemplar slots,
            for budgets in bytes; 0 without one. Also from the data at the
            start, and for the same reason.
    """

    classes: tuple[str, ...]
    bounds: tuple[tuple[int, int], ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    largest_class: int = 0
    slot_bytes: float = 0.0


def begin(source: Source, protocol: Any) -> Plan:
    """The plan of a new run.

    Args:
        source: source of the images.
        protocol: config section `protocol`, with base_classes and phases set,
            also where phase_sizes is.

    Raises:
        ValueError: the classes cannot be divided into these phases, or the file
            of the class order is invalid.
    """
    names = arrange(source.class_names, protocol)
    bounds = class_order.planned_bounds(len(names), protocol)
    plan = Plan(names, tuple(bounds), *image_properties(source))
    return plan._replace(largest_class=largest_class(source))


def extend(plan: Plan, source: Source, protocol: Any) -> Plan:
    """The plan with the classes added to the source after the start.

    They form new phases as large as phase 1, the last one possibly smaller; or
    a single phase, if there is no phase 1. The pixel statistics are kept, since
    the model was trained with them.

    Args:
        plan: plan of the run so far.
        source: source with all classes of the plan, and possibly others.
        protocol: see `begin`.

    Raises:
        ValueError: the source lacks a class of the plan or has another image
            shape, or the class order file does not start with the plan's
            classes.
    """
    check_data(plan, source)
    if not plan.largest_class:
        plan = plan._replace(largest_class=largest_class(source))
    known = set(plan.classes)
    added = tuple(name for name in source.class_names if name not in known)
    if protocol.class_order_file is None:
        added = arrange(added, protocol)
    else:
        names = arrange(source.class_names, protocol)
        check_prefix(names, plan, protocol.class_order_file)
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
    """Restores a plan from its `_asdict()`, read from JSON."""
    numbers = Plan._field_defaults
    values: dict[str, Any] = {
        name: content.get(name, numbers[name])
        if name in numbers
        else tuple(content[name])
        for name in Plan._fields
    }
    plan = Plan(**values)
    return plan._replace(bounds=tuple((a, b) for a, b in plan.bounds))


def apply(plan: Plan, source: Source) -> tuple[Source, np.ndarray]:
    """Applies a plan to a source that has exactly its classes.

    Returns:
        The source with the plan's statistics, and int64[K], the original label
        of the class at each position.
    """
    labels = {name: k for k, name in enumerate(source.class_names)}
    order = np.array([labels[name] for name in plan.classes], np.int64)
    return source._replace(mean=plan.mean, std=plan.std), order


def arrange(names: Sequence[str], protocol: Any) -> tuple[str, ...]:
    """Orders class names by the seed or the class order file."""
    if protocol.class_order_file is None:
        order = class_order.class_order(len(names), protocol.class_order_seed)
    else:
        order = class_order.read_order(protocol.class_order_file, names)
    return tuple(names[k] for k in order)


def image_properties(source: Source) -> tuple[Any, Any, Any]:
    """Shape, means and standard deviations of a source's images."""
    return (
        tuple(source.image_shape),
        tuple(float(value) for value in source.mean),
        tuple(float(value) for value in source.std),
    )


def largest_class(source: Source) -> int:
    """Training images of the largest class."""
    return int(np.bincount(source.labels['train']).max())


def check_data(plan: Plan, source: Source) -> None:
    """Raises ValueError if a class is missing or the image shape differs."""
    missing = [name for name in plan.classes if name not in source.class_names]
    if missing:
        raise ValueError(
            f'data: missing class {missing[0]!r}: must have all '
            f'{len(plan.classes)} classes that this run started with'
        )
    if tuple(source.image_shape) != plan.image_shape:
        raise ValueError(
            f'data: image shape {tuple(source.image_shape)}: must be '
            f'{plan.image_shape}, as at the start of this run'
        )


def check_prefix(names: Sequence[str], plan: Plan, path: str) -> None:
    """Raises ValueError if an order does not start with that of the plan."""
    for position, (ours, theirs) in enumerate(
        zip(names, plan.classes, strict=False)
    ):
        if ours != theirs:
            raise ValueError(
                f'protocol.class_order_file={path!r}: class {position + 1} is '
                f'{ours!r}: must be {theirs!r}; new classes come after those '
                'that this run started with'
            )
