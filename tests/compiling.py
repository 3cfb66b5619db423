"""How programs of the tests are compiled: fast, since compiling dominates.

No import of JAX here, which reads its flags once.
"""

import importlib.metadata
import os

# Leaves out what makes programs fast to run.
UNOPTIMIZED = QUICKLY = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jaxlib').startswith('0.10.'):
    # Halves the time that a small run takes to compile; 0.11 has no such flag.
    # Kernels round otherwise then, each in its own way.
    QUICKLY += ' --xla_cpu_use_fusion_emitters=false'


def one_device(**more: str) -> dict[str, str]:
    """The environment of a process with one device, for all that it compiles.

    Args:
        **more: variables beside, or in place of, those that are set.
    """
    return {**os.environ, 'XLA_FLAGS': QUICKLY, **more}
