"""The order in which classes arrive, and how phases cut it."""

import itertools

import numpy as np

_MAX_SEED = 2**32 - 1


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
