"""What one process of several does when the others are lost or disagree.

Kept apart from `multihost`, which says who the others are.
"""

import atexit
import collections
import contextlib
import ctypes
import faulthandler
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnemonics_jax.core import cli

# Exit status of a process that ends because another one has ended.
LOST = 3
LOST_LINE = (
    'error: another process of this run has ended; its output says why. '
    'Rerun the command in all processes to resume'
)
# JAX's service ends every process with this text and its stack when one of them
# is gone. Other lines only announce it.
_FATAL = 'JAX distributed service detected fatal errors'
_BEFORE = (
    'coordination_service',
    'preemption_sync_manager',
    'GRPC error information',
    'grpc_status',
)
# What exchanges raise when they lose their peer, in gloo, NCCL and JAX's
# service.
_BROKEN = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Connection refused',
    'Socket closed',
    'Broken pipe',
    'Read error',
    'heartbeat',
    'coordination service',
    'CoordinationService',
    'NCCL operation',
)

# Variables that change how programs are compiled.
_COMPILER_FLAGS = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')
# Flags that may differ: where to dump, and the number of devices, which
# `check_devices` compares.
_OWN_FLAGS = ('--xla_dump_', '--xla_force_host_platform_device_count=')
# Settings of JAX on which programs and numbers depend.
_SETTINGS = (
    'jax_allow_f16_reductions',
    'jax_debug_infs',
    'jax_debug_nans',
    'jax_default_matmul_precision',
    'jax_default_prng_impl',
    'jax_disable_jit',
    'jax_disable_most_optimizations',
    'jax_enable_custom_prng',
    'jax_enable_x64',
    'jax_high_dynamic_range_gumbel',
    'jax_numpy_dtype_promotion',
    'jax_optimization_level',
    'jax_random_seed_offset',
    'jax_softmax_custom_jvp',
    'jax_threefry_partitionable',
    'jax_use_shardy_partitioner',
)

# How C++ begins a message; other lines belong to the one before.
_MESSAGE = re.compile(r'[EFIW]\d{4} ')

# Exit statuses of this process, of which the last counts.
_statuses: list[int] = []

Result = TypeVar('Result')
Described = Mapping[str, str]


def ends_after(
    seconds: float, line: str
) -> contextlib.AbstractContextManager[None]:
    """Ends this process with a line and status 2 if the block takes longer.

    For waiting in C++, which no signal of Python interrupts.
    """

    def end() -> None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
        os._exit(2)

    return cli.after(seconds, end)


def watch() -> Callable[[], None]:
    """From now on, losing another process is one line and status `LOST`.

    JAX's service aborts a process from C++, with pages on stderr, and takes no
    function of Python to call instead. So what C++ writes to stderr passes
    through a thread, which ends the process at the first of these lines.
    Python's own stderr stays as it is.

    Returns:
        A function that ends this, for a process that turns out to be alone.
    """
    before, own = sys.stderr, os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    sys.stderr = os.fdopen(own, 'w', buffering=1, errors='backslashreplace')
    if faulthandler.is_enabled():  # On the old one; absl does that.
        faulthandler.enable(sys.stderr)
    # Gives the thread the time to speak: sleep(SIGABRT), six seconds, after
    # which `abort` goes on. Also replaces the dump of all of Python's threads.
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    lines = os.fdopen(read, errors='replace')
    thread = threading.Thread(target=_pass_on, args=(lines,), daemon=True)
    thread.start()

    def finish() -> None:
        # JAX, which disconnects after this, may abort: see `note_status`.
        if not _statuses:
            os.dup2(own, 2)  # Closes the pipe, so that the thread ends.
            thread.join(1)

    def end() -> None:
        atexit.unregister(finish)
        finish()
        sys.stderr.close()
        sys.stderr = before
        libc.signal(signal.SIGABRT, None)  # The default.
        if faulthandler.is_enabled():
            faulthandler.disable()  # Else it would not handle SIGABRT again.
            faulthandler.enable(sys.stderr)

    atexit.register(finish)
    return end


def note_status(status: object) -> None:
    """Says that the work of this process is done, or has failed and said why.

    From then on the others may be gone. JAX waits for them nevertheless and
    aborts this process; it is to end with this status instead, and without
    another word.
    """
    if isinstance(status, int):
        _statuses.append(status)


def _pass_on(lines: IO[str]) -> None:
    known = False
    with lines:
        for line in lines:
            if _FATAL in line:
                if _statuses:
                    _end(_statuses[-1], '')
                end_lost()
            if not known or _MESSAGE.match(line):
                known = any(name in line for name in _BEFORE)
            if not known:
                with contextlib.suppress(OSError, ValueError):  # Closed.
                    sys.stderr.write(line)


def end_lost(why: str = '') -> NoReturn:
    """Ends this process at once: waiting for the others would abort it.

    Args:
        why: what was noticed, if it was an error of this process.
    """
    reason = f' ({" ".join(why.split())[:200]})' if why else ''
    _end(LOST, f'{LOST_LINE}{reason}\n')


def _end(status: int, line: str) -> NoReturn:
    for stream, text in ((sys.stderr, line), (sys.stdout, '')):
        with contextlib.suppress(OSError, ValueError):  # Closed.
            stream.write(text)
            stream.flush()
    os._exit(status)


def end_if_lost(error: BaseException) -> None:
    """Ends this process if an error means that another one is gone."""
    # JAX raises either, for the same loss.
    if (
        isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        and jax.process_count() > 1
        and any(text in str(error) for text in _BROKEN)
    ):
        end_lost(str(error))


def in_all(attempt: Callable[[], tuple[Result, Described]]) -> Result:
    """Does something in all processes, or in none.

    Args:
        attempt: returns the result and what must be equal in all processes,
            by name, in words.

    Raises:
        ValueError: `attempt` raised an error in another process, or what must
            be equal is not. An error of its own is raised again.
    """
    if jax.process_count() == 1:
        return attempt()[0]
    try:
        result, described = attempt()
    except Exception as e:
        # Else the others would wait for this process.
        _exchange({'error': str(e) or type(e).__name__, 'described': {}})
        raise
    everyone = _exchange({'error': '', 'described': dict(described)})
    if line := first_mistake(everyone) or disagreement(everyone):
        raise ValueError(line)
    return result


def check_devices() -> None:
    """Raises ValueError if processes have different numbers of devices.

    Each of them knows all devices; exchanges need as many in all.
    """
    counts = collections.Counter(d.process_index for d in jax.devices())
    for number, count in sorted(counts.items()):
        if count != counts[0]:
            raise ValueError(
                f'number of devices is {count} in process {number} and '
                f'{counts[0]} in process 0: must be equal in all {len(counts)} '
                'processes'
            )


def settings() -> dict[str, str]:
    """What of JAX must be equal before processes compute together.

    Else they exchange arrays of other shapes, or draw other numbers.
    """
    found = {
        name.upper(): str(getattr(jax.config, name, None)) for name in _SETTINGS
    }
    for name in _COMPILER_FLAGS:
        given = os.environ.get(name, '').split()
        kept = sorted(flag for flag in given if not flag.startswith(_OWN_FLAGS))
        found[name] = ' '.join(kept) or 'unset'
    return found


def first_mistake(everyone: list[dict[str, Any]]) -> str | None:
    """The error of the first process that has one, or None."""
    for number, each in enumerate(everyone):
        if each['error']:
            place = f'process {number}: ' if number else ''
            return f'{place}{each["error"]}'
    return None


def disagreement(everyone: list[dict[str, Any]]) -> str | None:
    """What differs between processes, by name, or None."""
    first = everyone[0]['described']
    for number, each in enumerate(everyone):
        other = each['described']
        parts = [
            f'{name} is {other.get(name, "missing")} in process {number} and '
            f'{first.get(name, "missing")} in process 0'
            for name in sorted({*first, *other})
            if first.get(name) != other.get(name)
        ]
        if parts:
            return (
                f'{"; ".join(parts)}: must be equal in all {len(everyone)} '
                'processes'
            )
    return None


def _exchange(mine: Any) -> list[Any]:
    """What every process gives, as JSON, in their order."""
    text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    with jax.disable_jit(False):  # Which is compared, too.
        sizes = multihost_utils.process_allgather(np.int32(len(text)))
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: len(text)] = text
        rows = multihost_utils.process_allgather(padded)
    pairs = zip(rows, sizes, strict=True)
    return [json.loads(bytes(row[:size])) for row, size in pairs]
