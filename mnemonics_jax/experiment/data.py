"""Data and augmentation of a run, from its configuration."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from mnemonics_jax.core import parallel
from mnemonics_jax.data import (
    class_order,
    phase_plan,
    sources,
    streaming,
    tf_import,
)
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.loader import Loader, Settings
from mnemonics_jax.data.phase_plan import Plan

# Limits of a dispatch on accelerators: more steps save little, and a request to
# stop waits for the end of the dispatch.
_MOST_STEPS = 32
_MOST_BYTES = 64 * 2**20
# The part of an accelerator's memory that `data.feed=auto` gives to images.
_IMAGE_PART = 4


class PerDispatch(NamedTuple):
    """Steps per dispatch, see `multistep`.

    Attributes:
        train: steps of training and fine-tuning.
        exemplars: steps of learning and adjusting exemplars.
    """

    train: int
    exemplars: int


def check_batches(
    config: ml_collections.FrozenConfigDict, placement: parallel.Placement
) -> None:
    """Raises ValueError if a batch does not split over the devices."""
    sizes = {
        'train.batch_size': config.train.batch_size,
        'finetune.batch_size': config.finetune.batch_size,
        'evaluate.batch_size': config.evaluate.batch_size,
        'exemplars.query_batch': config.exemplars.query_batch,
        'exemplars.microbatch': config.exemplars.microbatch,
    }
    for field, size in sizes.items():
        if size is not None and size % placement.num_devices:
            raise ValueError(
                f'{field}={size}: must be a multiple of '
                f'{placement.num_devices}, the number of devices'
            )


def build_source(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source | None = None,
) -> sources.Source:
    """The images of a run, of all classes or of a random subset.

    Args:
        config: resolved configuration.
        source: images in place of those that `data.source` names.
    """
    if source is None:
        source = sources.make_source(config.data.source, config.data)
    number = config.data.subset_classes
    if number is None:
        return source
    chosen = class_order.choose_classes(
        source.num_classes, number, config.data.subset_seed
    )
    return sources.take_classes(source, chosen)


def fill_protocol(
    config: ml_collections.FrozenConfigDict, base_classes: int, phases: int
) -> ml_collections.FrozenConfigDict:
    """Fills in `protocol.base_classes` and `protocol.phases` if None."""
    filled = ml_collections.ConfigDict(config.to_dict())
    protocol = filled.protocol
    if protocol.base_classes is None:
        protocol.base_classes = base_classes
    if protocol.phases is None:
        protocol.phases = phases
    return ml_collections.FrozenConfigDict(filled)


def plan_phases(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source,
    begun: Plan | None,
) -> tuple[ml_collections.FrozenConfigDict, Plan]:
    """Plans the classes and phases of a run, extending `begun` if given.

    Returns:
        The configuration with its protocol filled in, and the plan.
    """
    protocol = config.protocol
    numbers = class_order.default_protocol(
        source.num_classes, protocol.base_classes, protocol.phases
    )
    config = fill_protocol(config, *numbers)
    if begun is None:
        return config, phase_plan.begin(source, config.protocol)
    return config, phase_plan.extend(begun, source, config.protocol)


def crops_on_host(
    config: ml_collections.FrozenConfigDict, source: sources.Source
) -> bool:
    """Whether random crops of real images are made during decoding."""
    return config.data.random_resized_crop and source.encoded is not None


def check_feed(config: ml_collections.FrozenConfigDict) -> None:
    """Raises ValueError if `data.feed` needs TensorFlow, which is missing."""
    if config.data.feed == 'tfdata':
        tf_import.require('data.feed=tfdata')


def choose_feed(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source,
    placement: parallel.Placement,
    num_images: int,
) -> ml_collections.FrozenConfigDict:
    """Replaces `data.feed=auto` by device if the images fit, else by tfdata.

    They fit if they take at most `data.memory_mb`, with a copy for each device
    on CPU, and at most a quarter of the memory of each accelerator.

    Args:
        config: resolved configuration.
        source: source of the images.
        placement: placement of arrays on devices.
        num_images: images of the largest phase, see `most_images`.

    Raises:
        ValueError: tf.data is needed and TensorFlow is not installed.
    """
    if config.data.feed != 'auto':
        return config
    reason = why_not_device(config, source, placement, num_images)
    if reason:
        tf_import.require(f'data.feed=auto: {reason}')
    return with_feed(config, 'tfdata' if reason else 'device')


def with_feed(
    config: ml_collections.FrozenConfigDict, feed: str
) -> ml_collections.FrozenConfigDict:
    """The configuration with another `data.feed`."""
    filled = ml_collections.ConfigDict(config.to_dict())
    filled.data.feed = feed
    return ml_collections.FrozenConfigDict(filled)


def why_not_device(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source,
    placement: parallel.Placement,
    num_images: int,
) -> str | None:
    """Why images cannot lie on the device, or None; see `choose_feed`."""
    if crops_on_host(config, source):
        return 'data.random_resized_crop=True crops the original images'
    size = num_images * int(np.prod(source.image_shape))
    if placement.platform == 'cpu':  # Its devices share one memory.
        size *= placement.num_devices // placement.shard[1]
    taken = f'the images of a phase take {-(-size // 2**20):,} MB'
    if size > config.data.memory_mb * 2**20:
        return f'{taken}, more than data.memory_mb={config.data.memory_mb}'
    room = parallel.room_on_device()
    if room is not None and size > room // _IMAGE_PART:
        return f'{taken}, more than a quarter of the memory of a device'
    return None


def most_images(
    source: sources.Source,
    order: np.ndarray,
    bounds: Sequence[tuple[int, int]],
    *,
    all_seen: bool,
) -> int:
    """Images of the largest phase: those it trains on, and all test images.

    Args:
        source: source of the images.
        order: int64[K], original label of the class at each position.
        bounds: (num_old, num_seen) of each phase.
        all_seen: whether phases read the training images of all classes seen.
    """
    labels = source.labels['train']
    sizes = np.bincount(labels, minlength=source.num_classes)[order]
    ends = np.append(0, np.cumsum(sizes))
    largest = max(
        ends[high] - ends[0 if all_seen else low] for low, high in bounds
    )
    return int(largest) + len(source.labels['test'])


def augmentation(section: ml_collections.FrozenConfigDict) -> Augmentation:
    """Augmentation set in the config section `data`."""
    return Augmentation(
        pad=section.pad,
        flip=section.flip,
        resized_crop=section.random_resized_crop,
        brightness=section.brightness,
    )


def query_augmentation(
    config: ml_collections.FrozenConfigDict, source: sources.Source
) -> Augmentation:
    """Augmentation of query images on the device."""
    if crops_on_host(config, source):
        return Augmentation()
    return augmentation(config.data)


def make_loader(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source,
    order: np.ndarray,
    bounds: Sequence[tuple[int, int]],
    placement: parallel.Placement,
) -> Loader:
    """Makes the loader of the examples of classes.

    Raises:
        ValueError: the memory for prefetching is too small, or random crops of
            encoded images are combined with `data.feed=device`.
    """
    data, crops = config.data, crops_on_host(config, source)
    if crops and data.feed == 'device':
        raise ValueError(
            'data.feed=device: must be tfdata with '
            'data.random_resized_crop=True, since the device has no originals '
            'to crop'
        )
    view = streaming.EvalView(
        source.image_shape, data.eval_resize, data.flip, data.brightness
    )
    largest = max(
        config.train.batch_size,
        config.evaluate.batch_size,
        config.exemplars.query_batch,
    )
    budget = None
    if source.encoded and data.feed == 'tfdata':
        budget = streaming.plan(
            data.read_ahead_mb * 2**20,
            largest // placement.shard[1],
            source.image_shape,
            parallel.AHEAD,
        )
    settings = Settings(
        feed=data.feed,
        memory=data.memory_mb * 2**20,
        view=view,
        budget=budget,
        crops=crops,
        shard=placement.shard,
        put=functools.partial(parallel.replicate, placement),
    )
    return Loader(source, order, bounds, settings)


def per_dispatch(
    config: ml_collections.FrozenConfigDict,
    source: sources.Source,
    placement: parallel.Placement,
) -> PerDispatch:
    """Steps per dispatch from the configuration, platform and batch size.

    One by default on CPU, where a step takes longer than its launch. An
    exemplar step costs as much as several model steps.
    """
    given = config.steps_per_dispatch
    if given is not None:
        return PerDispatch(given, given)
    if placement.platform == 'cpu':
        return PerDispatch(1, 1)
    largest = max(config.train.batch_size, config.finetune.batch_size)
    batch = largest * int(np.prod(source.image_shape))
    steps = max(1, min(_MOST_STEPS, _MOST_BYTES // batch))
    return PerDispatch(steps, max(1, steps // 4))
