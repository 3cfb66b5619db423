"""The order in which classes arrive, and how phases cut it."""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

_MAX_SEED = 2**32 - 1
# Those of the field's most reported protocol.
_PHASES = 5


def class_order(num_classes: int, seed: int) -> np.ndarray:
    """Shuffles the classes as the field does, so that results compare.

    NumPy's legacy generator is frozen, hence the order is the same for ever;
    seed 1993 is the one that published class-incremental results use.

    Args:
        num_classes: K, number of classes of the data.
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
    """Draws a subset of the classes of a data set, as ImageNet-Subset is drawn.

    It is the start of the shuffle with the same seed, sorted again: 100 of 1000
    classes and seed 1993 give the field's ImageNet-Subset, whose classes are
    then shuffled anew by `class_order`.

    Args:
        num_available: classes of the data set, in alphabetical order.
        num: how many to draw, 1..num_available.
        seed: 0..2**32 - 1.

    Returns:
        int64[num], ascending.

    Raises:
        ValueError: there are not so many classes.
    """
    if not 1 <= num <= num_available:
        raise ValueError(
            f'data.subset_classes={num}: must be in 1..{num_available}, the '
            'number of classes'
        )
    return np.sort(class_order(num_available, seed)[:num])


def read_order(path: str, class_names: Sequence[str]) -> np.ndarray:
    """Reads a class order of one's own.

    Args:
        path: of a text file that names every class once, a name a line; empty
            lines do not count.
        class_names: by original label.

    Returns:
        int64[K], the original label of the class at each position.

    Raises:
        ValueError: the file cannot be read, or is no order of the classes.
    """
    field = f'protocol.class_order_file={path!r}'
    try:
        text = pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, 'strerror', None) or 'not a text file'
        raise ValueError(f'{field}: {reason}') from e
    names = [line.strip() for line in text.splitlines() if line.strip()]
    labels = {name: label for label, name in enumerate(class_names)}
    for number, name in enumerate(names, start=1):
        if name not in labels:
            raise ValueError(f'{field}: entry {number}: no class {name!r}')
    missing = sorted(set(labels) - set(names))
    if missing:
        raise ValueError(f'{field}: missing class {missing[0]!r}')
    if len(names) > len(labels):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise ValueError(f'{field}: class {twice!r} stands there twice')
    return np.array([labels[name] for name in names], np.int64)


def phase_bounds(
    num_classes: int, base_classes: int, phases: int
) -> list[tuple[int, int]]:
    """Cuts the class order into phases.

    Args:
        num_classes: K, number of classes of the data.
        base_classes: classes of phase 0, 0..K. With 0 there is no larger base
            phase: all classes are split equally over `phases` phases.
        phases: number of equal phases after phase 0 (of all phases, if
            `base_classes` is 0). 0 only if phase 0 has all classes.

    Returns:
        A pair (num_old, num_seen) for each phase: its classes are those at
        the positions num_old..num_seen - 1 of the class order.

    Raises:
        ValueError: the classes do not divide so.
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
                f'protocol.phases={phases}: no classes are left after the '
                f'first {base_classes}; allowed: 0'
            )
        return [(0, num_classes)]
    if phases < 1 or num_later % phases:
        allowed = [str(n) for n in range(1, num_later + 1) if not num_later % n]
        after = f' after the first {base_classes}' if base_classes else ''
        raise ValueError(
            f'protocol.phases={phases}: the {num_later} classes{after} do not '
            f'divide into {phases} equal phases; allowed: {", ".join(allowed)}'
        )
    step = num_later // phases
    edges = {0, *range(base_classes, num_classes + 1, step)}
    return list(itertools.pairwise(sorted(edges)))


def default_protocol(
    num_classes: int, base_classes: int | None, phases: int | None
) -> tuple[int, int]:
    """Fills in what a protocol leaves open: half of the classes, then 5 phases.

    With few classes, or a number that does not divide, there are fewer phases,
    or about half of the classes.

    Args:
        num_classes: K >= 1.
        base_classes: classes of phase 0, or None.
        phases: equal phases after it, or None.

    Returns:
        Both numbers, as `phase_bounds` takes them. Those given are not changed,
        whether or not they fit.
    """
    if base_classes is None:
        if phases is None:
            phases = min(_PHASES, num_classes // 2)
        # Rounded to the nearest, for a share that is about half.
        step = max(1, (num_classes + phases) // max(1, 2 * phases))
        return max(0, num_classes - step * phases), phases
    if phases is None:
        num_later = max(0, num_classes - base_classes)
        divisors = [n for n in range(1, _PHASES + 1) if num_later % n == 0]
        phases = divisors[-1] if num_later else 0
    return base_classes, phases
