"""Feeds of images from memory, ours and in PyTorch."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pipeline
import timing
from problems import HAS_TORCH
from timing import PEER

from mnemonics_jax.core import parallel
from mnemonics_jax.data.device_batch import batch_images

FEEDS = ('tfdata', 'device')


def make(
    count: int, device: str
) -> tuple[dict[str, Any], dict[str, Callable[[], None]]]:
    """Checks all feeds and returns the functions to time.

    Args:
        count: images of an epoch, at most those of 50 classes.
        device: PyTorch device of the peer.

    Returns:
        Relative errors of our feeds, and a function for each feed, by name.

    Raises:
        ValueError: images or labels of a feed differ from the peer's.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'images.npz')
        pipeline.write_npz(path)
        loaders = {
            name: pipeline.loader_of(
                data__source='arrays', data__dir=str(path), data__feed=name
            )
            for name in FEEDS
        }
    examples = {
        name: loader.examples('train', 0, 50)
        for name, loader in loaders.items()
    }
    total = len(examples['tfdata'].labels)
    order = np.random.default_rng(0).permutation(total)[:count]
    ours = {name: _epoch(each, order) for name, each in examples.items()}
    works = {name: work.run for name, work in ours.items()}
    if not HAS_TORCH:
        return {}, works
    import torch_feed

    everything = _epoch(examples['tfdata'], np.arange(total), keep=True)
    everything.run()
    known = everything.result()
    peer = torch_feed.feed(
        known['images'],
        known['labels'],
        order,
        batch_size=pipeline.BATCH,
        device=device,
    )
    bounds = {'images': 1e-9, 'labels': 1e-9}
    errors = {
        name: timing.check(f'feed {name}', timing.Pair(work, peer, bounds))
        for name, work in ours.items()
    }
    return errors, {**works, PEER: peer.run}


def _epoch(
    examples: Any, order: np.ndarray, *, keep: bool = False
) -> timing.Work:
    """One epoch of ours to the device; the result is that of `torch_feed.feed`.

    With `keep`, it has the images of all batches.
    """
    feed = examples.feed(pipeline.BATCH, augmented=False)
    placement = parallel.make_placement()
    gather = jax.jit(batch_images)
    found: dict[str, list] = {}

    def run() -> None:
        found.update(images=[], labels=[])
        for host, batch in parallel.shard_batches(placement, feed.epoch(order)):
            images = jax.block_until_ready(gather(batch))
            if keep or not found['images']:
                found['images'].append(images)
            found['images'][-1] = images
            found['labels'].append(host['label'])

    def result() -> dict[str, Any]:
        joined = {k: np.concatenate(v) for k, v in found.items()}
        return {k: v[: len(order)] for k, v in joined.items()}

    return timing.Work(run, result)
