"""Throughput of the data feeds compared with the training step.

    python benchmarks/pipeline.py --out=benchmarks/results/pipeline_cpu.json

Makes its own data under --data: a folder of 100 x 500 JPEGs of 64x64 pixels,
one of 100 x 50 JPEGs of 500x375, and an .npz of CIFAR's size. Times batches of
128 from every feed to the device, in turn with a training step of ResNet-32 on
32x32 pixels, in one process. Writes median images per second and their ratio to
the step's.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import record
from PIL import Image

from mnemonics_jax import config, experiment, train
from mnemonics_jax.core import multistep, parallel
from mnemonics_jax.data import decode, sources
from mnemonics_jax.data.device_batch import place_rows
from mnemonics_jax.data.loader import Loader
from mnemonics_jax.experiment import components
from mnemonics_jax.types import Phase

BATCH = 128
CLASSES, PER_CLASS = 100, 500
LARGE = 512  # Images of 500 x 375 pixels.
REPEATS = 5


def write_folder(
    root: pathlib.Path, per_class: int, size: tuple[int, int]
) -> None:
    """Writes a folder of JPEGs of smooth noise if it is missing."""
    if (root / 'validation').exists():
        return
    random = np.random.default_rng(0)
    for split, num in (('train', per_class), ('validation', 2)):
        for k in range(CLASSES):
            folder = root / split / f'class_{k:03d}'
            folder.mkdir(parents=True)
            for i in range(num):
                grid = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
                image = Image.fromarray(grid).resize(size, Image.BICUBIC)
                image.save(folder / f'{i:04d}.jpg', quality=90)


def write_npz(path: pathlib.Path) -> None:
    """Writes an .npz file of CIFAR's size."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, num in (('train', CLASSES * PER_CLASS), ('test', 1000)):
        shape = (num, 32, 32, 3)
        arrays[f'{split}_images'] = random.integers(0, 256, shape, np.uint8)
        arrays[f'{split}_labels'] = np.arange(num) % CLASSES
    np.savez(path, **arrays)


def settings(**fields: Any) -> Any:
    """A configuration of CIFAR's protocol on other data."""
    chosen = config.default_config()
    chosen.update_from_flattened_dict(
        {
            'backbone.name': 'resnet32',
            'data.feed': 'tfdata',
            'data.flip': True,
            'protocol.base_classes': 50,
            'protocol.phases': 5,
            **{name.replace('__', '.'): v for name, v in fields.items()},
        }
    )
    return config.resolve(chosen)


def loader_of(**fields: Any) -> Loader:
    """The loader of a configuration with these fields."""
    return components.build(settings(**fields)).loader


def consume(loader: Loader, limit: int, *, augmented: bool) -> Callable:
    """A function that feeds `limit` batches and returns images per second."""
    examples = loader.examples('train', 0, 50)
    feed = examples.feed(BATCH, augmented=augmented)
    placement = parallel.make_placement()
    order = np.random.default_rng(0).permutation(len(examples.labels))
    order = order[: limit * BATCH]

    def run() -> float:
        start = time.perf_counter()
        for _, batch in parallel.shard_batches(placement, feed.epoch(order)):
            jax.block_until_ready(batch)
        return len(order) / (time.perf_counter() - start)

    return run


def model_step(parts: components.Components) -> Callable:
    """A function that takes a training step and returns images per second."""
    carry = experiment.first_carry(parts)
    feed = parts.loader.examples('train', 0, 50).feed(BATCH)
    inputs = step_inputs(parts, carry)
    trainer = parts.trainers.base
    batch = next(feed.epoch(np.arange(BATCH)))
    stacked = multistep.single(
        parts.placement, {**batch, 'slot': np.full(BATCH, -1, np.int32)}
    )
    state = trainer.init(carry.variables)
    state, _ = trainer.steps(state, (stacked, inputs), 1)
    held = [jax.block_until_ready(state)]

    def run() -> float:
        start = time.perf_counter()
        held[0], _ = trainer.steps(held[0], (stacked, inputs), 1)
        jax.block_until_ready(held[0])
        return BATCH / (time.perf_counter() - start)

    return run


def step_inputs(parts: components.Components, carry: Any) -> Any:
    """Inputs of a step of phase 0 besides its state and batch."""
    return train.StepInputs(
        reference=carry.variables,
        exemplars=place_rows(parts.placement, carry.exemplars.images),
        phase=Phase(*np.int32([0, 0, 50])),
        head_rows=np.int32([0, 50]),
        lr=np.float32(0.1),
        key=jax.random.key(0),
    )


def time_stages(folder: pathlib.Path, size: int) -> dict[str, float]:
    """Images per second of each part of reading a file, on one thread."""
    paths = sorted(folder.glob('train/*/*.jpg'))[:LARGE]
    blobs = [path.read_bytes() for path in paths]
    random = np.random.default_rng(0)
    draws = random.random((len(paths), decode.NUM_DRAWS))
    decoded = np.stack([decode.decode(blob, 3, size) for blob in blobs])
    rows = random.permutation(len(paths))

    def rate(function: Callable[[], Any]) -> float:
        function()
        start = time.perf_counter()
        function()
        return len(paths) / (time.perf_counter() - start)

    return {
        'read': rate(lambda: [path.read_bytes() for path in paths]),
        'decode': rate(lambda: [decode.decode(b, 3, size) for b in blobs]),
        'decode_crop': rate(
            lambda: [
                decode.decode_crop(b, 3, size, d, flip=True, brightness=0)
                for b, d in zip(blobs, draws, strict=True)
            ]
        ),
        'gather': rate(lambda: decoded[rows]),
        'copy': rate(lambda: jax.block_until_ready(jax.device_put(decoded))),
    }


def time_index(folder: pathlib.Path) -> dict[str, Any]:
    """Seconds to list a folder, with cold and warm file caches."""
    cold = drop_caches()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        source = sources.make_source(
            'folder', {'dir': str(folder), 'image_size': 32}
        )
        seconds.append(time.perf_counter() - start)
    return {
        'files': sum(map(len, source.labels.values())),
        'caches_were_emptied': cold,
        'first_seconds': seconds[0],
        'again_seconds': statistics.median(seconds[1:]),
    }


def drop_caches() -> bool:
    """Empties the system's file caches; False if not permitted."""
    try:
        os.sync()
        pathlib.Path('/proc/sys/vm/drop_caches').write_text('3\n')
    except OSError:
        return False
    return True


def make_data(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes the data that is missing."""
    paths = {
        'small': root / 'small',
        'large': root / 'large',
        'npz': root / 'images.npz',
    }
    write_folder(paths['small'], PER_CLASS, (64, 64))
    write_folder(paths['large'], 50, (500, 375))
    if not paths['npz'].exists():
        write_npz(paths['npz'])
    return paths


def feeds(paths: dict[str, pathlib.Path]) -> dict[str, Callable[[], float]]:
    """Functions to time, by name."""
    npz = {'data__source': 'arrays', 'data__dir': str(paths['npz'])}
    small = {
        'data__source': 'folder',
        'data__dir': str(paths['small']),
        'data__image_size': 32,
    }
    large = {
        'data__source': 'folder',
        'data__dir': str(paths['large']),
        'data__image_size': 224,
        'data__eval_resize': 256,
        'data__memory_mb': 0,
        'exemplars__per_class': 2,
    }
    cropped = {**large, 'data__random_resized_crop': True}

    def of(fields: dict[str, Any], limit: int, augmented: bool) -> Callable:
        return consume(loader_of(**fields), limit, augmented=augmented)

    return {
        'arrays, tfdata': of(npz, 100, True),
        'arrays, device': of({**npz, 'data__feed': 'device'}, 100, True),
        'folder 32x32, kept in memory': of(small, 100, True),
        'folder 32x32, streamed': of({**small, 'data__memory_mb': 0}, 30, True),
        'folder 224x224, streamed': of(large, 4, False),
        'folder 224x224, random crops': of(cropped, 4, True),
    }


def measure(paths: dict[str, pathlib.Path]) -> dict[str, Any]:
    """All figures."""
    step = model_step(
        components.build(
            settings(data__source='arrays', data__dir=str(paths['npz']))
        )
    )
    timed = {'ResNet-32 training step': step, **feeds(paths)}
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(REPEATS + 1):
        for name, function in timed.items():
            rate = function()
            if repeat:  # The first round warms up.
                rates[name].append(rate)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        'images_per_second': medians,
        'times_the_training_step': {
            name: rate / medians['ResNet-32 training step']
            for name, rate in medians.items()
        },
        'one_thread_images_per_second': {
            '64x64 JPEG to 32x32': time_stages(paths['small'], 32),
            '500x375 JPEG to 224x224': time_stages(paths['large'], 224),
        },
        'index_of_a_folder': time_index(paths['small']),
    }


def main() -> None:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--data', type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(make_data(arguments.data or pathlib.Path(scratch)))
    sizes = {'batch_size': BATCH, 'repeats': REPEATS}
    command = 'python benchmarks/pipeline.py'
    record.write(arguments.out, command, {**sizes, **figures})


if __name__ == '__main__':
    main()
