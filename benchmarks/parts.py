"""The parts of `benchmarks.run`: each compares one kind of work with its peer.

A part is `(Scale) -> {'rows': [...], ...}`. A row is one line of the table:
'work', 'ours' and 'peer' (median seconds; None without PyTorch), 'ratio' (ours
over theirs), 'ratio_of_least' (ratio of the minimum seconds) and 'errors'
(relative errors of the results before timing).
"""

import importlib.util
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import feature_pairs
import herding
import jax
import model_step
import numpy as np
import problems
import start
import step_pairs
import timing
from problems import DEEP_BOUND, Sizes

from mnemonics_jax.exemplars.strategies.herding import rank_by_herding

INNER_STEPS = (1, 5, 10)
# What inner steps train: with the presets `paper` and `bilevel` all parameters,
# with `tuned` the head.
SCOPES = ('all', 'head')
# Inner steps whose temporary bytes are compared.
FEW_STEPS, MANY_STEPS = 4, 16
# The paper's protocol on synthetic images of CIFAR's size.
PROTOCOL = (
    '--config=configs/cifar100.py:phases=5,exemplars=mnemonics,adjust=true',
    '--config.data.source=synthetic',
    '--config.data.num_classes=100',
    '--config.data.train_per_class=500',
    '--config.data.test_per_class=100',
    '--config.data.image_size=32',
    '--config.data.feed=device',
    '--config.precision=bf16',
)


class Scale(NamedTuple):
    """Sizes of all parts.

    Attributes:
        network: network of steps and evaluation.
        model_batches: batch sizes of model steps.
        precisions: precisions of model steps.
        num_steps: model steps per run.
        compiled: whether to also time `torch.compile`.
        exemplars: exemplars of an exemplar step, all in each inner step.
        query: query images of an exemplar step.
        held: exemplars and query images when comparing temporary bytes.
        to_herd: sizes of herding.
        herded: number of classes that the peer also ranks.
        eval_batches: batches of evaluation.
        per_class: exemplars per class in evaluation.
        fed: images of an epoch of the feeds.
        repeats: timed rounds.
        device: PyTorch device of the peers.
        protocol: whether to run CIFAR's whole protocol.
    """

    network: Sizes = Sizes()
    model_batches: tuple[int, ...] = (128,)
    precisions: tuple[str, ...] = ('float32',)
    num_steps: int = 4
    compiled: bool = True
    exemplars: int = 64
    query: int = 128
    held: tuple[int, int] = (64, 128)
    to_herd: herding.Sizes = herding.Sizes()
    herded: int = 20
    eval_batches: int = 8
    per_class: int = 20
    fed: int = 12_800
    repeats: int = 7
    device: str = 'cpu'
    protocol: bool = False


QUICK = Scale(
    num_steps=2,
    compiled=False,
    exemplars=8,
    query=16,
    herded=10,
    eval_batches=2,
    per_class=3,
    repeats=5,
)
ACCELERATOR: dict[str, Any] = {
    'model_batches': (128, 256, 512, 1024),
    'precisions': ('float32', 'bf16'),
    'num_steps': 32,
    'exemplars': 64,
    'query': 128,
}


class SkippedError(Exception):
    """A requirement of a part is missing, named in the message."""


def make_scale(*, quick: bool) -> Scale:
    """Sizes for JAX's device."""
    scale = QUICK if quick else Scale()
    if jax.default_backend() == 'cpu':
        return scale
    return scale._replace(**ACCELERATOR, device='cuda', protocol=not quick)


def need(*modules: str) -> None:
    """Raises SkippedError if a module cannot be imported."""
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        raise SkippedError(f'{" and ".join(missing)} missing')


def model_steps(scale: Scale) -> dict[str, Any]:
    """Training steps."""
    rows, figures = [], []
    for precision in scale.precisions:
        for batch in scale.model_batches:
            sizes = scale.network._replace(batch=batch, precision=precision)
            found = model_step.measure(
                sizes,
                repeats=scale.repeats,
                num_steps=scale.num_steps,
                compiled=scale.compiled and batch == scale.model_batches[0],
                device=scale.device,
            )
            work = f'model step, {sizes.backbone}, batch {batch}, {precision}'
            errors = found['relative_errors'].get(timing.PEER, {})
            rows.append(timing.row_of(work, found['seconds_a_step'], errors))
            rate = batch / found['seconds_a_step']['ours']['median']
            figures.append({**found, 'images_per_second': rate})
    if jax.default_backend() == 'cpu' and (os.cpu_count() or 1) > 1:
        found = model_step.measure_on_cores(
            repeats=scale.repeats, num_steps=scale.num_steps
        )
        errors = found['relative_errors'].get(timing.PEER, {})
        work = f'{rows[0]["work"]}, each core a device'
        rows.append(timing.row_of(work, found['seconds_a_step'], errors))
        figures.append(found)
    return {'rows': rows, 'figures': figures}


def exemplar_steps(scale: Scale) -> dict[str, Any]:
    """Pixel gradients through K inner steps, on all parameters or the head."""
    problem = problems.make_problem(scale.network, device=scale.device)
    rows = []
    for scope, num in itertools.product(SCOPES, INNER_STEPS):
        pair = step_pairs.exemplar_step(
            problem,
            scope=scope,
            inner_steps=num,
            num=scale.exemplars,
            batch=scale.exemplars,
            query=scale.query,
            bound=DEEP_BOUND,
        )
        work = (
            f'exemplar step, scope {scope}, K = {num}, '
            f'{scale.network.backbone}, {scale.exemplars} exemplars, '
            f'{scale.query} queries'
        )
        rows.append(
            {
                **timing.time_pair(work, pair, scale.repeats),
                'inner': num,
                'scope': scope,
            }
        )
    return {'rows': rows}


def temporaries(scale: Scale) -> dict[str, Any]:
    """Peak temporary bytes of our exemplar step with few and many steps."""
    problem = problems.make_problem(scale.network)
    count, query = scale.held
    found = {
        num: step_pairs.temporary_bytes(
            problem, inner_steps=num, num=count, query=query
        )
        for num in (FEW_STEPS, MANY_STEPS)
    }
    return {
        'rows': [],
        'exemplars_and_queries': scale.held,
        'bytes': {str(num): size for num, size in found.items()},
        'growth': found[MANY_STEPS] / found[FEW_STEPS] - 1,
    }


def ranks(scale: Scale) -> dict[str, Any]:
    """Herding: of some classes beside the peer, and of all in one call."""
    sizes = scale.to_herd
    problem = herding.make_problem(sizes)
    features, mask = herding.padded(problem, sizes, sizes.classes)
    whole = np.flatnonzero(mask.all(axis=1))[: scale.herded]
    pair = feature_pairs.herding(
        features[whole], sizes.exemplars, device=scale.device
    )
    work = (
        f'herding, {len(whole)} classes x {sizes.examples} x {sizes.features}'
    )
    row = timing.time_pair(work, pair, scale.repeats)
    del problem
    arguments = jax.device_put((features, mask))

    def call() -> jax.Array:
        return rank_by_herding(*arguments, sizes.exemplars)

    first, _ = herding.timed(call)
    again, _ = herding.timed(call)
    shape = [sizes.classes, sizes.examples, sizes.features]
    alone = {'ours': {'median': again, 'min': again}}
    work = f'herding, {shape[0]:,} classes x {shape[1]:,} x {shape[2]}'
    return {
        'rows': [row, timing.row_of(work, alone, {})],
        'shape': shape,
        'seconds': again,
        'seconds_with_compiling': first,
    }


def evaluation(scale: Scale) -> dict[str, Any]:
    """Predictions of the head and of nearest means."""
    problem = problems.make_problem(scale.network, device=scale.device)
    pair = feature_pairs.evaluation(
        problem, num_batches=scale.eval_batches, per_class=scale.per_class
    )
    count = scale.eval_batches * scale.network.batch
    kept = scale.network.num_classes * scale.per_class
    work = f'evaluation, {count:,} images, {kept:,} exemplars'
    return {'rows': [timing.time_pair(work, pair, scale.repeats)]}


def feeds(scale: Scale) -> dict[str, Any]:
    """An epoch of CIFAR's images from memory, in batches, to the device."""
    need('ml_collections', 'tensorflow')
    import feed_pairs

    errors, works = feed_pairs.make(scale.fed, scale.device)
    seconds = timing.time_in_turn(works, scale.repeats)
    rows = []
    for name in feed_pairs.FEEDS:
        work = f'feed, {scale.fed:,} images, data.feed={name}'
        both = {'ours': seconds[name], **seconds}
        rows.append(timing.row_of(work, both, errors.get(name, {})))
    return {'rows': rows}


def whole_run(scale: Scale) -> dict[str, Any]:
    """The command on configs/digits.py, with a cold and a warm cache."""
    need('ml_collections', 'sklearn')
    rows, counts = [], {}
    seconds: dict[str, dict[str, float]] = {'first': {}, 'whole': {}}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        first = start.first_steps(root / 'first', scale.repeats)
        found = {
            kind: start.start(root / 'whole' / kind, whole=True)
            for kind in start.KINDS
        }
    for kind in start.KINDS:
        one = start.summary(first[kind])['median_seconds']
        seconds['first'][kind] = one
        seconds['whole'][kind] = found[kind]['seconds']
        for name, each in (
            ('first step', one),
            ('run', found[kind]['seconds']),
        ):
            alone = {'median': each, 'min': each}
            work = f'{name} of configs/digits.py, {kind} cache'
            rows.append(timing.row_of(work, {'ours': alone}, {}))
        counts[kind] = {
            k: found[kind][k] for k in ('compilations', 'loaded', 'peak_bytes')
        }
    return {'rows': rows, 'compilations': counts, **seconds}


def protocol(scale: Scale) -> dict[str, Any]:
    """CIFAR's whole protocol, on synthetic images."""
    if not scale.protocol:
        raise SkippedError('on accelerators only, and without --quick')
    need('ml_collections')
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder, 'run')
        found = start.start(place, *PROTOCOL, whole=True)
    alone = dict.fromkeys(('median', 'min'), found['seconds'])
    return {
        'rows': [
            timing.row_of("CIFAR's protocol, 50 + 5 x 10", {'ours': alone}, {})
        ],
        'seconds': found['seconds'],
        'compilations': found['compilations'],
    }


PARTS: dict[str, Callable[[Scale], dict[str, Any]]] = {
    'model step': model_steps,
    'exemplar step': exemplar_steps,
    'temporaries': temporaries,
    'herding': ranks,
    'evaluation': evaluation,
    'feed': feeds,
    'run': whole_run,
    'protocol': protocol,
}
