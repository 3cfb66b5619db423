"""One line on what a JSON file of a run lacks: its name and what it must be."""

import copy
import json

import pytest

from mnemonics_jax.core import schema
from mnemonics_jax.core.workdir import read_records
from tests.made_runs import fill, make_records, make_results

GONE = object()


def changed(content, path, value):
    content = copy.deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    if value is GONE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return content


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
    """The content of a `config.json`."""
    workdir = fill(tmp_path_factory.mktemp('made') / 'run')
    return json.loads((workdir / 'config.json').read_text())


def line(check, content):
    with pytest.raises(ValueError) as caught:
        check(content)
    (found,) = str(caught.value).splitlines()
    return found


SETUPS = {
    ('config',): (GONE, 'config: missing'),
    ('plan',): (None, 'plan: must be names with values, not None'),
    ('plan', 'classes'): ('abc', "plan.classes: must be a list, not 'abc'"),
    ('plan', 'classes', 1): (3, 'plan.classes[1]: must be a string, not 3'),
    ('plan', 'bounds', 0, 1): (
        2.0,
        'plan.bounds[0]: must be a list of 2 integers >= 0, not [0, 2.0]',
    ),
    ('plan', 'mean', 0): (True, 'plan.mean[0]: must be a number, not True'),
    ('plan', 'slot_bytes'): ([], 'plan.slot_bytes: must be a number, not []'),
    ('config', 'method'): ([], 'config.method.name: missing'),
    ('config', 'method', 'name'): (GONE, 'config.method.name: missing'),
    ('config', 'seed'): ('0', "config.seed: must be an integer >= 0, not '0'"),
    ('versions',): (1, 'versions: must be names with values, not 1'),
    ('starts',): ({}, 'starts: must be a list, not {}'),
    ('images',): ({}, 'images.train: missing'),
}
RESULTS = {
    ('phases',): ([], 'phases: must be a list of at least one phase'),
    ('phases', 1): (None, 'phases[1]: must be names with values, not None'),
    ('phases', 2, 'num_seen'): (
        3,
        'phases[2].num_seen: must be an integer from 4 to 6, not 3',
    ),
    ('phases', 1, 'confusion', 'cnn', 0): (
        [1, 2],
        'phases[1].confusion.cnn: must be a square matrix of integers, not',
    ),
    ('phases', 1, 'confusion', 'nme'): (
        [[1]],
        'phases[1].confusion.nme: must have 4 rows',
    ),
    ('phases', 0, 'accuracy', 'nme'): (
        GONE,
        'phases[0].accuracy: must have cnn, finetuned, nme',
    ),
    ('phases', 0, 'seconds', 'total'): (GONE, 'phases[0].seconds.total: miss'),
    ('class_order', 0): (6, 'class_order: must be below 6'),
    ('predictor',): ('svm', 'predictor: must be a classifier of all phases'),
    ('forgetting', 'cnn'): (None, 'forgetting.cnn: must be a number, not None'),
}


@pytest.mark.parametrize('path', SETUPS, ids=lambda p: '.'.join(map(str, p)))
def test_a_configuration_is_refused_in_one_line(setup, path):
    schema.check_setup(setup)
    value, said = SETUPS[path]
    found = line(schema.check_setup, changed(setup, path, value))
    assert found.startswith(said)


@pytest.mark.parametrize('path', RESULTS, ids=lambda p: '.'.join(map(str, p)))
def test_results_are_refused_in_one_line(path):
    results = make_results()
    schema.check_results(results)
    value, said = RESULTS[path]
    found = line(schema.check_results, changed(results, path, value))
    assert found.startswith(said)


@pytest.mark.parametrize('content', [None, [], 1, 'text', True])
def test_other_json_is_refused_in_one_line(content):
    for check in (schema.check_setup, schema.check_results):
        said = f'must be names with values, not {content!r}'
        assert line(check, content) == said


def test_what_runs_write_has_the_form(saved_run):
    for name, check in (
        ('config.json', schema.check_setup),
        ('results.json', schema.check_results),
    ):
        schema.load(saved_run.workdir / name, check)
    path = saved_run.workdir / 'metrics.jsonl'
    assert len(read_records(path)) == len(path.read_text().splitlines()) > 10


@pytest.mark.parametrize(
    'bad', ['null', '[]', '{}', '1', '{"phase": 0', '\xff', '{"phase": null}']
)
def test_lines_that_are_no_records_are_left_out(tmp_path, bad):
    records = make_records(1)
    lines = [json.dumps(record) for record in records]
    lines[3:3] = [bad]
    (tmp_path / 'a').write_text('\n'.join(lines) + '\n', encoding='latin-1')
    assert read_records(tmp_path / 'a') == records
