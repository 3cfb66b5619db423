"""Lazy import of TensorFlow, with accelerators hidden from it.

It comes with the extra `tfds`, together with TensorFlow Datasets.
"""

import contextlib
import functools
import importlib.util
import os
import types
from typing import Any

INSTALL = "install the extra tfds: pip install 'mnemonics-jax[tfds]'"


def is_installed() -> bool:
    """Whether TensorFlow and TensorFlow Datasets can be imported."""
    names = ('tensorflow', 'tensorflow_datasets')
    return all(importlib.util.find_spec(name) for name in names)


def require(setting: str) -> None:
    """Raises ValueError, in one line, if TensorFlow is not installed.

    Args:
        setting: what needs it, such as 'data.feed=tfdata'.
    """
    if not is_installed():
        raise ValueError(
            f'{setting}: needs TensorFlow, which is missing; {INSTALL}'
        )


@functools.cache
def tensorflow() -> types.ModuleType:
    """Imports TensorFlow without logs and without access to GPUs and TPUs.

    TensorFlow would otherwise reserve their memory, which JAX needs.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    # Data loading uses none of oneDNN's kernels, and oneDNN logs when on.
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    import tensorflow as tf

    tf.get_logger().setLevel('ERROR')
    for kind in ('GPU', 'TPU'):
        # Fails if the user's program has used TensorFlow before: then the
        # visible devices are its choice.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


def options(threads: int) -> Any:
    """Dataset options that leave the cores to the model.

    Graph optimisation is off: it slows down each start and has nothing to fuse.

    Args:
        threads: size of the dataset's thread pool.
    """
    options = tensorflow().data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.private_threadpool_size = threads
    return options
