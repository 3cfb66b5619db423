"""Pickles of plain data and integer arrays: all else is refused."""

import pickle

import numpy as np
import pytest

from mnemonics_jax.data.sources import _plain_pickle

# Pickles by hand: the names stand for themselves.
REFUSED = {
    'system': b'cos\nsystem\n(S"exit 1"\ntR.',
    'system of protocol 4': b'\x80\x04\x8c\x02os\x8c\x06system\x93.',
    'eval': b'cbuiltins\neval\n(S"1"\ntR.',
    'a path through an admitted name': (
        b'\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.'
    ),
    'another codec': (
        b'c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.'
    ),
    'objects': b'cnumpy\ndtype\n(S"O8"\nI0\nI1\ntR.',
    # BUILD sets attributes of what has no `__setstate__`.
    'a changed function': b'cnumpy\ndtype\n}S"made"\nI1\nsb.',
    'a changed function by slots': (
        b'cnumpy.core.multiarray\n_reconstruct\n(N}S"x"\nI1\nstb.'
    ),
    'too many elements': (
        b'cnumpy.core.numeric\n_frombuffer\n(C\x01acnumpy\ndtype\n'
        b'(S"u1"\ntR(I9\ntS"C"\ntR.'
    ),
    'a bare name': b'cnumpy\ndtype\n.',
    'an array without content': (b'cnumpy.core.multiarray\n_reconstruct\n(tR.'),
    'a persistent object': b'Pname\n.',
    'nothing': b'',
    'half': pickle.dumps({b'data': list(range(99))}, 2)[:-20],
}


@pytest.mark.parametrize('name', REFUSED)
def test_nothing_but_data_comes_out_of_a_pickle(name):
    before = {
        key: type(value).__call__
        for key, value in _plain_pickle._ADMITTED.items()
        if callable(value)
    }
    with pytest.raises(ValueError):
        _plain_pickle.loads(REFUSED[name])
    for key, call in before.items():
        assert type(_plain_pickle._ADMITTED[key]).__call__ is call


def test_integer_arrays_of_every_order_come_out_as_they_were():
    arrays = [
        np.arange(6, dtype='>i8').reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.uint16).reshape(3, 2)),
        np.array(-7, np.int8),
        np.zeros((0, 3), np.uint8),
    ]
    plain = [b'', b'\xff', 'text', 1.5, None, True, 10**20, (1, [2])]
    for number in range(6):
        *found, others = _plain_pickle.loads(
            pickle.dumps([*arrays, plain], protocol=number)
        )
        assert others == plain
        for ours, theirs in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
