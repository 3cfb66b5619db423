"""Flags of XLA: those of the user are checked, those of networks on CPU set."""

import functools
import os
import re
import signal
import threading
import warnings
from typing import NoReturn

import jax
from jax.extend import backend

VARIABLE = 'XLA_FLAGS'
# What XLA's CPU backend leaves to YNNPACK. By default convolutions are among
# it, whose gradients by the kernel are then two to three times as slow as
# Eigen's (benchmarks/convolution_forms.py).
_LIBRARY = {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    ',LIBRARY_FUSION_TYPE_REDUCE'
}
_DEVICES = '--xla_force_host_platform_device_count'
# Far more than reading them takes.
_SECONDS = 20.0
_REASONS = (
    r'Unknown flags? in XLA_FLAGS: .*',
    r"Couldn't interpret value .* for flag \w+",
    r'(?m)^[EF]\d+ .*\] (.*)$',
)


def check() -> None:
    """Raises ValueError, in one line, if XLA refuses the flags.

    XLA reads them once, at its first use. If it does not know a flag or its
    value, it ends the process with pages of text. So a fork tries it.
    """
    given = os.environ.get(VARIABLE, '')
    if given and (why := _refusal(given)):
        raise ValueError(
            f'{VARIABLE}={given}: must be flags that XLA knows ({why})'
        )
    if re.search(rf'{_DEVICES}=(0|-\d+)(?!\S)', given):
        raise ValueError(
            f'{VARIABLE}={given}: {_DEVICES} must be an integer >= 1'
        )


@functools.lru_cache
def of_networks(platform: str) -> dict[str, str]:
    """Compiler options of programs that compute a network.

    Args:
        platform: cpu, gpu or tpu.

    Returns:
        The options for `jax.jit`; empty on accelerators, if `XLA_FLAGS` sets
        them, or if this version of XLA does not know them.
    """
    given = os.environ.get(VARIABLE, '')
    if platform != 'cpu' or any(name in given for name in _LIBRARY):
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_LIBRARY).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _LIBRARY


@functools.lru_cache
def _refusal(given: str) -> str | None:
    """Why XLA refuses the flags of the environment; None if it does not."""
    del given  # It is in the environment.
    if not hasattr(os, 'fork'):
        return None
    read, write = os.pipe()
    with warnings.catch_warnings():
        # JAX warns of forks, which do not get its threads. This needs none.
        warnings.simplefilter('ignore')
        pid = os.fork()
    if not pid:
        _read_flags(write)
    os.close(write)
    timer = threading.Timer(_SECONDS, os.kill, [pid, signal.SIGKILL])
    timer.start()
    with os.fdopen(read, errors='replace') as lines:
        text = lines.read()
    _, status = os.waitpid(pid, 0)
    timer.cancel()
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return f'not read within {_SECONDS:g} s'
    if not code:
        return None
    for reason in _REASONS:
        if found := re.search(reason, text):
            return found[found.re.groups]
    return f'exit status {code}'


def _read_flags(output: int) -> NoReturn:
    """In the fork: has XLA read the flags; never returns."""
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        backend.get_compile_options(1, 1)
    finally:
        os._exit(0)
