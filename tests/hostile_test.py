"""Sixty tries of `benchmarks/hostile.py`: one line, or the same bits.

The script runs in a process of its own, since it forks one in which JAX is
imported but does not run. All tries: `python benchmarks/hostile.py`.
"""

import collections
import json
import pathlib
import subprocess
import sys

import compiling
import pytest

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent
SEED = 5
# Quick ones: less than a second each, as a rule.
NUMBERS = (
    *(0, 1, 2, 4, 5, 7, 11, 15, 16, 17, 20, 21, 23, 24, 26, 27, 28, 29, 33),
    *(37, 38, 41, 42, 43, 45, 46, 49, 50, 52, 54, 56, 57, 58, 61, 69, 71),
    *(74, 76, 77, 80, 84, 93, 94, 98, 99, 103, 105, 106, 110, 111, 113),
    *(116, 120, 123, 125, 128, 130, 134, 137, 140),
)
BAD = {'traceback', 'hang', 'silent difference'}


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    """What became of each try."""
    folder = tmp_path_factory.mktemp('hostile')
    done = subprocess.run(
        [
            sys.executable,
            'benchmarks/hostile.py',
            f'--seed={SEED}',
            f'--scratch={folder}/scratch',
            f'--out={folder}/table.json',
            '--only',
            *map(str, NUMBERS),
        ],
        cwd=ROOT,
        env=compiling.one_device(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    content = json.loads((folder / 'table.json').read_text())
    return content['rows']


def test_all_tries_were_done_and_none_ended_badly(rows):
    assert [row['number'] for row in rows] == list(NUMBERS)
    assert len(rows) == 60
    assert not [row for row in rows if row['outcome'] in BAD]


def test_each_kind_ended_as_it_is_to(rows):
    kinds = collections.Counter(row['kind'] for row in rows)
    assert kinds == {
        'configuration': 12,
        'damaged_file': 9,
        'field_value': 21,
        'image_folder': 8,
        'json_files': 8,
        'surroundings': 1,
        'two_at_once': 1,
    }
    lines = {row['number']: row['outcome'] == 'one line' for row in rows}
    others = [row['kind'] for row in rows if not lines[row['number']]]
    # A field whose extreme value is right; damage that changes nothing.
    assert set(others) == {'field_value', 'damaged_file', 'json_files'}
    assert others.count('field_value') == 1
