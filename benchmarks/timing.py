"""Work of ours and of a peer: first compared, then timed in turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Work(NamedTuple):
    """A piece of work, its inputs on the device.

    Attributes:
        run: does it once, and waits for the device.
        result: what the last run gave, by name: NumPy arrays, or trees of them.
    """

    run: Callable[[], None]
    result: Callable[[], dict[str, Any]]


class Pair(NamedTuple):
    """The same work twice.

    Attributes:
        ours: in JAX.
        peer: in PyTorch.
        bounds: of the relative errors of what they give, by name.
    """

    ours: Work
    peer: Work
    bounds: Mapping[str, float]


def jitted_work(function: Any, arguments: tuple[Any, ...]) -> Work:
    """A jitted function of these arguments to arrays by name, as work."""
    held = {}

    def run():
        held.update(jax.block_until_ready(function(*arguments)))

    return Work(run, lambda: {k: np.asarray(v) for k, v in held.items()})


def relative_errors(pair: Pair) -> dict[str, float]:
    """How far the results of one more run of both are apart, by name.

    |ours - theirs| / |theirs|, L2 norms over all arrays; of integers the share
    that differs. Only a pair that has not run yet has the same state on both
    sides.
    """
    pair.ours.run()
    pair.peer.run()
    ours, theirs = pair.ours.result(), pair.peer.result()
    return {name: _error(ours[name], theirs[name]) for name in pair.bounds}


def _error(ours: Any, theirs: Any) -> float:
    # jax.tree.map refuses trees that differ.
    pairs = jax.tree.leaves(
        jax.tree.map(lambda a, b: _joined(a, b), ours, theirs),
    )
    a, b = np.concatenate(pairs, axis=1)
    if np.issubdtype(np.asarray(jax.tree.leaves(theirs)[0]).dtype, np.integer):
        return float(np.mean(a != b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _joined(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Both in float64, flat, [2, n]; numbers of another shape are refused."""
    return np.stack([ours, theirs]).astype(np.float64).reshape(2, -1)


def check(name: str, pair: Pair) -> dict[str, float]:
    """The relative errors, which are printed.

    Raises:
        ValueError: one is not below its bound.
    """
    errors = relative_errors(pair)
    for key, error in errors.items():
        bound = pair.bounds[key]
        print(f'{name}: {key} differs by {error:.1e}, bound {bound:.0e}')
        if not error < bound:
            raise ValueError(f'{name}: {key} differs by {error:.1e}.')
    return errors


def time_in_turn(
    works: Mapping[str, Callable[[], None]], repeats: int
) -> dict[str, dict[str, float]]:
    """Seconds of each, `repeats` rounds of one run each after one to warm up.

    Returns:
        For each name 'median' and 'min' over the rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, run in works.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: {'median': statistics.median(found), 'min': min(found)}
        for name, found in seconds.items()
    }
