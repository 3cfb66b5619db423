"""TensorFlow, imported late and kept away from accelerators."""

import contextlib
import functools
import os
import types
from typing import Any


@functools.cache
def tensorflow() -> types.ModuleType:
    """Imports TensorFlow, quiet and unable to see GPUs or TPUs.

    JAX owns the accelerators; TensorFlow would reserve their memory.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    # Numerics of kernels that reading data does not use; logs when on.
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    import tensorflow as tf

    tf.get_logger().setLevel('ERROR')
    for kind in ('GPU', 'TPU'):
        # Refused if the user's program has used TensorFlow before: then the
        # devices are its choice.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)
    return tf


def options(threads: int) -> Any:
    """Options of a dataset that leaves the cores to the model.

    The optimiser of graphs would cost more time at each start than it could
    win, having nothing to fuse.

    Args:
        threads: of its own.
    """
    chosen = tensorflow().data.Options()
    chosen.autotune.enabled = False
    chosen.experimental_optimization.apply_default_optimizations = False
    chosen.threading.private_threadpool_size = threads
    return chosen
