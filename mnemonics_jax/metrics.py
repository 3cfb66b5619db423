"""Metrics of a class-incremental run from confusion matrices (NumPy).

`confusions[i][t, p]` counts test images of class t that the model of phase i
predicts as p, over the classes seen by then. Classes are positions in the class
order. All values are fractions, not percent.
"""

from collections.abc import Sequence

import numpy as np


def accuracy(
    confusion: np.ndarray, first: int = 0, last: int | None = None
) -> float:
    """Accuracy on test images of classes first..last-1.

    Args:
        confusion: int[n, n], rows are true classes.
        first: first class included.
        last: first class excluded; None for no limit.

    Returns:
        float in [0, 1]; NaN without images.

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> confusion = np.array([[9, 1], [2, 8]])
        >>> metrics.accuracy(confusion), metrics.accuracy(confusion, 1)
        (0.85, 0.8)
    """
    rows = np.asarray(confusion)[first:last]
    total = rows.sum()
    if total == 0:
        return float('nan')
    return float(np.trace(rows, offset=first) / total)


def average_incremental_accuracy(confusions: Sequence[np.ndarray]) -> float:
    """Mean over phases, including phase 0, of the accuracy on classes seen.

    Args:
        confusions: one per phase, int[n, n] of the n classes seen by then.

    Returns:
        float in [0, 1]; the paper's average incremental accuracy.

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> first = np.array([[9, 1], [2, 8]])  # Two classes,
        >>> last = np.array([[6, 0, 4], [2, 7, 1], [0, 0, 10]])  # and a third.
        >>> round(metrics.average_incremental_accuracy([first, last]), 3)
        0.808
    """
    return float(np.mean([accuracy(confusion) for confusion in confusions]))


def initial_forgetting(
    confusions: Sequence[np.ndarray], base_classes: int
) -> float:
    """The paper's forgetting rate F.

    Accuracy of the first model on the classes of phase 0 minus that of the last
    model. Each model predicts among all classes that it has seen. Lower is
    better; 0 if there is only one phase.

    Args:
        confusions: one per phase, int[n, n] of the n classes seen by then.
        base_classes: number of classes of phase 0.

    Returns:
        float in [-1, 1].

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> first = np.array([[9, 1], [2, 8]])  # Two classes,
        >>> last = np.array([[6, 0, 4], [2, 7, 1], [0, 0, 10]])  # and a third.
        >>> round(metrics.initial_forgetting([first, last], base_classes=2), 3)
        0.2
    """
    first, last = (
        accuracy(confusion, 0, base_classes)
        for confusion in (confusions[0], confusions[-1])
    )
    return first - last


def max_forgetting(
    confusions: Sequence[np.ndarray], num_seen: Sequence[int]
) -> float:
    """Forgetting by Chaudhry et al. (2018).

    For the classes of phase i, the best accuracy of the models of phases
    i..N-1 minus that of model N; averaged over i < N. Lower is better; 0 if
    there is only one phase.

    Args:
        confusions: one per phase.
        num_seen: number of classes seen at each phase.

    Returns:
        float in [-1, 1].

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> first = np.array([[9, 1], [2, 8]])  # Two classes,
        >>> last = np.array([[6, 0, 4], [2, 7, 1], [0, 0, 10]])  # and a third.
        >>> round(metrics.max_forgetting([first, last], num_seen=[2, 3]), 3)
        0.2
    """
    bounds = list(zip([0, *num_seen[:-1]], num_seen, strict=True))
    last = len(confusions) - 1
    if last == 0:
        return 0.0
    drops = []
    for i, (low, high) in enumerate(bounds[:-1]):
        past = max(accuracy(confusions[j], low, high) for j in range(i, last))
        drops.append(past - accuracy(confusions[-1], low, high))
    return float(np.mean(drops))


def backward_transfer(
    confusions: Sequence[np.ndarray], num_seen: Sequence[int]
) -> float:
    """Backward transfer by Lopez-Paz and Ranzato (2017).

    Accuracy of the last model on a phase's classes minus that of the phase's
    own model, averaged over all phases but the last. Negative if learning new
    classes hurts old ones; 0 if there is only one phase.

    Args:
        confusions: one per phase.
        num_seen: number of classes seen at each phase.

    Returns:
        float in [-1, 1].

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> first = np.array([[9, 1], [2, 8]])  # Two classes,
        >>> last = np.array([[6, 0, 4], [2, 7, 1], [0, 0, 10]])  # and a third.
        >>> round(metrics.backward_transfer([first, last], num_seen=[2, 3]), 3)
        -0.2
    """
    bounds = list(zip([0, *num_seen[:-1]], num_seen, strict=True))[:-1]
    gains = [
        accuracy(confusions[-1], low, high) - accuracy(own, low, high)
        for own, (low, high) in zip(confusions[:-1], bounds, strict=True)
    ]
    return float(np.mean(gains)) if gains else 0.0


def accuracy_by_phase(
    confusions: Sequence[np.ndarray], num_seen: Sequence[int]
) -> np.ndarray:
    """Accuracy of each phase's model on the classes of each phase up to it.

    Predictions are among all classes seen by then.

    Args:
        confusions: one per phase.
        num_seen: number of classes seen at each phase.

    Returns:
        f64[N, N] for N phases: [i, j] is the accuracy of the model of phase i
        on the classes of phase j; NaN for j > i and without images.

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> first = np.array([[9, 1], [2, 8]])  # Two classes,
        >>> last = np.array([[6, 0, 4], [2, 7, 1], [0, 0, 10]])  # and a third.
        >>> metrics.accuracy_by_phase([first, last], [2, 3]).round(3).tolist()
        [[0.85, nan], [0.65, 1.0]]
    """
    bounds = list(zip([0, *num_seen[:-1]], num_seen, strict=True))
    found = np.full((len(bounds), len(bounds)), np.nan)
    for i, confusion in enumerate(confusions):
        found[i, : i + 1] = [
            accuracy(confusion, *bound) for bound in bounds[: i + 1]
        ]
    return found


def per_class_accuracy(confusion: np.ndarray) -> list[float]:
    """Accuracy on each class seen.

    Args:
        confusion: int[n, n], rows are true classes.

    Returns:
        n floats in [0, 1]; NaN for a class without images.

    Example:
        >>> import numpy as np
        >>> from mnemonics_jax import metrics
        >>> metrics.per_class_accuracy(np.array([[9, 1], [2, 8]]))
        [0.9, 0.8]
    """
    confusion = np.asarray(confusion)
    return (np.diag(confusion) / confusion.sum(axis=1)).tolist()
