"""Work of ours and of a peer: first compared, then timed in turn."""

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

# What the peer is called in figures.
PEER = 'PyTorch'


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
        peer: in PyTorch; None where it is missing.
        bounds: of the relative errors of what they give, by name.
    """

    ours: Work
    peer: Work | None
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
    sides. Without a peer there are none.
    """
    if pair.peer is None:
        return {}
    with exact_products():
        pair.ours.run()
        pair.peer.run()
    ours, theirs = pair.ours.result(), pair.peer.result()
    return {name: _error(ours[name], theirs[name]) for name in pair.bounds}


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """No products of fewer bits than float32 has, in neither of the two.

    GPUs round the factors of products by default, JAX and PyTorch not of the
    same ones.
    """
    if jax.default_backend() == 'cpu':
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision('highest'))
        if importlib.util.find_spec('torch'):
            import torch

            for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
                usual = backend.allow_tf32
                backend.allow_tf32 = False
                stack.callback(setattr, backend, 'allow_tf32', usual)
        yield


def _error(ours: Any, theirs: Any) -> float:
    # jax.tree.map refuses trees that differ.
    pairs = jax.tree.leaves(
        jax.tree.map(_joined, ours, theirs),
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


def row_of(
    work: str, seconds: Mapping[str, Any], errors: Mapping[str, float]
) -> dict[str, Any]:
    """A row from what `time_in_turn` gives for 'ours' and the peer."""
    ours, peer = seconds['ours'], seconds.get(PEER)
    return {
        'work': work,
        'ours': ours['median'],
        'peer': peer and peer['median'],
        'ratio': peer and ours['median'] / peer['median'],
        'ratio_of_least': peer and ours['min'] / peer['min'],
        'errors': dict(errors),
    }


def time_pair(work: str, pair: Pair, repeats: int) -> dict[str, Any]:
    """The row of a pair, checked first."""
    errors = check(work, pair)
    works = {'ours': pair.ours.run}
    if pair.peer is not None:
        works[PEER] = pair.peer.run
    return row_of(work, time_in_turn(works, repeats), errors)
