"""docs/troubleshooting.md: its messages are what the program says."""

import errno
import os
import re
import shutil
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from command import call, call_main
from data_arrays_test import write as write_arrays
from data_folder_test import write_folder
from inference_test import NETWORKS, small
from ml_collections import config_dict
from readme_test import TEXTS

from mnemonics_jax import experiment, export, main, predict
from mnemonics_jax.bilevel import arguments
from mnemonics_jax.core import dependencies, lock, parallel, precision
from mnemonics_jax.core.workdir import Workdir
from mnemonics_jax.data import tf_import
from mnemonics_jax.experiment import (
    components,
    data_check,
    finished,
    memory_check,
    phase_loop,
    start_lines,
)
from mnemonics_jax.train import preemption
from mnemonics_jax.train.metric_writer import check_finite

ROWS = [
    row
    for part in re.findall(
        r'^\| what is .+\n\|---.+\n((?:\|.+\n)+)',
        TEXTS['docs/troubleshooting.md'],
        re.MULTILINE,
    )
    for row in re.findall(r'^\| `(.+?)`', part, re.MULTILINE)
]


class Place(NamedTuple):
    """What a message is made with."""

    folder: Any
    saved: Any
    patch: Any
    config: Any
    device: Any

    def start(self, *flags):
        """What `main` says, given flags."""
        workdir = f'--workdir={self.folder / "run"}'
        return call_main(workdir, *flags).stderr

    def announced(self, num_done):
        """What a run of the saved one's settings says at its start."""
        lines = []
        recorder = type('Recorder', (), {'say': staticmethod(lines.append)})
        phase_loop.announce(self.saved.parts, recorder, num_done, None)
        return '\n'.join(lines)

    def late(self, error):
        """What `main` says of an error during a run."""
        return said(main.explain_late(error, 'runs/digits').text)

    def built(self, **changes):
        """The components of the saved run, with other settings."""
        frozen = config_dict.FrozenConfigDict(self.changed(**changes))
        return components.build(frozen, self.device, self.saved.parts.plan)

    def changed(self, **changes):
        """The settings of the saved run, with others."""
        config = config_dict.ConfigDict(self.saved.parts.config.to_dict())
        config.update_from_flattened_dict(changes)
        return config


def said(text):
    """As commands print a line that ends them."""
    return f'error: {text}'


def raised(function, *arguments):
    """What an error says."""
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return str(caught.value)


def no_arguments(place):
    return call(lambda: main.parse(['main'])).stderr


def no_package(place):
    return said(dependencies.explain('flax'))


def no_tensorflow(place):
    place.patch.setattr(tf_import, 'is_installed', lambda: False)
    return place.start('--config=digits', '--config.data.feed=tfdata')


def no_platform(place):
    def fail():
        raise RuntimeError('no such backend')

    place.patch.setattr(jax, 'devices', fail)
    return said(raised(parallel.check_devices))


def uneven_phases(place):
    return place.start('--config=digits', '--config.protocol.phases=7')


def late_milestones(place):
    return place.start('--config=cifar100', '--config.train.epochs=20')


def no_folder(place):
    return place.start('--config=folder', '--config.data.dir=/nowhere')


def one_split(place):
    root = write_folder(place.folder / 'photos')
    shutil.rmtree(root / 'validation' / 'cow')
    return place.start('--config=folder', f'--config.data.dir={root}')


def channels_first(place):
    path = place.folder / 'images.npz'
    images = np.zeros((12, 3, 5, 4), np.uint8)
    write_arrays(path, train_images=images)
    return place.start(
        '--config=digits',
        '--config.data.source=arrays',
        f'--config.data.dir={path}',
    )


def small_classes(place):
    config = place.changed(**{'exemplars.per_class': 10})
    sizes = np.array([3, 12, 12, 9, 12, 12])
    place.patch.setattr(
        components.Components, 'class_sizes', lambda self: sizes
    )
    parts = place.saved.parts._replace(config=config)
    return start_lines.small_classes(parts)


def in_use(place):
    root = place.folder / 'run'
    with lock.hold(root):
        return place.start('--config=digits')


def other_settings(place):
    copied = shutil.copytree(place.saved.workdir, place.folder / 'run')
    config = place.changed(seed=1)
    return said(raised(experiment.prepare, config, copied, place.device))


def too_large(place):
    parts, room = place.saved.parts, 40 * 2**30
    programs = {p.name: p for p in memory_check.programs(parts, 1)}
    learning = programs['learning exemplars']
    # Half of it fits.
    place.patch.setattr(memory_check, 'needed', lambda program: room)
    return said(memory_check.explain(parts, 1, learning, 2 * room, room))


def on_cpu(place):
    place.patch.setattr(jax, 'device_count', lambda: 1)
    return place.announced(0)


def stopped(place):
    def stop(*arguments):
        raise preemption.InterruptError('SIGTERM')

    place.patch.setattr(experiment, 'prepare', lambda *a, **k: None)
    place.patch.setattr(experiment, 'run', stop)
    workdir = f'--workdir={place.folder / "run"}'
    return call_main(workdir, '--config=digits').stdout


def diverged(place):
    try:
        check_finite('phase 1: training', {'loss': float('nan')})
    except RuntimeError as e:
        return place.late(e)


def out_of_memory(place):
    return place.late(RuntimeError('RESOURCE_EXHAUSTED: out of memory'))


def full(place):
    return place.late(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def many_files(place):
    return place.late(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))


def other_images(place):
    data = shutil.copytree(place.saved.data, place.folder / 'images')
    next((data / 'train').rglob('*.png')).unlink()
    parts = place.built(**{'data.dir': str(data)})
    with Workdir(place.saved.workdir, uploads=False) as workdir:
        return said(raised(data_check.check, parts, workdir, 3))


def finished_run(place):
    return place.announced(3)


def lost(place):
    copied = shutil.copytree(place.saved.workdir, place.folder / 'run')
    (copied / 'features' / 'phase_0.npz').write_bytes(b'')
    done = call(lambda: experiment.run(place.saved.parts, copied))
    return done.stdout


def no_phase(place):
    return said(raised(finished.find_phase, [], -1, 'runs/digits'))


def other_phase(place):
    return said(raised(finished.find_phase, [1, 2], 0, 'runs/digits'))


def other_file(place):
    file = next((place.saved.data / 'train').rglob('*.png'))
    shutil.copy(file, place.folder)
    (place.folder / 'a.heic').touch()
    workdir = str(place.saved.workdir)
    return call(lambda: predict.main([workdir, str(place.folder)])).stderr


def no_safetensors(place):
    place.patch.setitem(sys.modules, 'safetensors', None)
    return said(raised(export.check_packages))


def no_program(place):
    (place.folder / 'networks.py').write_text(NETWORKS)
    workdir = small(
        place.config,
        place.folder,
        place.device,
        plugins=str(place.folder / 'networks.py'),
        **{'backbone.name': 'leaves'},
    )
    out = f'--out={place.folder / "out"}'
    return call(lambda: export.main([str(workdir), out])).stderr


def bytes_of_pixels(place):
    images = np.array([[0.0, 255.0]], np.float32)
    return raised(arguments.check_image_range, 'images', images)


def integer_pixels(place):
    images = np.zeros((1, 2), np.uint8)
    return raised(arguments.check_images, 'images', images)


def no_float64(place):
    return raised(precision.check, 'float64')


# In the order of the page.
WAYS = (
    no_arguments,
    no_package,
    no_tensorflow,
    no_platform,
    uneven_phases,
    late_milestones,
    no_folder,
    one_split,
    channels_first,
    small_classes,
    in_use,
    other_settings,
    too_large,
    on_cpu,
    stopped,
    diverged,
    out_of_memory,
    full,
    many_files,
    other_images,
    finished_run,
    lost,
    no_phase,
    other_phase,
    other_file,
    no_safetensors,
    no_program,
    bytes_of_pixels,
    integer_pixels,
    no_float64,
)


def test_each_row_is_tried():
    assert len(ROWS) == len(WAYS)


@pytest.mark.parametrize(
    ('row', 'way'),
    list(zip(ROWS, WAYS, strict=False)),
    ids=[way.__name__ for way in WAYS[: len(ROWS)]],
)
def test_the_program_says_what_the_page_shows(
    row, way, tmp_path, saved_run, monkeypatch, tiny_config, one_device
):
    place = Place(tmp_path, saved_run, monkeypatch, tiny_config, one_device)
    lines = way(place).splitlines()
    pattern = '.*'.join(map(re.escape, row.split('...')))
    assert any(re.fullmatch(pattern, line) for line in lines), lines
