"""What reads files and flags, given anything: a result, or one line."""

import copy
import functools
import io
import json
import pickle
import struct
import zipfile

import hypothesis
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from mnemonics_jax import config
from mnemonics_jax.config import parsing
from mnemonics_jax.config.fields import FIELDS
from mnemonics_jax.core import schema, workdir
from mnemonics_jax.data import class_order
from mnemonics_jax.data.sources import _plain_pickle, arrays

# The same examples each time; few, since the suite is to be short.
some = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 1e308, -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text()
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def result_or_line(call):
    """The result of a call, or None if it is refused in words."""
    try:
        return call()
    except ValueError as e:
        # Commands print it with its line ends, which a value may have, as
        # spaces.
        assert str(e).strip()
        return None


@some
@given(st.sampled_from(sorted(FIELDS)), SCALARS.map(str) | JSON.map(json.dumps))
def test_a_value_of_a_field_is_taken_or_refused_in_one_line(name, text):
    parser = parsing.Parser(flags.FlagValues())
    command = ['main', '--config=digits', f'--config.{name}={text}']

    def resolved():
        parser.parse(command)
        return config.resolve(parser.config, parser.given())

    found = result_or_line(resolved)
    if found is not None:
        rule = FIELDS[name].rule
        section, _, field = name.rpartition('.')
        value = found[section][field] if section else found[field]
        assert value is None or rule.holds(value)


@functools.cache
def valid(name):
    """A `config.json` or a `results.json`."""
    exemplars = {'per_class': 2, 'total': 0, 'strategy': 'none'}
    fields = {
        'backbone': {'name': 'convnet'},
        'data': {'source': 'digits'},
        'exemplars': {**exemplars, 'storage': 'uint8'},
        'method': {'name': 'lucir'},
        'protocol': {'base_classes': 1, 'phases': 1, 'class_order_seed': 0},
        'seed': 0,
    }
    if name == 'config.json':
        plan = {'classes': ['a', 'b'], 'bounds': [[0, 1], [1, 2]]}
        shape = {'image_shape': [8, 8, 1], 'mean': [0.1], 'std': [1]}
        return {'config': fields, 'plan': {**plan, **shape}}
    phases = [
        {
            'phase': i,
            'num_seen': i + 1,
            'accuracy': {'cnn': 1.0},
            'confusion': {'cnn': np.eye(i + 1, dtype=int).tolist()},
            'exemplars': {'count': 0, 'bytes': 0},
            'seconds': {'total': 1.0},
        }
        for i in range(2)
    ]
    return {
        'config': fields,
        'class_order': [0, 1],
        'class_names': ['a', 'b'],
        'predictor': 'cnn',
        'phases': phases,
    }


FILES = {
    'config.json': schema.check_setup,
    'results.json': schema.check_results,
}


@pytest.mark.parametrize('name', FILES)
@some
@given(st.data())
def test_a_json_file_has_its_form_or_is_refused_in_one_line(
    name, tmp_path_factory, data
):
    content = copy.deepcopy(valid(name))
    FILES[name](content)
    node, key = {'': content}, ''
    while isinstance(node[key], dict | list) and node[key]:
        if node[key] is not content and data.draw(st.booleans()):
            break
        node = node[key]
        names = list(node) if isinstance(node, dict) else range(len(node))
        key = data.draw(st.sampled_from(list(names)))
    node[key] = data.draw(JSON)
    result_or_line(lambda: FILES[name](content))
    path = tmp_path_factory.getbasetemp() / name
    text = json.dumps(content).encode()
    cut = data.draw(st.integers(0, len(text)))
    path.write_bytes(text[:cut] + data.draw(st.binary(max_size=4)))
    result_or_line(lambda: schema.load(path, FILES[name]))


def test_deep_json_is_refused_in_one_line(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text('[' * 100_000)
    assert result_or_line(lambda: schema.load(path, schema.check_setup)) is None


@some
@given(st.data())
def test_an_npz_file_is_read_or_refused_in_one_line(tmp_path_factory, data):
    """A header that says anything, and flipped or missing bytes."""
    header = {
        'descr': data.draw(
            st.sampled_from(['|u1', '<i8', '<f4', '|O', '|V9', 'x', '', [], 3])
        ),
        'fortran_order': data.draw(st.sampled_from([False, True, None, 0])),
        'shape': data.draw(
            st.lists(
                st.integers(-2, 9) | st.sampled_from([2**40, 2**62, 2**70]),
                max_size=5,
            ).map(tuple)
            | st.sampled_from([None, 'x', [2], (1.5,)])
        ),
    }
    text = data.draw(st.just(repr(header)) | st.text()).encode()
    member = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text) % 2**16) + text
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as zipped:
        zipped.writestr('x_train.npy', member + data.draw(st.binary()))
        zipped.writestr('y_train.npy', data.draw(st.binary()))
    content = bytearray(file.getvalue())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(
        st.sampled_from([0, 1, 128])
    )
    path = tmp_path_factory.getbasetemp() / 'drawn.npz'
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    options = {'dir': str(path), 'image_size': None, 'labels': None}
    assert result_or_line(lambda: arrays.make(options)) is None
    result_or_line(lambda: workdir.read_arrays(path))


@some
@given(st.binary() | st.text().map(str.encode))
def test_a_class_order_is_read_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / 'order.txt'
    path.write_bytes(text)
    names = result_or_line(lambda: class_order.read_names(str(path)))
    assert names is None or all(name == name.strip() != '' for name in names)
    found = result_or_line(
        lambda: class_order.read_order(str(path), ['a', 'b'])
    )
    assert found is None or sorted(found) == [0, 1]


@some
@given(JSON, st.integers(0, 5), st.data())
def test_a_pickle_is_plain_data_or_refused_in_one_line(value, protocol, data):
    batch = {b'data': np.arange(6, dtype=np.uint8), b'labels': [1], 'x': value}
    content = bytearray(pickle.dumps(batch, protocol=protocol))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    found = result_or_line(lambda: _plain_pickle.loads(bytes(content)))
    plain = (bool, int, float, str, bytes, tuple, list, dict, np.ndarray)
    assert found is None or isinstance(found, plain)
