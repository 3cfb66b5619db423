"""The class order and its division into phases."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemonics_jax.core.regular import regular

_MAX_SEED = 2**32 - 1
# As in the most common protocol.
_DEFAULT_PHASES = 5


def class_order(num_classes: int, seed: int) -> np.ndarray:
    """Shuffles the classes with NumPy's legacy generator.

    The legacy generator is frozen, so the order never changes; published
    class-incremental results use it with seed 1993.

    Args:
        num_classes: K, number of classes in the data.
        seed: 0..2**32 - 1.

    Returns:
        int64[K], the original label of the class at each position.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(
            f'protocol.class_order_seed={seed}: must be in 0..{_MAX_SEED}'
        )
    order = np.arange(num_classes, dtype=np.int64)
    np.random.RandomState(seed).shuffle(order)
    return order


def choose_classes(num_available: int, num: int, seed: int) -> np.ndarray:
    """Draws a subset of the classes of a data set.

    The subset is the first `num` classes of `class_order`, sorted: 100 of 1000
    classes with seed 1993 give ImageNet-Subset.

    Args:
        num_available: number of classes in the data, in alphabetical order.
        num: number of classes to draw, 1..num_available.
        seed: 0..2**32 - 1.

    Returns:
        int64[num], ascending.

    Raises:
        ValueError: `num` or the seed is out of range.
    """
    if not 1 <= num <= num_available:
        raise ValueError(
            f'data.subset_classes={num}: must be in 1..{num_available}, the '
            'number of classes'
        )
    return np.sort(class_order(num_available, seed)[:num])


def read_names(path: str) -> list[str]:
    """The class names in a text file, one per line; empty lines are ignored.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        text = regular(pathlib.Path(path)).read_text()
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, 'strerror', None) or 'not a text file'
        raise ValueError(f'protocol.class_order_file={path!r}: {reason}') from e
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_order(path: str, class_names: Sequence[str]) -> np.ndarray:
    """Reads a class order from a file.

    Args:
        path: text file with every class name once, see `read_names`.
        class_names: class names by original label.

    Returns:
        int64[K], the original label of the class at each position.

    Raises:
        ValueError: the file cannot be read, or a class is unknown, missing or
            repeated.
    """
    field = f'protocol.class_order_file={path!r}'
    names = read_names(path)
    labels = {name: label for label, name in enumerate(class_names)}
    for number, name in enumerate(names, start=1):
        if name not in labels:
            raise ValueError(f'{field}: entry {number}: no class {name!r}')
    missing = sorted(set(labels) - set(names))
    if missing:
        raise ValueError(f'{field}: missing class {missing[0]!r}')
    if len(names) > len(labels):
        repeated = next(n for i, n in enumerate(names) if n in names[:i])
        raise ValueError(f'{field}: class {repeated!r} is repeated')
    return np.array([labels[name] for name in names], np.int64)


def bounds_of_sizes(
    num_classes: int, sizes: Sequence[int]
) -> list[tuple[int, int]]:
    """Divides the class order into phases of given sizes.

    Args:
        num_classes: K, number of classes in the data.
        sizes: classes of each phase, each >= 1.

    Returns:
        See `phase_bounds`.

    Raises:
        ValueError: the sizes do not add up to K.
    """
    if sum(sizes) != num_classes:
        raise ValueError(
            f'protocol.phase_sizes={",".join(map(str, sizes))}: must add up to '
            f'{num_classes}, the number of classes, not to {sum(sizes)}'
        )
    return list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))


def phase_bounds(
    num_classes: int,
    base_classes: int,
    phases: int,
    remainder: str | None = None,
) -> list[tuple[int, int]]:
    """Divides the class order into phases.

    Args:
        num_classes: K, number of classes in the data.
        base_classes: classes of phase 0, 0..K. With 0 there is no base phase:
            all classes are divided equally into `phases` phases.
        phases: number of equal phases after phase 0 (of all phases, if
            `base_classes` is 0). 0 only if phase 0 has all classes.
        remainder: 'last': if the classes cannot be divided equally, the last
            phase is smaller than the others. None: that is an error.

    Returns:
        A pair (num_old, num_seen) for each phase: its classes are at positions
        num_old..num_seen - 1 of the class order.

    Raises:
        ValueError: `base_classes` is out of range, or the other classes cannot
            be divided into `phases` phases.
    """
    if not 0 <= base_classes <= num_classes:
        raise ValueError(
            f'protocol.base_classes={base_classes}: must be in '
            f'0..{num_classes}, the number of classes'
        )
    num_later = num_classes - base_classes
    if num_later == 0:
        if phases != 0:
            raise ValueError(
                f'protocol.phases={phases}: must be 0, no classes are left '
                f'after the first {base_classes}'
            )
        return [(0, num_classes)]
    allowed = numbers_of_phases(num_later, remainder)
    if phases not in allowed:
        after = f' after the first {base_classes}' if base_classes else ''
        what = f'{num_later}, the number of classes{after}'
        listed = ', '.join(map(str, allowed))
        if remainder:
            raise ValueError(
                f'protocol.phases={phases}: must be one of {listed} with '
                f'protocol.remainder={remainder}: there are {num_later} '
                f'classes{after}{_filled(num_later, phases)}'
            )
        ask = phases in numbers_of_phases(num_later, 'last')
        hint = '; or protocol.remainder=last, a smaller last phase'
        raise ValueError(
            f'protocol.phases={phases}: must be a divisor of {what}: {listed}'
            f'{hint if ask else ""}'
        )
    step = -(-num_later // phases)
    edges = {0, *range(base_classes, num_classes, step), num_classes}
    return list(itertools.pairwise(sorted(edges)))


def _filled(num_classes: int, phases: int) -> str:
    """How many phases the classes fill instead, for a message."""
    if not 0 < phases < num_classes:
        return ''
    step = -(-num_classes // phases)
    return f', which in phases of {step} fill {-(-num_classes // step)}'


def planned_bounds(num_classes: int, protocol: Any) -> list[tuple[int, int]]:
    """The phases of a config section `protocol`, with defaults for None.

    Args:
        num_classes: K, number of classes in the data.
        protocol: the section.

    Returns:
        See `phase_bounds`, also for errors.
    """
    if protocol.phase_sizes is not None:
        return bounds_of_sizes(num_classes, protocol.phase_sizes)
    numbers = default_protocol(
        num_classes, protocol.base_classes, protocol.phases
    )
    return phase_bounds(num_classes, *numbers, protocol.remainder)


def numbers_of_phases(num_classes: int, remainder: str | None) -> list[int]:
    """Into how many phases classes can be divided; see `phase_bounds`."""
    return [
        n
        for n in range(1, num_classes + 1)
        # Phases of one size, rounded up, of which the last is not empty.
        if num_classes % n == 0
        or (remainder and (n - 1) * -(-num_classes // n) < num_classes)
    ]


def default_protocol(
    num_classes: int, base_classes: int | None, phases: int | None
) -> tuple[int, int]:
    """Replaces None by the default: half of the classes, then 5 phases.

    With few classes there are fewer phases; where half of the classes cannot be
    divided equally, phase 0 gets about half.

    Args:
        num_classes: K >= 1.
        base_classes: classes of phase 0, or None.
        phases: equal phases after phase 0, or None.

    Returns:
        `base_classes` and `phases` for `phase_bounds`. Given values are
        returned unchanged and unchecked.
    """
    if base_classes is None:
        if phases is None:
            phases = min(_DEFAULT_PHASES, num_classes // 2)
        # The nearest integer to num_classes / (2 * phases).
        step = max(1, (num_classes + phases) // max(1, 2 * phases))
        return max(0, num_classes - step * phases), phases
    if phases is None:
        num_later = max(0, num_classes - base_classes)
        candidates = range(1, _DEFAULT_PHASES + 1)
        divisors = [n for n in candidates if num_later % n == 0]
        phases = divisors[-1] if num_later else 0
    return base_classes, phases
