"""Herding and class means at ImageNet's size, compared with a NumPy loop.

    python benchmarks/herding.py --out=benchmarks/results/herding_cpu.json

Uses synthetic features of 1,000 classes with at most 1,300 examples each, like
ImageNet. Timed are one jitted call over padded classes for ranks and class
means, the selection of a run around it (`select`), and, on some classes, the
jitted call and the greedy NumPy loop in turn. The ranks of random classes are
compared with those of the loop in float64.
"""

import argparse
import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import record
import threadpoolctl
import timing

from mnemonics_jax import prototypes
from mnemonics_jax.exemplars.strategies import Candidates
from mnemonics_jax.exemplars.strategies import herding as herding_strategy


class Sizes(NamedTuple):
    """Sizes of the problem.

    Attributes:
        classes: number of classes.
        examples: examples per class; one class in ten has fewer.
        features: D.
        exemplars: examples to rank per class.
        checked: classes whose ranks are compared with the loop's.
        timed: classes that the loop is timed on.
        repeats: timed rounds.
    """

    classes: int = 1000
    examples: int = 1300
    features: int = 512
    exemplars: int = 20
    checked: int = 200
    timed: int = 40
    repeats: int = 5


QUICK = Sizes(classes=100, examples=260, checked=50, timed=20, repeats=3)


class Problem(NamedTuple):
    """Features f32[n, D], not padded, and labels int32[n]."""

    features: np.ndarray
    labels: np.ndarray


def make_problem(sizes: Sizes) -> Problem:
    """Normally distributed classes whose centres vary as much as examples."""
    random = np.random.default_rng(0)
    counts = np.full(sizes.classes, sizes.examples)
    small = random.permutation(sizes.classes)[: sizes.classes // 10]
    counts[small] = random.integers(
        sizes.examples // 2, sizes.examples, len(small)
    )
    labels = np.repeat(np.arange(sizes.classes, dtype=np.int32), counts)
    features = np.empty((len(labels), sizes.features), np.float32)
    ends = np.cumsum(counts)
    for start, end in zip(ends - counts, ends, strict=True):
        random.standard_normal(out=features[start:end], dtype=np.float32)
        features[start:end] += random.standard_normal(sizes.features)
    return Problem(features, labels)


def loop(
    features: np.ndarray, num: int, leads: list[float] | None = None
) -> np.ndarray:
    """The greedy loop over the examples of one class, in their precision.

    Args:
        features: [n, D].
        num: number of examples to rank, at most n.
        leads: if given, the lead of each pick over the next best is appended.

    Returns:
        int[num].
    """
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    direction, ranks = mean, []
    for _ in range(prototypes.MAX_TRIES):
        if len(ranks) == num:
            break
        products = unit @ direction
        best = int(np.argmax(products))
        if leads is not None:
            second, first = np.partition(products, -2)[-2:]
            leads.append(float(first - second))
        if best not in ranks:
            ranks.append(best)
        direction = direction + mean - unit[best]
    return np.array(ranks)


def compare(problem: Problem, ranks: np.ndarray, sizes: Sizes) -> dict:
    """Counts classes whose ranks differ from those of the loop in float64."""
    random = np.random.default_rng(1)
    differing, leads = [], []
    for k in random.permutation(sizes.classes)[: sizes.checked]:
        members = np.flatnonzero(problem.labels == k)
        rows = problem.features[members].astype(np.float64)
        leads_of_class = []
        expected = loop(rows, sizes.exemplars, leads_of_class)
        leads.append(min(leads_of_class))
        if not np.array_equal(members[expected], ranks[k]):
            differing.append(leads[-1])
    return {
        'classes_compared': sizes.checked,
        'classes_that_differ': len(differing),
        'least_lead_of_a_pick_in_those': differing,
        'least_lead_of_a_pick_in_all': min(leads),
        'median_of_least_leads': statistics.median(leads),
    }


def padded(problem: Problem, sizes: Sizes, num: int) -> Any:
    """The first `num` classes, padded, and their mask."""
    members = [np.flatnonzero(problem.labels == k) for k in range(num)]
    return herding_strategy.pad_classes(
        problem.features, members, sizes.examples
    )


def time_beside_loop(problem: Problem, sizes: Sizes) -> dict[str, Any]:
    """Seconds of the call and of the loop on the same classes."""
    arguments = jax.device_put(padded(problem, sizes, sizes.timed))
    rows = [problem.features[problem.labels == k] for k in range(sizes.timed)]

    def run_loop() -> None:
        # Threads gain little at this size, and wait if cores are busy.
        with threadpoolctl.threadpool_limits(1):
            for each in rows:
                loop(each, sizes.exemplars)

    def run_call() -> None:
        call = herding_strategy.rank_by_herding(*arguments, sizes.exemplars)
        jax.block_until_ready(call)

    seconds = timing.time_in_turn(
        {'ours': run_call, 'loop': run_loop}, sizes.repeats
    )
    return {
        'classes': sizes.timed,
        'seconds': seconds,
        'loop_over_ours': {
            kind: seconds['loop'][kind] / seconds['ours'][kind]
            for kind in ('median', 'min')
        },
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a function."""
    start = time.perf_counter()
    found = jax.block_until_ready(function())
    return time.perf_counter() - start, found


def time_all(problem: Problem, sizes: Sizes) -> tuple[dict, np.ndarray]:
    """Seconds for all classes, and the selection of a run int32[K, num]."""

    @jax.jit
    def call(features: jax.Array, mask: jax.Array) -> Any:
        num = sizes.exemplars
        ranks = herding_strategy.rank_by_herding(features, mask, num)
        return ranks, prototypes.class_means(features, mask)

    def select() -> np.ndarray:
        candidates = Candidates(
            problem.labels,
            lambda: problem.features,
            classes=(0, sizes.classes),
            num=sizes.exemplars,
            max_class_size=sizes.examples,
            seed=(0,),
        )
        return herding_strategy.select(candidates)

    compiling, ranks = timed(select)
    selecting, _ = timed(select)
    peak = peak_gigabytes()
    arguments = jax.device_put(padded(problem, sizes, sizes.classes))
    first, _ = timed(lambda: call(*arguments))
    again, (_, means) = timed(lambda: call(*arguments))
    return {
        'call_seconds': again,
        'call_seconds_with_compiling': first,
        'select_seconds': selecting,
        'select_seconds_with_compiling': compiling,
        'select_peak_gigabytes': peak,
        'class_means': compare_means(problem, np.asarray(means)),
    }, ranks


def compare_means(problem: Problem, means: np.ndarray) -> dict[str, float]:
    """Seconds of class means on the host, and the relative error of ours."""
    seconds, expected = timed(
        lambda: prototypes.class_means_on_host(
            problem.features, problem.labels, len(means)
        )
    )
    error = np.abs(means - expected).max() / np.abs(expected).max()
    return {'seconds_on_host': seconds, 'relative_error': float(error)}


def peak_gigabytes() -> float:
    """Peak resident memory of this process in units of 1e9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(sizes: Sizes) -> dict[str, Any]:
    """All figures."""
    problem = make_problem(sizes)
    inputs = {
        'gigabytes_of_features': problem.features.nbytes / 1e9,
        'peak_gigabytes_before': peak_gigabytes(),
    }
    figures, ranks = time_all(problem, sizes)
    return {
        'sizes': {**sizes._asdict(), **inputs},
        **figures,
        'beside_the_loop': time_beside_loop(problem, sizes),
        'ranks': compare(problem, ranks, sizes),
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--quick', action='store_true', help='smaller sizes')
    arguments = parser.parse_args()
    figures = measure(QUICK if arguments.quick else Sizes())
    record.write(arguments.out, 'python benchmarks/herding.py', figures)


if __name__ == '__main__':
    main()
