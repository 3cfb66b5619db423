"""Reads pickles of plain data and of integer arrays, and runs nothing else.

Unpickling may call any function that the file names. Here a file gets none of
Python's or NumPy's: each name that it may use stands for a small object of this
module, and an array is made at the end, from checked bytes.
"""

import io
import math
import pickle
from typing import Any, NoReturn

import numpy as np

_KINDS = ('u1', 'u2', 'u4', 'u8', 'i1', 'i2', 'i4', 'i8')
_ORDERS = ('|', '<', '>', '=')


class RefusedError(pickle.UnpicklingError):
    """A pickle has something other than plain data in it."""


def loads(data: bytes) -> Any:
    """The content of a pickle, without running what it names.

    Args:
        data: a pickle of any protocol, by Python 2 or 3.

    Returns:
        None, truth values, numbers, texts, bytes, and tuples, lists and dicts
        of them; integer arrays are `np.ndarray`. Strings of Python 2 are bytes.

    Raises:
        ValueError: the pickle is damaged, or has anything else in it.
    """
    try:
        return _finished(_Unpickler(io.BytesIO(data), encoding='bytes').load())
    except RefusedError as e:
        raise ValueError(' '.join(str(e).split())) from e
    except Exception as e:  # Damaged pickles raise a dozen types.
        reason = ' '.join(str(e).split()) or type(e).__name__
        raise ValueError(
            f'no pickle, or a damaged one ({reason}): must be as in the '
            "archive from CIFAR's page"
        ) from e


class _Immutable:
    """What a pickle cannot change: it may set attributes of what it names."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedError('changes what it may only call')


class _ArrayType(_Immutable):
    """In place of `numpy.ndarray`, which is named and never called."""

    __slots__ = ()


class _Dtype:
    """In place of `numpy.dtype`: a type of integers."""

    __slots__ = ('_name', '_order')

    def __init__(self, name: Any, *_: Any) -> None:
        self._name, self._order = _text(name).lstrip('|<>='), '|'
        if self._name not in _KINDS:
            raise RefusedError(
                f'an array of type {_text(name)!r}: must be of integers'
            )

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        if order not in _ORDERS:
            raise RefusedError(f'byte order {order!r}')
        self._order = order

    def made(self) -> np.dtype:
        return np.dtype(self._order + self._name)


class _Array:
    """In place of an array, until its state has come."""

    __slots__ = ('_state',)

    def __init__(self) -> None:
        self._state: tuple[Any, ...] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        self._state = (raw, dtype, shape, 'F' if is_fortran else 'C')

    def made(self) -> np.ndarray:
        if self._state is None:
            raise RefusedError('an array without content')
        return _array(*self._state)


class _NewArray(_Immutable):
    """In place of `numpy.core.multiarray._reconstruct`."""

    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _NewDtype(_Immutable):
    """In place of `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, name: Any, *_: Any) -> _Dtype:
        return _Dtype(name)


class _FromBuffer(_Immutable):
    """In place of `numpy.core.numeric._frombuffer`, of protocol 5."""

    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
        return _array(raw, dtype, shape, _text(order))


class _Scalar(_Immutable):
    """In place of `numpy.core.multiarray.scalar`: gives a Python integer."""

    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> int:
        return int(_array(raw, dtype, (1,), 'C')[0])


class _Encode(_Immutable):
    """In place of `_codecs.encode`: bytes in protocol 2 of Python 3."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = 'latin1') -> bytes:
        if type(text) is not str or _text(encoding) not in (
            'latin1',
            'latin-1',
        ):
            raise RefusedError(f'bytes as {_text(encoding)!r}')
        return text.encode('latin1')


class _Bytes(_Immutable):
    """In place of `bytes`, called for empty ones alone."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b''


_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')
_NUMERIC = ('numpy.core.numeric', 'numpy._core.numeric')
# What a pickle may name, and what it gets.
_ADMITTED = {
    ('numpy', 'ndarray'): _ArrayType(),
    ('numpy', 'dtype'): _NewDtype(),
    ('_codecs', 'encode'): _Encode(),
    ('__builtin__', 'bytes'): _Bytes(),
    ('builtins', 'bytes'): _Bytes(),
    **{(module, '_reconstruct'): _NewArray() for module in _MULTIARRAY},
    **{(module, 'scalar'): _Scalar() for module in _MULTIARRAY},
    **{(module, '_frombuffer'): _FromBuffer() for module in _NUMERIC},
}


class _Unpickler(pickle.Unpickler):
    """Admits the names of `_ADMITTED`, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """The object of this module that stands for a name."""
        if (module, name) not in _ADMITTED:
            raise RefusedError(
                f'names {module}.{name}, which is not run: must hold arrays of '
                'integers, numbers, texts, lists and dicts alone'
            )
        return _ADMITTED[module, name]


def _text(value: Any) -> str:
    """A name, which Python 2 stored as bytes."""
    return value.decode('latin1') if isinstance(value, bytes) else str(value)


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """An array from its bytes, of which it has exactly as many."""
    if not isinstance(dtype, _Dtype) or order not in ('C', 'F'):
        raise RefusedError('an array without a type')
    if not isinstance(shape, tuple) or not all(
        type(n) is int and n >= 0 for n in shape
    ):
        raise RefusedError(f'an array of shape {shape!r}')
    if isinstance(raw, str):
        raw = raw.encode('latin1')
    if not isinstance(raw, bytes | bytearray):
        raise RefusedError('an array without bytes')
    made = dtype.made()
    if len(raw) != math.prod(shape) * made.itemsize:
        raise RefusedError(f'{len(raw)} bytes in an array of shape {shape}')
    return np.frombuffer(raw, made).reshape(shape, order=order)  # type: ignore


def _finished(value: Any) -> Any:
    """The content with arrays in place of what stood for them."""
    if isinstance(value, _Array):
        return value.made()
    if isinstance(value, dict):
        return {_finished(k): _finished(v) for k, v in value.items()}
    if type(value) is list:
        # The labels of 50,000 images: a copy would only cost time.
        plain = all(type(v) in (int, bytes, str) for v in value)
        return value if plain else list(map(_finished, value))
    if isinstance(value, tuple):
        return tuple(map(_finished, value))
    if isinstance(value, _Immutable | _Dtype):
        raise RefusedError('a name in place of a value')
    return value
