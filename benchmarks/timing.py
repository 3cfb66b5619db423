"""Checks that our work and a peer's agree, and times them in turn."""

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mnemonics_jax.core import xla_flags

# Name of the peer in figures.
PEER = 'PyTorch'


class Work(NamedTuple):
    """A piece of work with its inputs on the device.

    Attributes:
        run: runs it once and waits for the device.
        result: returns the results of the last run, by name: NumPy arrays or
            trees of them.
    """

    run: Callable[[], None]
    result: Callable[[], dict[str, Any]]


class Pair(NamedTuple):
    """Our work and the peer's.

    Attributes:
        ours: the work in JAX.
        peer: the work in PyTorch; None without PyTorch.
        bounds: bounds of the relative errors of the results, by name.
    """

    ours: Work
    peer: Work | None
    bounds: Mapping[str, float]


def jit_of_a_run(function: Callable[..., Any]) -> Any:
    """`jax.jit` with the compiler options of a run's programs."""
    options = xla_flags.of_networks(jax.default_backend())
    return jax.jit(function, compiler_options=options)


def jitted_work(function: Any, arguments: tuple[Any, ...]) -> Work:
    """Work from a jitted function that returns arrays by name."""
    held = {}

    def run():
        held.update(jax.block_until_ready(function(*arguments)))

    return Work(run, lambda: {k: np.asarray(v) for k, v in held.items()})


def relative_errors(pair: Pair) -> dict[str, float]:
    """Runs both once and returns the relative errors of the results, by name.

    |ours - theirs| / |theirs| in L2 norm over all arrays; for integers the
    share that differs. Empty without a peer. Call it before any other run, when
    the states of both are the same.
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
    """Full float32 precision of matrix products in both frameworks.

    On GPUs, JAX and PyTorch round different products by default.
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
    # jax.tree.map raises if the trees differ.
    pairs = jax.tree.leaves(jax.tree.map(_joined, ours, theirs))
    a, b = np.concatenate(pairs, axis=1)
    if np.issubdtype(np.asarray(jax.tree.leaves(theirs)[0]).dtype, np.integer):
        return float(np.mean(a != b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _joined(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Both as flat float64 arrays [2, n]; raises if shapes differ."""
    return np.stack([ours, theirs]).astype(np.float64).reshape(2, -1)


def check(name: str, pair: Pair) -> dict[str, float]:
    """Prints and returns the relative errors.

    Raises:
        ValueError: an error is not below its bound.
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
    """Times each function in `repeats` rounds after a warm-up round.

    Returns:
        'median' and 'min' seconds over the rounds, by name.
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
    """A table row from the seconds of 'ours' and the peer."""
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
    """Checks and times a pair and returns its table row."""
    errors = check(work, pair)
    works = {'ours': pair.ours.run}
    if pair.peer is not None:
        works[PEER] = pair.peer.run
    return row_of(work, time_in_turn(works, repeats), errors)
